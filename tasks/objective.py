"""objective: say what align will optimise: the algorithm's file and, where it learns from rewards, the reward models.

reads   data/models/reward/<member, outcome or process>
        data/inputs, where verifiers look things up
writes  data/objective.json

align depends on this file instead of on the reward models, so that a change of a reward model re-runs an algorithm
that learns from it and leaves alone one that does not (DPO and kin). See infra/decisions/0002-objective-stage.md.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.adapters import stage
from tasks.adapters.telemetry import FileTracker
from tasks.files import write_json
from tasks.hashes import content_hash
from tasks.rlhf.generation_options import GenerationOptions
from tasks.rlhf.rewards_options import RewardsOptions, check_against, check_conditioning, decides
from tasks.rlhf.tool_options import ToolsOptions


class Params(stage.Params):
    """No section of its own: it reads those of `align`, `reward` and `solutions`."""

    align: dict[str, Any]
    reward: dict[str, Any]
    solutions: dict[str, Any]


def run(params: Params, data: Path, tracker: FileTracker) -> dict[str, Any]:
    from tasks.rlhf import algorithms

    family, file = algorithms.find(params.align["algorithm"])
    options: RewardsOptions = _section(params.align, "rewards", RewardsOptions)
    tools: ToolsOptions = _section(params.align, "tools", ToolsOptions)
    generation: GenerationOptions = _section(params.align, "generation", GenerationOptions)
    one_base = bool(params.align.get("one_base"))
    check(params.align["algorithm"], options, tools, generation, one_base, params.reward, params.solutions)
    learns_from_rewards = family == "policy"
    members = [*(params.reward["members"] if options.learned > 0 else []), *options.solution_models]
    members = members if learns_from_rewards else []
    objective = {
        "algorithm": params.align["algorithm"],
        "family": family,
        "algorithm_sha256": content_hash(file),
        "rewards": {str(k): content_hash(data / f"models/reward/{k}") for k in members},
    }
    if learns_from_rewards:
        objective |= decides(options, data / "inputs") | tools.decide(data / "inputs") | generation.decide()
    write_json(data / "objective.json", objective)
    (data / "models/reward").mkdir(parents=True, exist_ok=True)  # its hash is reported, where nothing trained one, too
    return {"num_reward_models": len(members)}


def check(
    algorithm: str,
    rewards: RewardsOptions,
    tools: ToolsOptions,
    generation: GenerationOptions,
    one_base: bool,
    reward: Mapping[str, Any],
    solutions: Mapping[str, Any],
) -> None:
    """ValueError where `align` asks for what its algorithm cannot use, or for scores of models that nobody trains.

    `reward`, `solutions`: those sections of the parameters.
    """
    from tasks.rlhf import algorithms

    objectives = reward.get("objectives") or {}
    check_against(rewards, reward["members"], objectives, solutions["train"])
    algorithms.check_step_scores(algorithm, rewards, tools.names)
    family = algorithms.find(algorithm)[0]
    check_conditioning(rewards, algorithm, family, objectives)
    if family == "preference":
        _check_fixed(algorithm, rewards, tools, generation, one_base)


def _check_fixed(
    algorithm: str, rewards: RewardsOptions, tools: ToolsOptions, generation: GenerationOptions, one_base: bool
) -> None:
    """ValueError where options of fresh replies differ from the default, beside an algorithm that draws none.

    `learned` and what limits or serves others are let pass: they ask for nothing by themselves.
    """
    asked = {f"rewards.{key}": value for key, value in rewards.changes().items() if key not in _LET_PASS}
    asked |= {"tools.names": tools.names} if tools.names else {}
    asked |= {"generation.engine": generation.engine} if generation.engine != "builtin" else {}
    asked |= {"one_base": True} if one_base else {}
    if asked:
        key, value = next(iter(asked.items()))
        raise ValueError(
            f"params.yaml: align.{key} = {value!r}: {algorithm} learns from fixed data and draws no replies to use it "
            "on; leave it at its default, or set align.algorithm to one of tasks/rlhf/policy"
        )


_LET_PASS = {"learned", "tables", "sandbox", "allow_unsandboxed"}


def _section(align: dict[str, Any], name: str, kind: type[Any]) -> Any:
    try:
        return kind(**align.get(name) or {})
    except ValidationError as error:
        raise ValueError(stage.explain(error, stage.PARAMS, f"align.{name}")) from None


STAGE = stage.Stage("objective", Params, run, reads=("inputs", "models/reward"), writes=("objective.json",))

if __name__ == "__main__":
    stage.main(STAGE)
