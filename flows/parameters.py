"""Check all of params.yaml before any stage runs: `python -m flows.parameters [STAGE ...]`, in the project's folder.

A stage checks its own section when it starts; a misspelt key of `align` would so be found after an hour of SFT. The
stages named, those that are to run, are held against the budget.
"""

import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tasks.adapters import stage
from tasks.adapters.execution import Warm
from tasks.adapters.graph import Step
from tasks.adapters.warm import ADDRESS, FORKED
from tasks.files import parse_yaml


def checked(root: Path, steps: Sequence[Step], warm: Warm | None) -> None:
    """Find a wrong parameter of any stage, and a budget exceeded by those to run, before the first one runs.

    In a process of its own, for it imports torch; once for a text and the stages to run.
    """
    changed = tuple(step.name for step in steps if step.changed)
    if changed and is_ours(root):
        _checked(root, (root / "params.yaml").read_text(encoding="utf-8"), changed, warm)


def is_ours(root: Path) -> bool:
    """False for a pipeline with other stages."""
    return "python -m tasks.align" in (root / "dvc.yaml").read_text(encoding="utf-8")


@cache
def _checked(root: Path, text: str, changed: tuple[str, ...], warm: Warm | None) -> None:
    command = [sys.executable, "-m", *(() if warm is None else (FORKED,)), "flows.parameters", *changed]
    environment = os.environ | ({} if warm is None else {ADDRESS: warm.light.address})
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr.strip().removeprefix("error: "))


def check(root: Path) -> None:
    """ValueError with a line per problem in `root`/params.yaml."""
    from flows import budget

    path = root / stage.PARAMS
    stages = parse_yaml((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    problems = []
    try:
        budget.read(path)
    except ValueError as error:
        problems.append(str(error))
    for name in stages:
        try:
            stage.read_params(importlib.import_module(f"tasks.{name}").Params, name, path)
        except ValueError as error:
            problems.append(str(error))
    if not problems:
        from tasks import align as align_stage
        from tasks import objective
        from tasks.rlhf import algorithms

        document = stage.read_yaml(path)
        align = document["align"]
        try:
            params = stage.read_params(align_stage.Params, "align", path)
            asked = (params.rewards, params.tools, params.generation, params.one_base)
            objective.check(params.algorithm, *asked, document["reward"], document["solutions"])
        except ValueError as error:
            problems.append(str(error))
        most = document["model"]["max_length"]
        for name in ("collect", "align", "evaluate"):
            if (new := document[name]["max_new_tokens"]) >= most:
                room = f"leaves no room for a prompt in model.max_length = {most}; lower it"
                problems.append(f"params.yaml: {name}.max_new_tokens = {new}: {room}")
        for name in dict.fromkeys([align["algorithm"], *sorted(align.keys() & algorithms.known())]):
            try:
                algorithms.load(name, align.get(name) or {})
            except ValueError as error:
                problems.append(str(error))
    if problems:
        raise ValueError("\n".join(dict.fromkeys(problems)))


def main() -> None:
    from flows import budget  # which imports torch

    try:
        check(Path())
        budget.check(Path(), sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
