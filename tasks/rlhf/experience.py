"""Experience: replies sampled from the policy, scored, and measured under the policy, the reference and the critic."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.rlhf import ranks, tool_traces
from tasks.rlhf.advantages import kl_k1, kl_k3, place_on_steps
from tasks.rlhf.batch import Example, Prompt, Rollout, ScorePart
from tasks.rlhf.logprobs import measured_batches, pad_by_row
from tasks.rlhf.options import RolloutOptions
from tasks.rlhf.rollout import Reply, sample

Score = Callable[[Sequence[Example], Sequence[Prompt]], Mapping[str, ScorePart]]  # each example's prompt; parts by name

_OF_RANK = 1_000_000_000_000_003  # times the rank, added to the seed: beyond what steps and redraws add


@dataclass(frozen=True)
class Learner:
    """Everything that takes part in a run."""

    policy: Any
    algorithm: ModuleType
    config: Any
    critic: Any | None  # models.Critic, where the algorithm needs one
    reference_logprobs: Callable[[Sequence[Example]], Tensor]  # [N], of the frozen reference
    score: Score
    eos_id: int
    pad_id: int
    max_new_tokens: int
    sample: Callable[..., list[Reply]] = sample  # or tool_use.sampler(...)
    condition: Callable[[Sequence[Prompt], int], Sequence[Prompt]] | None = None  # by a seed: conditioning.Conditioner
    traces: tool_traces.Traces = tool_traces.NONE  # of replies that call tools


@torch.no_grad()
def collect(
    learner: Learner, prompts: Sequence[Prompt], options: RolloutOptions, seed: int
) -> tuple[Rollout, dict[str, float]]:
    """Sample `replies_per_prompt` replies to each prompt, score them, and measure them.

    Of several processes (ranks.py) each does so for a block of the prompts, with draws of its own, and then all hold
    the whole rollout: advantages, their whitening and every figure are over all replies.
    """
    if learner.condition is not None:
        prompts = learner.condition(prompts, seed)
    group = ranks.current()
    own = group.block(prompts)
    gathered = group.gather(_draw(learner, own, options, seed + group.index * _OF_RANK) if own else None)
    drawn = _together([part for part in gathered if part is not None])
    asked = _asked(prompts, options)
    replies = drawn.replies
    examples = [Example(prompt.ids, reply.ids) for prompt, reply in zip(asked, replies, strict=True)]
    finished_B = np.array([reply.finished for reply in replies])
    logprobs_BT = pad_by_row(torch.tensor([lp for reply in replies for lp in reply.logprobs]), examples)
    reply_mask_BT = _own_tokens(replies)
    sizes_B = reply_mask_BT.sum(1).numpy()
    scores_B, metrics = total_score(drawn.parts)
    if traces := [reply.trace for reply in replies if reply.trace is not None]:
        metrics |= tool_traces.figures(traces, scores_B)
        learner.traces.note(traces, scores_B)
    stepwise: dict[str, Any] = {}
    if getattr(learner.algorithm, "STEP_SCORES", None) == "each":
        stepwise, metrics = _of_steps(drawn.parts, reply_mask_BT.shape[1], metrics)
        scores_B, _ = total_score({name: _at_the_end(part) for name, part in drawn.parts.items()})
    penalties = _penalties(finished_B, sizes_B, options)
    rollout = Rollout(
        examples=examples,
        prompt_B=torch.arange(len(prompts)).repeat_interleave(options.replies_per_prompt),
        reply_mask_BT=reply_mask_BT,
        logprobs_BT=logprobs_BT,
        reference_BT=drawn.reference_BT,
        scores_B=torch.from_numpy(scores_B - sum(penalties.values())).float(),
        values_BT=drawn.values_BT,
        kl_scale_B=torch.tensor([options.kl_by_domain.get(prompt.domain, 1.0) for prompt in asked]),
        max_new_tokens=learner.max_new_tokens,
        **stepwise,
    )
    metrics |= {name: float(penalty_B.mean()) for name, penalty_B in penalties.items()}
    metrics |= {"reply_length": float(sizes_B.mean()), "finished": float(finished_B.mean())}
    return rollout, metrics | _divergence(rollout) | _engine_gap(replies)


def _asked(prompts: Sequence[Prompt], options: RolloutOptions) -> list[Prompt]:
    """The prompt of each reply."""
    return [prompt for prompt in prompts for _ in range(options.replies_per_prompt)]


@dataclass(frozen=True)
class _Drawn:
    """Replies and what was measured of each."""

    replies: list[Reply]
    parts: Mapping[str, ScorePart]
    reference_BT: Tensor
    values_BT: Tensor | None


def _draw(learner: Learner, prompts: Sequence[Prompt], options: RolloutOptions, seed: int) -> _Drawn:
    asked = _asked(prompts, options)
    replies = learner.sample(
        learner.policy,
        [prompt.ids for prompt in asked],
        max_new_tokens=learner.max_new_tokens,
        temperature=options.temperature,
        seed=seed,
        eos_id=learner.eos_id,
        pad_id=learner.pad_id,
    )
    if empty := sum(not reply.ids for reply in replies):
        raise ValueError(
            f"align: {empty} of {len(replies)} replies are empty, without even the token that ends them; check what "
            "generates them (align.generation)"
        )
    examples = [Example(prompt.ids, reply.ids) for prompt, reply in zip(asked, replies, strict=True)]
    budget = options.micro_batch_tokens
    return _Drawn(
        replies=replies,
        parts=learner.score(examples, asked),
        reference_BT=_measured(learner.reference_logprobs, examples, budget),
        values_BT=None if learner.critic is None else _measured(learner.critic, examples, budget),
    )


def _together(drawn: Sequence[_Drawn]) -> _Drawn:
    """What several processes drew, as one."""
    if len(drawn) == 1:
        return drawn[0]
    parts = {
        name: replace(
            part,
            values_B=np.concatenate([d.parts[name].values_B for d in drawn]),
            steps=None if part.steps is None else [row for d in drawn for row in d.parts[name].steps or ()],
        )
        for name, part in drawn[0].parts.items()
    }
    values = [d.values_BT for d in drawn if d.values_BT is not None]
    return _Drawn(
        replies=[reply for d in drawn for reply in d.replies],
        parts=parts,
        reference_BT=_below([d.reference_BT for d in drawn]),
        values_BT=_below(values) if values else None,
    )


def _below(tensors: Sequence[Tensor]) -> Tensor:
    """Their rows, padded to one width."""
    width = max(x_BT.shape[1] for x_BT in tensors)
    return torch.cat([torch.nn.functional.pad(x_BT, (0, width - x_BT.shape[1])) for x_BT in tensors])


def total_score(parts: Mapping[str, ScorePart]) -> tuple[np.ndarray, dict[str, float]]:
    """The weighted sum of the parts, float64 [B], and its mean, with that of each part.

    A part that cannot score a reply adds what it gives to the others on average, so that it speaks neither for nor
    against it; where no part can, the sum is NaN. A learned part that gives NaN is an error, and so is a rollout that
    nothing can score.
    """
    for name, part in parts.items():
        if part.learned and not np.isfinite(part.values_B).all():
            raise ValueError(
                f"align: the reward model gave a score that is not a number (`{name}`); train it again (`reward.lr`)"
            )
    weighted = np.stack([part.weight * part.values_B for part in parts.values()])
    unscorable_B = np.all(np.isnan(weighted), axis=0)
    if unscorable_B.all():
        raise ValueError(
            f"align: none of {len(unscorable_B)} replies could be scored by {', '.join(parts)}; check that the prompts "
            "carry what these need (`verifier` in data/prepared/prompts/train)"
        )
    means = np.array([part.weight * _mean_of_known(part.values_B) for part in parts.values()])
    total_B = np.where(unscorable_B, np.nan, np.where(np.isnan(weighted), means[:, None], weighted).sum(0))
    metrics = {"score": float(np.nanmean(total_B)), "unscorable": float(unscorable_B.sum())}
    if len(parts) > 1:
        metrics |= {f"score_{name}": _mean_of_known(part.values_B) for name, part in parts.items()}
    # What health.py knows to be near 0 of the reference's replies: the least of several normalised members is not.
    learned = [
        part.weight * (part.values_B if part.members_B is None else part.members_B)
        for part in parts.values()
        if part.learned
    ]
    return total_B, metrics | ({"learned_score": float(np.mean(np.sum(learned, 0)))} if learned else {})


def _of_steps(
    parts: Mapping[str, ScorePart], width: int, metrics: dict[str, float]
) -> tuple[dict[str, Any], dict[str, float]]:
    """What a rollout holds of scored steps, and the metrics with their number; nothing where none are scored."""
    for part in parts.values():
        if part.steps is not None:
            scores_BT, mask_BT = place_on_steps(part.steps, width)
            of_scored = [len(steps) for steps in part.steps if steps]
            metrics = metrics | {"num_steps": float(np.mean(of_scored))} if of_scored else metrics
            return {"step_scores_BT": scores_BT, "step_mask_BT": mask_BT, "step_weight": part.weight}, metrics
    return {}, metrics


def _at_the_end(part: ScorePart) -> ScorePart:
    """What is paid for at the end of a reply: nothing of what is paid for step by step."""
    return part if part.steps is None else replace(part, values_B=0 * part.values_B)


def _own_tokens(replies: Sequence[Reply]) -> Tensor:
    """True on the tokens that the policy drew, [B, T]."""
    own = [torch.tensor(reply.own or [True] * len(reply.ids)) for reply in replies]
    return torch.nn.utils.rnn.pad_sequence(own, batch_first=True, padding_value=False)


def _penalties(finished_B: np.ndarray, sizes_B: np.ndarray, options: RolloutOptions) -> dict[str, np.ndarray]:
    """What is taken off the score, by the name of its option."""
    penalties = {
        "missing_eos_penalty": options.missing_eos_penalty * ~finished_B,
        "length_penalty": options.length_penalty * sizes_B,
    }
    return {name: penalty_B for name, penalty_B in penalties.items() if getattr(options, name) > 0}


def _mean_of_known(values_B: np.ndarray) -> float:
    known = values_B[~np.isnan(values_B)]
    return float(known.mean()) if len(known) else 0.0


def _divergence(rollout: Rollout) -> dict[str, float]:
    """KL(policy || reference) in nats per reply, by the estimators k1 and k3."""
    pair = rollout.logprobs_BT, rollout.reference_BT
    return {
        "kl": float((kl_k1(*pair) * rollout.reply_mask_BT).sum(1).mean()),
        "kl_k3": float((kl_k3(*pair) * rollout.reply_mask_BT).sum(1).mean()),
    }


def _engine_gap(replies: Sequence[Reply]) -> dict[str, float]:
    """How far the log-probs of another engine that drew the replies are off the policy's, in nats per token.

    `engine_kl` estimates KL(engine || policy) by k3, whose samples are the engine's.
    """
    served = [reply for reply in replies if reply.drawn_logprobs is not None]
    if not served:
        return {}
    own_N = torch.tensor([own for reply in served for own in reply.own or [True] * len(reply.ids)])
    drawn_N = torch.tensor([lp for reply in served for lp in reply.drawn_logprobs or []])[own_N]
    logprobs_N = torch.tensor([lp for reply in served for lp in reply.logprobs])[own_N]
    return {
        "engine_gap": float((drawn_N - logprobs_N).abs().mean()),
        "engine_kl": float(kl_k3(drawn_N, logprobs_N).mean()),
    }


def _measured(measure: Callable[[Sequence[Example]], Tensor], examples: Sequence[Example], budget: int) -> Tensor:
    """[B, T] of what `measure` gives per reply token, in batches of similar length."""
    out_BT = torch.zeros(len(examples), max(len(e.reply_ids) for e in examples))
    for index in measured_batches(examples, budget):
        batch = [examples[i] for i in index]
        out_BT[index] = pad_by_row(measure(batch), batch, out_BT.shape[1]).cpu().float()
    return out_BT
