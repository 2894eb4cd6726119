"""evaluate: how good are the aligned policy and the reward models, on prompts that nothing was trained or tuned on?

reads   data/models/{sft,policy,reward,judge}  data/tokenizer  data/champion  data/{prepared/*,collected}/test
writes  data/evaluation/{items,pairs}.parquet: a row per reply, a row per comparison
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from tasks import chat, records, world
from tasks.adapters import stage
from tasks.adapters.telemetry import FileTracker
from tasks.evaluation import divergence, held_out
from tasks.evaluation.statistics import Interval
from tasks.evaluation.summary import Summary
from tasks.rlhf.options import Count, ModelOptions, Positive

Row = dict[str, Any]
IMPLICIT_PAIRS = 500  # test pairs, at most, that the policy is asked about as a reward model
Scorers = dict[str, list[Any]]  # the members of the reward ensemble, and the judge


class Params(stage.Params):
    seed: stage.Seed
    model: ModelOptions
    num_samples: Count  # replies per prompt and model
    num_safety_samples: Count = 8  # replies per prompt that calls for a conduct: there are few such prompts
    temperature: Positive
    max_new_tokens: Count
    preference: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)  # {}: equal shares
    num_bootstrap: Annotated[int, Field(ge=100)]

    @field_validator("preference")
    @classmethod
    def _shared(cls, value: dict[str, float]) -> dict[str, float]:
        if value and not sum(value.values()):
            raise ValueError("all shares are 0; give one of them a share")
        return value


def run(params: Params, data: Path, tracker: FileTracker) -> dict[str, Any]:
    items, pairs, metrics = measure(params, data, tracker, held_out.TEST)
    records.write_table(_table(items), data / "evaluation/items.parquet")
    records.write_table(_table(pairs), data / "evaluation/pairs.parquet")
    return metrics


def measure(
    params: Params, data: Path, tracker: FileTracker, fold: held_out.Fold
) -> tuple[list[Row], list[Row], dict[str, Any]]:
    """A row per reply, a row per comparison of the fold, and the metrics that follow from them."""
    from tasks.rlhf import models

    models.seed_everything(params.seed)
    tokenizer = models.load_tokenizer(data / "tokenizer")
    reference = models.load_policy(data / "models/sft", params.model.dtype)
    scorers = _load_scorers(params, data)
    prompts = held_out.read_prompts(data, fold)
    items: list[Row] = []
    given, implicit = held_out.read_pairs(data, fold), None
    for name, load in _policies(params, data, tokenizer).items():
        policy, own_tokenizer = load()
        asked = _asked(params, data, prompts, name)
        with tracker.phase("sample"):
            replies = _sample(params, policy, own_tokenizer, tokenizer, asked, name)
        with tracker.phase("score"):
            comparable = name != "sft" and _same(own_tokenizer, tokenizer)
            items += _score(params, replies, policy if comparable else None, reference, scorers)
            if name == "policy":
                implicit = _implicit_margins(data / "models/policy", policy, reference, given)
    with tracker.phase("score"):
        pairs = _score_pairs(given, scorers, implicit)
    metrics = Summary(params.seed, params.num_bootstrap).metrics(items, pairs)
    simulated = all(prompt["source"] == world.SOURCE for prompt in prompts)
    return items, pairs, {**_estimates(metrics), "simulated": simulated}


def _load_scorers(params: Params, data: Path) -> Scorers:
    from tasks.rlhf import reward_model

    members = sorted(path for path in (data / "models/reward").glob("*") if path.name.isdigit())
    if not members:
        raise FileNotFoundError(f"{data / 'models/reward'}: no reward model there; run `dvc repro`")
    folders = {"reward": members, "judge": [data / "models/judge"]}
    return {name: [reward_model.load_reward(f, params.model.dtype) for f in found] for name, found in folders.items()}


def _policies(params: Params, data: Path, tokenizer: Any) -> dict[str, Callable[[], tuple[Any, Any]]]:
    """The models to compare, by name, each loaded with its tokenizer when its turn comes."""
    from tasks.rlhf import base_model, models

    def load(folder: Path) -> tuple[Any, Any]:
        return models.load_policy(folder, params.model.dtype), models.load_tokenizer(folder)

    found: dict[str, Callable[[], tuple[Any, Any]]] = {}
    if params.model.base != "scratch":  # a model from scratch can say nothing before SFT
        whole = params.model.model_copy(update={"lora": None})  # without the 4-bit numbers it may be trained from
        found["base"] = lambda: (base_model.load_base(whole, tokenizer, params.seed).eval(), tokenizer)
    found["sft"] = lambda: load(data / "models/sft")
    found["policy"] = lambda: load(data / "models/policy")
    if (data / "champion/manifest.json").is_file():
        found["champion"] = lambda: load(data / "champion/policy")
    return found


def _asked(params: Params, data: Path, prompts: Sequence[Row], name: str) -> list[Row]:
    """The prompts with `asked`, their text as a model is asked: with its shares where it is conditioned on some."""
    from tasks.rlhf import conditioning

    folder = {"policy": "models/policy", "champion": "champion/policy"}.get(name)
    shares = None if folder is None else conditioning.at_evaluation(data / folder, params.preference)
    if name == "policy" and params.preference and shares is None:
        raise ValueError(
            f"params.yaml: evaluate.preference = {params.preference}: the policy is not conditioned on any; set it to "
            "{}, or train the policy with align.rewards.conditioning"
        )
    return [row | {"asked": conditioning.conditioned(row["prompt"], shares) if shares else None} for row in prompts]


def _sample(
    params: Params, policy: Any, own_tokenizer: Any, tokenizer: Any, prompts: Sequence[Row], name: str
) -> list[Row]:
    """Several replies to each prompt, each model with a seed of its own.

    A champion of an older tokenizer is asked in its own tokens; its replies are then tokenised anew for the scorers.
    """
    from tasks.rlhf import rollout

    same = _same(own_tokenizer, tokenizer)
    times = [params.num_safety_samples if prompt["expected"] else params.num_samples for prompt in prompts]
    asked = [(prompt, sample) for prompt, number in zip(prompts, times, strict=True) for sample in range(number)]
    ids_of = [
        prompt["prompt_ids"] if same and not prompt["asked"] else _prompt_ids(own_tokenizer, prompt)
        for prompt, _ in asked
    ]
    replies = rollout.sample(
        policy,
        ids_of,
        max_new_tokens=params.max_new_tokens,
        temperature=params.temperature,
        seed=_seed(params.seed, name),
        eos_id=own_tokenizer.eos_token_id,
        pad_id=own_tokenizer.pad_token_id,
    )
    rows = []
    for (prompt, sample), asked_ids, reply in zip(asked, ids_of, replies, strict=True):
        said = own_tokenizer.decode(reply.ids, skip_special_tokens=True)
        ids = reply.ids
        if not same:
            end = [tokenizer.eos_token_id] if reply.finished else []
            ids = [*tokenizer.encode(said, add_special_tokens=False), *end]
        rows.append(
            {**prompt, "model": name, "sample": sample, "reply": said, "reply_ids": ids}
            | {"finished": reply.finished, "asked_ids": asked_ids}
        )
    return rows


def _score(params: Params, rows: list[Row], policy: Any | None, reference: Any, scorers: Scorers) -> list[Row]:
    """What each reply is worth, what its text is like and, given its policy, its log-ratio to the reference."""
    from tasks.rlhf.batch import Example
    from tasks.rlhf.logprobs import reply_logprobs

    prompt_ids, reply_ids = [row["prompt_ids"] for row in rows], [row["reply_ids"] for row in rows]
    examples = [Example(*ids) for ids in zip(prompt_ids, reply_ids, strict=True)]
    scores = {name: _scores(members, examples) for name, members in scorers.items()}
    kl: list[float | None] = [None] * len(rows)
    kl_k3 = kl
    if policy is not None:
        # Of a conditioned policy, what it says with its shares against what the reference says to the bare prompt.
        asked_ids = [row["asked_ids"] for row in rows]
        own = reply_logprobs(policy, asked_ids, reply_ids, params.temperature)
        base = reply_logprobs(reference, prompt_ids, reply_ids, params.temperature)
        kl = [float(divergence.k1(p, r).sum()) for p, r in zip(own, base, strict=True)]
        kl_k3 = [float(divergence.k3(p, r).sum()) for p, r in zip(own, base, strict=True)]
    return [
        {key: value for key, value in row.items() if key not in _NOT_KEPT}
        | held_out.monitors(row, row["reply"])
        | {name: values[i] for name, values in scores.items()}
        | {"num_tokens": len(row["reply_ids"]), "kl": kl[i], "kl_k3": kl_k3[i]}
        for i, row in enumerate(rows)
    ]


_NOT_KEPT = ("prompt_ids", "asked", "asked_ids", "reply_ids", "verifier")


def _implicit_margins(folder: Path, policy: Any, reference: Any, pairs: list[Row]) -> list[float | None] | None:
    """By how much the implicit reward of a leads that of b, of IMPLICIT_PAIRS spread over all; None without one."""
    from tasks.rlhf import implicit
    from tasks.rlhf.batch import Example

    if (reward := implicit.noted(folder)) is None:
        return None
    margins: list[float | None] = [None] * len(pairs)
    asked = range(0, len(pairs), math.ceil(len(pairs) / IMPLICIT_PAIRS) or 1)
    both = [Example(pairs[i]["prompt_ids"], pairs[i][f"{side}_ids"]) for side in "ab" for i in asked]
    rewards = reward.of(policy, reference, both).tolist()
    for place, i in enumerate(asked):
        margins[i] = rewards[place] - rewards[len(asked) + place]
    return margins


def _score_pairs(pairs: list[Row], scorers: Scorers, implicit: list[float | None] | None) -> list[Row]:
    from tasks.rlhf.batch import Example

    kept = ("id", "cluster", "domain", "source", "rater", "label", "gold_a", "gold_b")
    scored = [{key: row[key] for key in kept} for row in pairs]
    for name, members in scorers.items():
        both = _scores(members, [Example(row["prompt_ids"], row[f"{side}_ids"]) for side in "ab" for row in pairs])
        # sigma of the raw margin is the probability that was trained; normalising changed its scale.
        scale = sum(member.scale for member in members) / len(members)
        for row, score_a, score_b in zip(scored, both[: len(pairs)], both[len(pairs) :], strict=True):
            row |= {f"{name}_a": score_a, f"{name}_b": score_b, f"{name}_margin": scale * (score_a - score_b)}
    for row, margin in zip(scored, implicit or (), strict=implicit is not None):
        row["implicit_margin"] = margin
    return scored


def _scores(members: Sequence[Any], examples: Sequence[Any]) -> list[float]:
    """Normalised scores, the mean over the members of an ensemble."""
    if not examples:
        return []
    import numpy as np

    from tasks.rlhf.reward_model import score_examples

    return [float(s) for s in np.mean([score_examples(member, examples) for member in members], axis=0)]


def _same(tokenizer: Any, other: Any) -> bool:
    return bool(tokenizer.get_vocab() == other.get_vocab() and tokenizer.chat_template == other.chat_template)


def _prompt_ids(tokenizer: Any, prompt: Row) -> list[int]:
    rendered = chat.render(tokenizer, prompt["asked"] or prompt["prompt"])
    ids: list[int] = tokenizer.encode(rendered, add_special_tokens=False)
    return ids


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/evaluate/{name}".encode()).digest()[:4], "big")


def _table(rows: list[Row]) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(rows)


def _estimates(metrics: Any) -> Any:
    if isinstance(metrics, Interval):
        return stage.Estimate(**asdict(metrics))
    if isinstance(metrics, dict):
        return {key: _estimates(value) for key, value in metrics.items()}
    return metrics


STAGE = stage.Stage(
    "evaluate",
    Params,
    run,
    reads=(
        *(f"models/{name}" for name in ("sft", "policy", "reward", "judge")),
        *("tokenizer", "champion", *held_out.TEST.paths),
    ),
    writes=("evaluation/items.parquet", "evaluation/pairs.parquet"),
)

if __name__ == "__main__":
    stage.main(STAGE)
