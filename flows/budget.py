"""The budget of params.yaml: a run that is estimated above it is refused before anything trains.

No stage reads the section, so that it enters no hash of DVC.
"""

from collections.abc import Sequence
from pathlib import Path

from flows import costs
from flows.costs import Plan
from tasks.adapters import stage
from tasks.rlhf.hardware import GB
from tasks.rlhf.options import Positive


class Budget(stage.Params):
    max_hours: Positive | None = None  # of the stages that have to run
    max_memory_gb: Positive | None = None  # of the fullest of them


def read(path: Path) -> Budget:
    budget: Budget = stage.read_params(Budget, "budget", path)
    return budget


def check(root: Path, stages: Sequence[str]) -> None:
    """ValueError where these stages, with the parameters in `root`, would exceed their budget on this machine."""
    path = root / stage.PARAMS
    budget = read(path)
    if budget.max_hours is None and budget.max_memory_gb is None:
        return
    plan = Plan(path, root / "data", *costs.hardware(None))
    works = [work for work in plan.works if work.stage in stages]
    hours = {work.stage: plan.seconds(work) / 3600 for work in works}
    memory = {work.stage: plan.peak_bytes(work) / GB for work in works}
    if budget.max_hours is not None and sum(hours.values()) > budget.max_hours:
        most = max(hours, key=lambda name: hours[name])
        _refuse(
            f"max_hours = {budget.max_hours:g}",
            f"{sum(hours.values()):.3g} h on {plan.hardware.name}, {hours[most]:.3g} h of them for {most}",
        )
    if budget.max_memory_gb is not None and works and max(memory.values()) > budget.max_memory_gb:
        most = max(memory, key=lambda name: memory[name])
        _refuse(
            f"max_memory_gb = {budget.max_memory_gb:g}", f"{memory[most]:.3g} GB on {plan.hardware.name}, for {most}"
        )


def _refuse(limit: str, estimate: str) -> None:
    raise ValueError(
        f"params.yaml: budget.{limit}: this run is estimated to take {estimate}; nothing was trained: raise it, or ask "
        "less of that stage (`make estimate` says what each takes)"
    )
