"""Shards too small to be judged alone, judged together: what drips in is seen once it has come to something.

A block is what arrived in a row of such shards. It is looked at as it grows past each of LOOKS, and ends with the last
one, so that looks do not multiply; a release ends it as well, for a person has looked at it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.preferences import shard_index
from tasks.records import DATASETS

LOOKS = (50, 100, 200, 400)  # decided comparisons of a block, or replies
NOTE = "unjudged"  # in the index: how many of them a shard has, which are too few
_NAMED = 12  # shards in a line

Entry = dict[str, Any]


def waiting(data: Path, dataset: str) -> list[Entry]:
    """The accepted shards that are to be judged together with the next small one, as the index has them."""
    block: list[Entry] = []
    for entry in shard_index.read(data / "shards" / "index.json"):
        if NOTE in entry and entry["dataset"] == dataset:
            block = [] if "released" in entry or size(block) + entry[NOTE] >= LOOKS[-1] else [*block, entry]
    return block


def size(block: Sequence[Entry]) -> int:
    return sum(entry[NOTE] for entry in block)


def is_due(before: int, after: int) -> bool:
    return any(before < look <= after for look in LOOKS)


def rows(data: Path, block: Sequence[Entry]) -> list[dict[str, Any]]:
    """Their rows, each once. Raises FileNotFoundError where some are not here."""
    found: dict[str, dict[str, Any]] = {}
    for entry in block:
        path = data / "shards" / "rows" / f"{entry['sha256']}.jsonl"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: listed in the index but missing; fetch it with `dvc pull`")
        with path.open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                found.setdefault(row["id"], vars(DATASETS[entry["dataset"]](**row)))
    return list(found.values())


def said(data: Path, block: Sequence[Entry]) -> str:
    """Which shards a hold is about that are in already, and how to take them back."""
    names = [entry["sha256"][:12] for entry in block]
    more = f" and {len(names) - _NAMED} more (`block` in hold.json)" if len(names) > _NAMED else ""
    return (
        f", judged together with the {len(names)} small shards before it, which are in already: "
        f"{' '.join(names[:_NAMED])}{more}; to take one back, remove its entry from {data / 'shards/index.json'}"
    )
