"""The raters of a workspace: stored votes, the simulated truth where there is one, what raters say of themselves."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tasks.preferences import ceiling, rater_groups, raters, votes
from tasks.preferences.rater_options import RaterOptions, Weighting
from tasks.preferences.raters import Judgement
from tasks.shelf import Shelf
from tasks.world import WorldParams


def judge(
    data: Path,
    options: RaterOptions,
    weighting: Weighting,
    world: WorldParams | None,
    seed: int,
    shelf: Shelf | None = None,
) -> Judgement:
    """Of data/raw/preferences, whose votes may be kept, and of what was refused; with groups in its report.

    Raises ValueError or FileNotFoundError as its parts do.
    """
    folder = data / "raw/preferences"
    stored = votes.read(folder, shelf)
    contradicted = contradictions(data / "quarantine")
    judged = raters.judge(stored, options, weighting, ceiling.of_world(folder, world, seed), contradicted)
    judged.report["groups"] = _groups(stored, options, data / "inputs")
    return judged


def contradictions(quarantine: Path) -> Counter[str]:
    """How many rows of each rater were refused because another one of theirs says otherwise."""
    found: Counter[str] = Counter()
    for path in sorted(quarantine.glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            rows = (json.loads(line) for line in lines if '"self_contradiction"' in line)
            found.update(row["rater"] for row in rows if row["reason"] == "self_contradiction" and row["rater"])
    return found


def _groups(stored: votes.Votes, options: RaterOptions, inputs: Path) -> dict[str, Any]:
    if options.attributes is None:
        return {}
    path = inputs / options.attributes
    if not path.resolve().is_relative_to(inputs.resolve()):
        raise ValueError(f"prepare.raters.attributes: {options.attributes!r} lies outside {inputs}; copy it there")
    return rater_groups.compare(stored, rater_groups.read(path), options.min_group)
