"""What replies are scored by: the section `align.rewards`. Imports no torch: parameters are checked in a moment."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from tasks.hashes import content_hash
from tasks.rlhf import verification
from tasks.rlhf.options import CHOICE, NotNegative, Options, Positive


class SandboxOptions(Options):
    """Limits on code of replies that the verifier `tests` runs; the others stand in tasks/adapters/sandbox.py."""

    seconds: Positive = 5.0  # of wall time, the start of Python included
    memory_mb: Annotated[int, Field(ge=64)] = 256  # of a process


class ConditioningOptions(Options):
    """Shares of the objectives that are said in the prompt: drawn anew for every prompt of a rollout."""

    vectors: list[dict[str, Annotated[float, Field(ge=0, le=1)]]] = Field(default_factory=list)  # each as likely
    dirichlet: Positive | None = None  # or its concentration: 1 is uniform, less is nearer to single objectives

    @model_validator(mode="after")
    def _one_distribution(self) -> Self:
        if bool(self.vectors) == (self.dirichlet is not None):
            raise ValueError("give either vectors or dirichlet")
        for vector in self.vectors:
            if abs(sum(vector.values()) - 1) > 1e-6 or any(
                abs(100 * x - round(100 * x)) > 1e-6 for x in vector.values()
            ):
                raise ValueError(f"vectors: {vector}: shares are hundredths that add up to 1")
        return self


class RewardsOptions(Options):
    """The score of a reply: the sum of what each source says of it, by its weight, less the penalties of the loop.

    The scores of the process reward model are those of steps: an algorithm may take each of them by itself.
    """

    learned: NotNegative = 1.0  # weight of the reward models; 0: none is loaded
    aggregate: Literal["mean", "min", "mean_minus_std"] = "mean"  # of an ensemble
    std_weight: Positive | None = None  # of mean_minus_std: standard deviations between members that are taken off
    heads: dict[str, float] = Field(default_factory=dict)  # weights of objectives; empty: as the model was trained
    outcome: NotNegative = 0.0  # weight of the outcome reward model: P(the final answer is right); 0: not loaded
    process: NotNegative = 0.0  # weight of the process reward model: P(right) of each step; 0: not loaded
    process_reply: Literal["min", "product", "last"] = "min"  # what its scores of steps make of a whole reply
    conditioning: ConditioningOptions | None = None  # the policy reads in its prompt by which weights it is scored
    verifier: NotNegative = 0.0  # weight of the verdict of a prompt's verifier, 0 to 1; 0: none is asked
    veto: bool = False  # by the reward models no reply that its verifier gives 0 scores above one that it gives more
    tables: dict[str, str] = Field(default_factory=dict)  # name that verifiers use: JSONL file in data/inputs
    sandbox: SandboxOptions = SandboxOptions()
    allow_unsandboxed: bool = False  # run code of replies even where it cannot be fenced in

    @property
    def solution_models(self) -> list[str]:
        """The models of the stage `solutions` that are asked."""
        return [name for name in ("outcome", "process") if getattr(self, name) > 0]

    @property
    def asks_verifiers(self) -> bool:
        return self.verifier > 0 or self.veto

    def changes(self) -> dict[str, Any]:
        """What differs from the default, as JSON."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @field_validator("std_weight")
    @classmethod
    def _of_mean_minus_std(cls, value: float | None, info: ValidationInfo) -> float | None:
        if (value is not None) != (info.data.get("aggregate") == "mean_minus_std"):
            raise ValueError("belongs to `aggregate: mean_minus_std`: give it there, and null elsewhere")
        return value

    @field_validator("tables")
    @classmethod
    def _in_inputs(cls, value: dict[str, str]) -> dict[str, str]:
        return {name: in_inputs(file) for name, file in value.items()}

    @field_validator("verifier")
    @classmethod
    def _something_scores(cls, value: float, info: ValidationInfo) -> float:
        if value == 0 and not any(info.data.get(name) for name in ("learned", "outcome", "process")):
            raise ValueError(
                "learned, outcome and process are 0, too: nothing scores a reply; give one of them a weight"
            )
        return value

    @field_validator("process_reply")
    @classmethod
    def _of_process(cls, value: str, info: ValidationInfo) -> str:
        if value != "min" and info.data.get("process") == 0:
            raise ValueError("concerns the process reward model, and process = 0 asks none; leave it at its default")
        return value

    @field_validator("conditioning")
    @classmethod
    def _weighs_alone(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and info.data.get("heads"):
            raise ValueError("draws the weights of the heads, and heads fixes them; leave one of them out")
        return value

    @field_validator("aggregate", "heads", "conditioning", "veto")
    @classmethod
    def _of_reward_models(cls, value: object, info: ValidationInfo) -> object:
        if info.data.get("learned") == 0 and value not in ("mean", {}, None, False):
            raise ValueError("concerns the reward models, and learned = 0 asks none; leave it at its default")
        return value

    @field_validator("tables")
    @classmethod
    def _of_verifiers(cls, value: object, info: ValidationInfo) -> object:
        asked = info.data.get("verifier") or info.data.get("veto")
        if not asked and value != {}:
            raise ValueError("concerns verifiers, and verifier = 0 asks none; leave it at its default")
        return value


def in_inputs(file: str) -> str:
    """The path of a table, relative to data/inputs; ValueError for one that leads out of it."""
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or path.suffix != ".jsonl":
        raise ValueError(f"{file!r} must be the path of a .jsonl file inside data/inputs")
    return file


def check_against(
    options: RewardsOptions, members: Sequence[int], objectives: Mapping[str, float], solutions: Sequence[str]
) -> None:
    """ValueError where the sections `reward` and `solutions` train other models than the options are about."""
    for name in options.solution_models:
        if name not in solutions:
            raise ValueError(
                f"params.yaml: align.rewards.{name} = {getattr(options, name):g}: no such model is trained; add {name} "
                f"to solutions.train, which is {list(solutions)}"
            )
    if options.aggregate != "mean" and len(members) < 2:
        raise ValueError(
            f"params.yaml: align.rewards.aggregate = {options.aggregate!r}: compares the members of an ensemble, and "
            f"reward.members = {list(members)}"
        )
    if options.heads and options.heads.keys() != (objectives or {CHOICE: 1.0}).keys():
        raise ValueError(
            f"params.yaml: align.rewards.heads = {options.heads}: must name the heads of reward.objectives, which are "
            f"{', '.join(objectives or [CHOICE])}"
        )


def check_conditioning(options: RewardsOptions, algorithm: str, family: str, objectives: Mapping[str, float]) -> None:
    """ValueError where the policy is to be conditioned on what nothing scores it by."""
    if options.conditioning is None:
        return
    if family != "policy":
        raise ValueError(
            f"params.yaml: align.rewards.conditioning: {algorithm} learns from fixed pairs, which nothing scores by "
            "drawn weights; set it to null, or align.algorithm to one of tasks/rlhf/policy"
        )
    if len(objectives) < 2 or min(objectives.values()) < 0:
        raise ValueError(
            f"params.yaml: align.rewards.conditioning: weighs the heads of reward.objectives = {dict(objectives)}; "
            "give two or more with weights above 0, or set it to null"
        )
    for vector in options.conditioning.vectors:
        if vector.keys() != objectives.keys():
            raise ValueError(
                f"params.yaml: align.rewards.conditioning.vectors: {vector} must name the heads of reward.objectives, "
                f"which are {', '.join(objectives)}"
            )


def decides(options: RewardsOptions, inputs: Path) -> dict[str, Any]:
    """What else than the reward models decides a score, for data/objective.json; nothing where all is the default."""
    if not (changes := options.changes()):
        return {}
    files = verification.files() if options.asks_verifiers else {}
    return {
        "options": changes,
        "verifiers": {kind: content_hash(file) for kind, file in files.items()},
        "tables": {name: content_hash(inputs / file) for name, file in options.tables.items()},
    }
