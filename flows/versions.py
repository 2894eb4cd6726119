"""versions: the data about to be trained on, held against that of the last registered version.

The reference is a copy of what `validate` and `prepare` said of that version, outside DVC: a stage that depended on it
would run again whenever a version is registered (infra/decisions/0018-holds.md).
"""

import json
from pathlib import Path
from typing import Any

from tasks.adapters import stage
from tasks.adapters.execution import StageError
from tasks.adapters.workspace import Workspace
from tasks.preferences import bounds
from tasks.preferences.hold import Hold

REPORTS = ("validate", "prepare")


def remember(space: Workspace) -> None:
    """The present data is that of a registered version from now on."""
    found = {name: _read(space.data / f"reports/{name}.json") for name in REPORTS}
    if all(found.values()):
        stage.write_json(_path(space), found)


def check(space: Workspace) -> None:
    """Raises StageError (status HELD) where a hold stands that nobody released."""
    now, before = {name: _read(space.data / f"reports/{name}.json") for name in REPORTS}, _read(_path(space))
    if not all(now.values()) or not before:
        return
    params = stage.read_yaml(space.root / stage.PARAMS).get("validate") or {}
    options = bounds.HoldOptions(**(params.get("holds") or {}))
    holds = bounds.compare(now["validate"]["metrics"], before["validate"]["metrics"], options)
    shares = [report["prepare"]["params"]["folds"]["test"] for report in (before, now)]
    if shares[0] != shares[1]:
        text = f"folds.test was {shares[0]:g}: rows moved between training and test"
        holds.append(("prompts", Hold("eval_split", shares[1], shares[0], text)))
    hashes = {path.removeprefix("raw/"): sha256 for path, sha256 in now["validate"]["inputs"].items()}
    standing = bounds.unreleased(holds, hashes, bounds.releases(space.data))
    if standing:
        message = "; ".join(bounds.sentence(dataset, hold) for dataset, hold in standing)
        raise StageError("validate", stage.HELD, message)


def _path(space: Workspace) -> Path:
    return space.data / "runs/register/data.json"


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return document
