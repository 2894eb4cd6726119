"""Looks at the sealed fold, as data/sealed_looks.json keeps them in git: every one wears it out."""

import json
from pathlib import Path
from typing import Any

FILE = "sealed_looks.json"
Look = dict[str, Any]  # workspace, by, reason, at, version, policy (its hash), sealed (that of the fold)


def read(path: Path) -> list[Look]:
    """All looks, the oldest first; none where there is no file. Raises ValueError for a torn one."""
    if not path.is_file():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["looks"]
        return [{**each, **{key: each[key] for key in ("workspace", "by", "reason", "at")}} for each in found]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a list of looks ({error!r}); restore it with git") from None


def said(looks: list[Look]) -> list[str]:
    """A line per workspace that was looked at: how often, and the last time."""
    lines = []
    for workspace in dict.fromkeys(look["workspace"] for look in looks):
        own = [look for look in looks if look["workspace"] == workspace]
        last = own[-1]
        lines.append(f"{workspace}: seen {times(len(own))}, last by {last['by']} at {last['at']} ({last['reason']})")
    return lines


def times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
