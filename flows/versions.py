"""versions: the data about to be trained on, held against that of the last registered version.

The reference is a copy of what `validate`, `prepare` and `card` said of that version, outside DVC: a stage that
depended on it would run again whenever a version is registered (infra/decisions/0018-holds.md).
"""

import json
from pathlib import Path
from typing import Any

from tasks.adapters import stage
from tasks.adapters.execution import StageError
from tasks.adapters.workspace import Workspace
from tasks.files import write_json
from tasks.preferences import bounds, drift
from tasks.preferences.hold import Hold

REPORTS = ("validate", "prepare")
DRIFT = "runs/drift.json"
HELD_OUT = ("test", "sealed")  # folds that results are comparable by


def remember(space: Workspace) -> None:
    """The present data is that of a registered version from now on."""
    found = {name: _read(space.data / f"reports/{name}.json") for name in REPORTS}
    if all(found.values()):
        write_json(_path(space), found | {"card": _card(space)})


def moved(space: Workspace) -> list[dict[str, Any]]:
    """How the data differs from that of the last registered version (`drift.since`); written to data/runs, too."""
    now, before = _card(space), _read(_path(space)).get("card")
    found = drift.since(now, before) if now and before else []
    write_json(space.data / DRIFT, {"since_the_last_registered_version": found})
    return found


def check(space: Workspace) -> None:
    """Raises StageError (status HELD) where a hold stands that nobody released."""
    now, before = {name: _read(space.data / f"reports/{name}.json") for name in REPORTS}, _read(_path(space))
    if not all(now.values()) or not before:
        return
    options = stage.read_part(bounds.HoldOptions, "validate.holds", space.root / stage.PARAMS)
    holds = bounds.compare(now["validate"]["metrics"], before["validate"]["metrics"], options)
    old, new = ([report["prepare"]["params"]["folds"][fold] for fold in HELD_OUT] for report in (before, now))
    for fold, was, share in zip(HELD_OUT, old, new, strict=True):
        if was != share:
            text = f"folds.{fold} was {was:g}: rows moved between training and what it is measured by"
            holds.append(("prompts", Hold("eval_split", share, was, text)))
    hashes = {path.removeprefix("raw/"): sha256 for path, sha256 in now["validate"]["inputs"].items()}
    standing = bounds.unreleased(holds, hashes, bounds.releases(space.data))
    if standing:
        message = "; ".join(bounds.sentence(dataset, hold) for dataset, hold in standing)
        raise StageError("validate", stage.HELD, message)


def _card(space: Workspace) -> dict[str, Any]:
    """What drift is measured by; nothing where there is no card."""
    metrics = _read(space.data / "reports/card.json").get("metrics", {})
    return {name: metrics[name] for name in ("datasets", "holds") if name in metrics}


def _path(space: Workspace) -> Path:
    return space.data / "runs/register/data.json"


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return document
