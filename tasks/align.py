"""align: pull the SFT policy toward what people prefer.

reads   data/objective.json  data/models/{sft,reward}  data/tokenizer  data/prepared/{pairs,feedback,prompts}
        data/collected
        data/inputs, where verifiers look things up
        data/raw/demonstrations, data/prepared/canary.json (the canary's texts, and which they are)
writes  data/models/policy
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ConfigDict, ValidationInfo, field_validator, model_validator

from tasks.adapters import sandbox, stage
from tasks.adapters.telemetry import FileTracker
from tasks.hashes import content_hash
from tasks.rlhf.generation_options import GenerationOptions
from tasks.rlhf.options import Count, ModelOptions
from tasks.rlhf.rewards_options import RewardsOptions, decides
from tasks.rlhf.tool_options import ToolsOptions

if TYPE_CHECKING:
    from tasks.rlhf.algorithms import Algorithm
    from tasks.rlhf.batch import Example
    from tasks.rlhf.conditioning import Conditioner
    from tasks.rlhf.implicit import ImplicitReward
    from tasks.rlhf.reference import Reference
    from tasks.rlhf.reward_model import RewardModel

KEPT = "runs/align/reference"  # of data/: what the reference makes of replies


class Params(stage.Params):
    # The sections of the algorithms stand beside these keys; the chosen one is checked by `algorithms.load`.
    model_config = ConfigDict(extra="allow", frozen=True)

    seed: stage.Seed
    model: ModelOptions
    algorithm: str
    max_new_tokens: Count
    one_base: bool = False  # critic and reward models as adapters over the policy's base; wants model.lora
    rewards: RewardsOptions = RewardsOptions()
    tools: ToolsOptions = ToolsOptions()
    generation: GenerationOptions = GenerationOptions()

    @model_validator(mode="after")
    def _of_algorithms(self) -> Self:
        from tasks.rlhf import algorithms

        if unknown := sorted((self.model_extra or {}).keys() - algorithms.known()):
            keys = ", ".join((*type(self).model_fields, *sorted(algorithms.known())))
            raise ValueError(f"{unknown[0]}: unknown key; known: {keys}")
        return self

    @field_validator("one_base")
    @classmethod
    def _with_adapters(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("model") and info.data["model"].lora is None:
            raise ValueError("what shares a base is adapters, and model.lora is null: give it, or set this to false")
        return value


def run(params: Params, data: Path, tracker: FileTracker) -> dict[str, Any]:
    from tasks.rlhf import algorithms, conditioning, implicit, models, shared_base
    from tasks.rlhf.reference import Reference

    algorithm = algorithms.load(params.algorithm, (params.model_extra or {}).get(params.algorithm) or {})
    folders = _checked_objective(data, algorithm, params)
    models.seed_everything(params.seed)
    tokenizer = models.load_tokenizer(data / "tokenizer")
    base = models.load_policy(data / "models/sft", params.model.dtype, params.model.lora)
    policy = models.to_train(shared_base.sharing(base) if params.one_base else base, params.model)
    reference = Reference(policy, data / "models/sft", params.model, data / KEPT)
    if algorithm.family == "preference":
        metrics = _on_dataset(params, algorithm, policy, reference, tokenizer, data, tracker)
    else:
        shared = base if params.one_base else None
        metrics = _on_rollouts(params, algorithm, policy, reference, shared, tokenizer, folders, data, tracker)
    models.save(policy, tokenizer, data / "models/policy")
    conditioning.note(data / "models/policy", metrics.get("conditioned_on", []))
    implicit.note(data / "models/policy", _implicit_reward(algorithm))
    return {"algorithm": algorithm.name, "reference_sha256": content_hash(data / "models/sft"), **metrics}


def _checked_objective(data: Path, algorithm: "Algorithm", params: Params) -> list[Path]:
    """The reward folders to learn from, each proved, as all that decides a score, to be what the objective names."""
    objective = json.loads((data / "objective.json").read_text(encoding="utf-8"))
    if objective["algorithm"] != algorithm.name:
        raise ValueError(
            f"{data}/objective.json names {objective['algorithm']!r}, params.yaml align.algorithm = "
            f"{algorithm.name!r}: run `dvc repro objective` first"
        )
    inputs = data / "inputs"
    decided = {}
    if algorithm.family == "policy":
        decided = decides(params.rewards, inputs) | params.tools.decide(inputs) | params.generation.decide()
    keys = ("options", "verifiers", "tables", "tools", "generation")
    if decided != {key: objective[key] for key in keys if key in objective}:
        raise ValueError(
            f"{data}/objective.json names other rewards or tools than params.yaml align.rewards, align.tools, "
            "align.generation, tasks/rlhf/verifiers and data/inputs: run `dvc repro objective` first"
        )
    folders = []
    for member, sha256 in objective["rewards"].items():
        folder = data / f"models/reward/{member}"
        if content_hash(folder) != sha256:
            raise ValueError(f"{folder}: not the reward model of {data}/objective.json: run `dvc repro objective`")
        folders.append(folder)
    return folders


def _implicit_reward(algorithm: "Algorithm") -> "ImplicitReward | None":
    from tasks.rlhf.implicit import ImplicitReward

    if algorithm.family != "preference":
        return None
    reference = bool(algorithm.module.NEEDS_REFERENCE)
    of_means = getattr(algorithm.config, "log_ratio", "sum") == "mean"
    return ImplicitReward(reference=reference, per_token=of_means or not reference)


def _on_dataset(
    params: Params,
    algorithm: "Algorithm",
    policy: Any,
    reference: "Reference",
    tokenizer: Any,
    data: Path,
    tracker: FileTracker,
) -> dict[str, Any]:
    from tasks.rlhf import dataset, feedback
    from tasks.rlhf.train_on_feedback import train_on_feedback
    from tasks.rlhf.train_on_pairs import train_on_pairs

    given = data / "prepared/pairs/train"
    pairs = dataset.read_pairs(given, data / "collected/train.parquet")
    real, planted = ([pair for pair in pairs if pair.planted is kind] for kind in (False, True))
    judged = feedback.read(data / "prepared/feedback/train") if algorithm.unpaired else []
    if not real and not judged:
        nothing = "comparisons and no replies judged one by one" if algorithm.unpaired else "comparisons"
        raise ValueError(f"{given}: no {nothing}; check the sources of ingest and the shares of prepare")
    with tracker.phase("train"):
        if algorithm.unpaired:
            # Apart, so that the reference point is not measured on noise after everybody's prompt.
            rows = feedback.from_pairs(real, judged) + (feedback.from_pairs(planted) if planted else [])
            ratio = feedback.balance(rows, algorithm.config)
            if said := feedback.unbalanced(ratio):
                sys.stderr.write(f"WARNING: {said}\n")
            train_on_feedback(policy, reference.sums, rows, algorithm, params.seed, tracker)
        else:
            train_on_pairs(policy, reference.sums, pairs, algorithm, params.seed, tracker)
    last = tracker.curve[max(tracker.curve)]
    with tracker.phase("measure"):
        told = _canary(params, algorithm, policy, reference, tokenizer, data)
    return {
        "num_pairs": len(real),
        **({"num_feedback": len(judged), "wanted_over_unwanted": ratio} if algorithm.unpaired else {}),
        "final_loss": last["loss"],
        "implicit_accuracy": last["implicit_accuracy"],
        "canary": told,
    }


def _canary(
    params: Params, algorithm: "Algorithm", policy: Any, reference: "Reference", tokenizer: Any, data: Path
) -> dict[str, Any]:
    """Obvious preferences, by the implicit reward. ValueError where too few are told right."""
    import torch

    from tasks.preferences import canary as obvious
    from tasks.rlhf import canary
    from tasks.rlhf.logprobs import reply_sums, token_logprobs

    @torch.no_grad()
    def logprobs(examples: "Sequence[Example]") -> Any:
        return token_logprobs(policy, examples)

    def lead(true: "Sequence[Example]", ruined: "Sequence[Example]") -> Any:
        own, frozen = (
            [measured(examples) for examples in (true, ruined)]
            for measured in (partial(reply_sums, logprobs), reference.sums)
        )
        if algorithm.module.NEEDS_REFERENCE:
            return canary.lead_of_ratios(own, frozen)
        return canary.lead_per_token(own, frozen, [[len(row.reply_ids) for row in rows] for rows in (true, ruined)])

    canaries = canary.tokenised(*obvious.read(data, "train"), tokenizer, params.model.max_length)
    return canary.check(canaries, lead, algorithm.options.canary_share, f"align.{algorithm.name}")


def _on_rollouts(
    params: Params,
    algorithm: "Algorithm",
    policy: Any,
    reference: "Reference",
    base: Any | None,
    tokenizer: Any,
    folders: list[Path],
    data: Path,
    tracker: FileTracker,
) -> dict[str, Any]:
    from tasks.adapters import generation
    from tasks.rlhf import dataset, rewards, shared_base, tool_traces, tool_use
    from tasks.rlhf.experience import Learner
    from tasks.rlhf.train_on_rollouts import train_on_rollouts

    run_code = sandbox.runner(**params.rewards.sandbox.model_dump(), allow_unsandboxed=params.rewards.allow_unsandboxed)
    decode = partial(tokenizer.batch_decode, skip_special_tokens=True)
    load = None if base is None else partial(shared_base.reward_over, base, data / "models/sft")
    score = rewards.build(params.rewards, folders, params.model.dtype, decode, data / "inputs", run_code, load)
    condition = _conditioner(params, score.models, policy, tokenizer, data)
    learner = Learner(
        policy=policy,
        algorithm=algorithm.module,
        config=algorithm.config,
        critic=_critic(params, data, base) if algorithm.module.NEEDS_CRITIC else None,
        reference_logprobs=lambda examples: reference.logprobs(examples, algorithm.options.temperature),
        score=score,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        max_new_tokens=params.max_new_tokens,
        condition=condition,
        traces=tool_traces.Traces(data / "runs/align/traces.jsonl"),
    )
    prompts, held_out = (
        score.scorable(dataset.read_prompts(file), str(file))
        for file in (data / f"prepared/prompts/{fold}" for fold in ("train", "dev"))
    )
    with generation.engine(params.generation, tokenizer, data / "runs/align/weights") as draw:
        learner = replace(
            learner, sample=tool_use.sampler_for(params.tools, tokenizer, run_code, data / "inputs", draw)
        )
        stopped = train_on_rollouts(learner, prompts, held_out, algorithm.options, params.seed, tracker)
    first, last = tracker.curve[min(tracker.curve)], tracker.curve[max(tracker.curve)]
    kept = ["score", "kl", "kl_k3", "entropy", "reply_length", "finished", "unscorable", "kl_coef", "held_out_score"]
    kept += ["score_reward_model", "score_verifier", "score_outcome", "score_process", "num_steps"]
    kept += ["engine_gap", "engine_kl", "calls", "called", "calls_ok", "score_with_calls", "score_without_calls"]
    return {
        **({"verifiable": dict(score.kinds)} if score.kinds else {}),
        **({"conditioned_on": sorted(condition.objectives)} if condition else {}),
        "num_prompts": len(prompts),
        "num_rollouts": len(tracker.curve),
        "stopped": stopped,
        "first": {k: first[k] for k in kept if k in first},
        "last": {k: last[k] for k in kept if k in last},
    }


def _conditioner(
    params: Params, models: "Sequence[RewardModel]", policy: Any, tokenizer: Any, data: Path
) -> "Conditioner | None":
    """What draws the shares that the prompts of rollouts say, where params ask for it."""
    from tasks.preferences import tokens
    from tasks.rlhf import conditioning, dataset

    if (options := params.rewards.conditioning) is None:
        return None
    return conditioning.Conditioner(
        options.vectors,
        options.dirichlet,
        models[0].objectives,
        tokens.Encoder(tokenizer).prompt,
        dataset.read_messages(*(data / f"prepared/prompts/{fold}" for fold in ("train", "dev"))),
        policy.config.max_position_embeddings - params.max_new_tokens,
    )


def _critic(params: Params, data: Path, base: Any | None) -> Any:
    """Adapters over the base or, without one, a body of its own, all of which learns."""
    from tasks.rlhf import models, shared_base

    if base is not None:
        return models.Critic(models.to_train(shared_base.sharing(base), params.model)).eval()
    whole = params.model.model_copy(update={"lora": None})
    return models.Critic(models.to_train(models.load_policy(data / "models/sft", params.model.dtype), whole))


STAGE = stage.Stage(
    "align",
    Params,
    run,
    reads=(
        "objective.json",
        "models/sft",
        "tokenizer",
        "prepared/pairs/train",
        "prepared/feedback/train",
        "prepared/prompts/dev",
        "prepared/prompts/train",
        "collected/train.parquet",
        "prepared/canary.json",
        "raw/demonstrations",
    ),
    writes=("models/policy",),
    trains=True,
)

if __name__ == "__main__":
    stage.main(STAGE)
