"""Finding an algorithm by the name of its file: `preference/` learns from fixed pairs, `policy/` from rollouts.

A preference algorithm defines `Config`, `NEEDS_REFERENCE` and `loss`, and `UNPAIRED = True` where its loop is
train_on_feedback.py (replies judged one by one) instead of train_on_pairs.py; a policy algorithm `Config`,
`NEEDS_CRITIC`, `NEEDS_KL`, `MIN_REPLIES` (to a prompt), `advantages` and `loss` (and `value_loss` with a critic). One
that can use scores of steps says so: `STEP_SCORES` is "each" (it finds them in the rollout, on the steps' last tokens)
or "reply" (what `align.rewards.process_reply` makes of them is a part of the reply's score).
There is no registry: a new file is a new algorithm.
"""

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from tasks.rlhf.options import CriticOptions, PreferenceOptions, RolloutOptions
from tasks.rlhf.rewards_options import RewardsOptions

FAMILIES = ("preference", "policy")


@dataclass(frozen=True)
class Algorithm:
    name: str
    family: str
    module: ModuleType
    config: Any  # the module's Config
    options: Any  # the Options of the family's loop

    @property
    def unpaired(self) -> bool:
        return bool(getattr(self.module, "UNPAIRED", False))


def find(name: str) -> tuple[str, Path]:
    """(family, file) of an algorithm; ValueError lists the known ones."""
    here = Path(__file__).parent
    for family in FAMILIES:
        file = here / family / f"{name}.py"
        if name in known() and file.is_file():
            return family, file
    raise ValueError(f"params.yaml: align.algorithm = {name!r}: no such file; known: {', '.join(sorted(known()))}")


def known() -> set[str]:
    """The names of all algorithms."""
    return {file.stem for family in FAMILIES for file in (Path(__file__).parent / family).glob("[a-z]*.py")}


def load(name: str, section: dict[str, Any]) -> Algorithm:
    """The algorithm with its section of the parameters split into its own Config and its loop's Options.

    A key that neither knows, or a value of the wrong kind, is a ValueError naming `align.<name>.<key>`.
    """
    family, _ = find(name)
    if not isinstance(section, dict):
        raise ValueError(f"params.yaml: align.{name} = {section!r}: give a mapping of options")
    module = importlib.import_module(f"tasks.rlhf.{family}.{name}")
    own = {field.name for field in fields(module.Config)}
    kind = _loop_options(family, module)
    if unknown := [key for key in section if key not in own | kind.model_fields.keys()]:
        keys, value = ", ".join(sorted(own | kind.model_fields.keys())), section[unknown[0]]
        raise ValueError(f"params.yaml: align.{name}.{unknown[0]} = {value!r}: unknown key; known: {keys}")
    config = _parse(module.Config, {k: v for k, v in section.items() if k in own}, name)
    options = _parse(kind, {k: v for k, v in section.items() if k not in own}, name)
    if family == "policy":
        _check_needs(module, options, name)
    return Algorithm(name, family, module, config, options)


def check_step_scores(name: str, rewards: RewardsOptions, tools: Sequence[str] = ()) -> None:
    """ValueError where `align.rewards.process` asks for scores of steps that algorithm or tools cannot use."""
    if rewards.process == 0:
        return
    key = f"params.yaml: align.rewards.process = {rewards.process:g}"
    able = [each for each in sorted(known()) if step_scores(each)]
    if name not in able:
        raise ValueError(f"{key}: {name} cannot use scores of steps; set it to 0, or choose one of {', '.join(able)}")
    if rewards.process_reply != "min" and step_scores(name) == "each":
        raise ValueError(
            f"params.yaml: align.rewards.process_reply = {rewards.process_reply!r}: {name} takes the score of each "
            "step by itself; leave it at its default"
        )
    if tools:
        raise ValueError(f"{key}: what a tool says is no step of the policy's; set it to 0, or align.tools.names to []")


def step_scores(name: str) -> str | None:
    """How an algorithm uses scores of steps: "each" or "reply"; None: not at all."""
    family, _ = find(name)
    found: str | None = getattr(importlib.import_module(f"tasks.rlhf.{family}.{name}"), "STEP_SCORES", None)
    return found


def _loop_options(family: str, module: ModuleType) -> type[Any]:
    if family == "preference":
        return PreferenceOptions
    return CriticOptions if module.NEEDS_CRITIC else RolloutOptions


def _check_needs(module: ModuleType, options: RolloutOptions, name: str) -> None:
    if options.replies_per_prompt < module.MIN_REPLIES:
        raise ValueError(
            f"params.yaml: align.{name}.replies_per_prompt = {options.replies_per_prompt}: {name} compares replies to "
            f"the same prompt; give at least {module.MIN_REPLIES}"
        )
    if module.NEEDS_KL and not options.kl:
        raise ValueError(f"params.yaml: align.{name}.kl = off: {name} learns only through its KL term; remove it")


def _parse(kind: type[Any], values: dict[str, Any], name: str) -> Any:
    hints = get_type_hints(kind)
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"params.yaml: align.{name}.{key} = {value}: give a finite number")
        if isinstance(value, bool) and hints[key] in (int, float, int | None, float | None):  # true would be 1
            raise ValueError(f"params.yaml: align.{name}.{key} = {value!r}: give a number")
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            key = ".".join(["align", name, *(str(part) for part in problem["loc"])])
            if problem["type"] == "value_error":  # of keys that contradict each other: the message names them
                lines.append(f"params.yaml: {key}.{problem['ctx']['error']}")
                continue
            if problem["type"] == "missing":
                lines.append(f"params.yaml: {key}: missing, and it has no default; add it")
                continue
            lines.append(f"params.yaml: {key} = {problem['input']!r}: {problem['msg']}")
        raise ValueError("\n".join(lines)) from None
