"""What a change of rules did: the quarantine of this run beside that of the run before.

Every run judges every row again, refused ones too. What a row was refused for in the last run is kept outside the
versioned data, so that the stage's outputs depend on its inputs alone; without it there is nothing to compare.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tasks.files import write_json

_Verdicts = dict[tuple[int, str], tuple[str, str]]  # (line, sha256) of a row: reason, version of the rule


@dataclass
class Difference:
    """Rows of sources that both runs read."""

    key: list[str]  # of the rules, before and now (`Rules.key`)
    versions: list[list[str]]  # of the rules by which rows were refused, before and now
    reasons: dict[str, list[int]] = field(default_factory=dict)  # how many rows, before and now
    came_back: Counter[str] = field(default_factory=Counter)  # accepted now, by the reason of before
    newly_refused: Counter[str] = field(default_factory=Counter)
    other_reason: Counter[str] = field(default_factory=Counter)  # "before -> now"

    @property
    def is_empty(self) -> bool:
        return not (self.came_back or self.newly_refused or self.other_reason)

    @property
    def text(self) -> str:
        back, new = (_counts(counter) for counter in (self.came_back, self.newly_refused))
        return f"judged again: {back} came back, {new} newly refused, {self.other_reason.total()} for another reason"


def report(runs: Path, quarantine: Path, key: str, inputs: Mapping[str, str]) -> str | None:
    """Write runs/rejudged.json where something changed, and say it in a line; see `compare`."""
    found = compare(runs / "judged", quarantine, key, inputs)
    if found is None or found.is_empty:
        return None
    target = runs / "rejudged.json"
    write_json(target, {**vars(found), "text": found.text})
    return f"{found.text}; {target}"


def compare(kept: Path, quarantine: Path, key: str, inputs: Mapping[str, str]) -> Difference | None:
    """Compare with the run before, and keep this one in `kept` for the next; None where none is kept.

    inputs: what identifies the content of a source, by its name; one that changed is not compared.
    """
    now = {path.stem: _read(path) for path in sorted(quarantine.glob("*.jsonl"))}
    found = _difference(kept, now, key, inputs) if (kept / "run.json").is_file() else None
    unfinished = kept.with_suffix(f".{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(quarantine, unfinished / "quarantine")
    (unfinished / "run.json").write_text(json.dumps({"key": key, "inputs": dict(inputs)}), encoding="utf-8")
    shutil.rmtree(kept, ignore_errors=True)
    unfinished.replace(kept)
    return found


def _difference(kept: Path, now: dict[str, _Verdicts], key: str, inputs: Mapping[str, str]) -> Difference:
    last = json.loads((kept / "run.json").read_text(encoding="utf-8"))
    same = [name for name, content in inputs.items() if last["inputs"].get(name) == content]
    sides = (
        {name: _read(path) if (path := kept / "quarantine" / f"{name}.jsonl").is_file() else {} for name in same},
        {name: now.get(name, {}) for name in same},
    )
    reasons = [Counter(reason for rows in side.values() for reason, _ in rows.values()) for side in sides]
    versions = [sorted({version for rows in side.values() for _, version in rows.values()}) for side in sides]
    found = Difference([last["key"], key], versions)
    found.reasons = {reason: [side[reason] for side in reasons] for reason in sorted(reasons[0] | reasons[1])}
    for name in same:
        before, after = (side[name] for side in sides)
        for row in before.keys() | after.keys():
            _note(found, before.get(row, ("", ""))[0], after.get(row, ("", ""))[0])
    return found


def _note(found: Difference, before: str, after: str) -> None:
    if before and not after:
        found.came_back[before] += 1
    elif after and not before:
        found.newly_refused[after] += 1
    elif before != after:
        found.other_reason[f"{before} -> {after}"] += 1


def _read(path: Path) -> _Verdicts:
    with path.open(encoding="utf-8") as lines:
        rows = (json.loads(line) for line in lines)
        return {(row["line"], row["sha256"]): (row["reason"], row["rule_version"]) for row in rows}


def _counts(reasons: Counter[str]) -> str:
    listed = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    return f"{reasons.total()} rows" + (f" ({listed})" if listed else "")
