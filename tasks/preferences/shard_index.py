"""data/shards/index.json: the accepted shards in order of arrival, an entry each (infra/decisions/0005-shards.md)."""

import json
from pathlib import Path
from typing import Any


def read(index: Path) -> list[dict[str, Any]]:
    """The entries; none where there is no index yet. Raises ValueError where it is none."""
    try:
        shards = json.loads(index.read_text(encoding="utf-8"))["shards"]
        return [{**s, "dataset": s["dataset"], "rows": s["rows"], "sha256": s["sha256"]} for s in shards]
    except FileNotFoundError:
        return []
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{index}: not an index of shards ({error!r}); restore it with git") from None
