"""Learning from one rollout: passes in minibatches of whole prompts, each in micro-batches that bound memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tasks.rlhf import health, ranks
from tasks.rlhf.advantages import kl_k3
from tasks.rlhf.batch import Lesson, PolicyLoss, Rollout
from tasks.rlhf.experience import Learner
from tasks.rlhf.logprobs import pad_by_row, token_logprobs_and_entropy
from tasks.rlhf.master_weights import GradientSums
from tasks.rlhf.options import CriticOptions, RolloutOptions
from tasks.rlhf.state import State

Metrics = dict[str, float]


def update(learner: Learner, rollout: Rollout, lesson: Lesson, options: RolloutOptions, state: State) -> Metrics:
    """Passes over the rows that the lesson keeps, up to the minibatch whose KL(old || new) exceeds `max_kl_old_new`.

    Metrics are means over the minibatches, but for `ratio_error`, that of the first.
    """
    prompts = rows_by_prompt(rollout.prompt_B, lesson.kept_B)
    if not prompts:  # nothing to tell apart: this rollout teaches nothing
        return {"loss": 0.0, "grad_norm": 0.0}
    seen: list[Metrics] = []
    for _ in range(options.num_updates):
        order = torch.randperm(len(prompts), generator=state.generator)
        for chosen in order.tensor_split(min(options.num_minibatches, len(prompts))):
            index_B = torch.cat([prompts[i] for i in chosen.tolist()])
            seen.append(_learn(learner, rollout.rows(index_B), lesson.rows(index_B), options, state, first=not seen))
            if _is_over(seen[-1], options):
                break
        if _is_over(seen[-1], options):
            break
    if not warming_up(options, state):
        state.schedule.step()
    means = {key: float(np.mean([m[key] for m in seen])) for key in seen[-1]}
    return means | {key: seen[0][key] for key in ("ratio_error",) if key in seen[0]}


def _is_over(metrics: Metrics, options: RolloutOptions) -> bool:
    return metrics.get("kl_old_new", 0.0) > options.max_kl_old_new


def rows_by_prompt(prompt_B: Tensor, kept_B: Tensor) -> list[Tensor]:
    """The row indices of each prompt that has kept rows."""
    kept = kept_B.nonzero().squeeze(1)
    kept = kept[prompt_B[kept].argsort(stable=True)]
    _, counts = prompt_B[kept].unique_consecutive(return_counts=True)
    return list(kept.split(counts.tolist())) if len(kept) else []


def micro_batches(part: Rollout, budget: int) -> list[Tensor]:
    """Row indices in batches of similar length: whole prompts, at most `budget` tokens with padding, at least one.

    Of several processes (ranks.py) each gets its share of the prompts.
    """
    prompts = rows_by_prompt(part.prompt_B, torch.ones_like(part.prompt_B, dtype=torch.bool))
    sizes = [max(part.examples[i].length for i in rows.tolist()) for rows in prompts]
    batches: list[list[Tensor]] = []
    held = 0
    for number in ranks.current().share(np.argsort(sizes, kind="stable").tolist()):
        rows = prompts[number]
        if not batches or (held + len(rows)) * sizes[number] > budget:
            batches.append([])
            held = 0
        batches[-1].append(rows)
        held += len(rows)
    return [torch.cat(batch) for batch in batches]


def warming_up(options: RolloutOptions, state: State) -> bool:
    """Whether this step trains the critic alone."""
    return isinstance(options, CriticOptions) and state.step <= options.critic_warmup


def _learn(
    learner: Learner, part: Rollout, lesson: Lesson, options: RolloutOptions, state: State, first: bool
) -> Metrics:
    """One step of the policy and, where there is one, of the critic."""
    micro = [(part.rows(index_B), lesson.rows(index_B)) for index_B in micro_batches(part, options.micro_batch_tokens)]
    metrics = {"loss": 0.0, "grad_norm": 0.0}
    if not warming_up(options, state):
        losses = (_policy_loss(learner, rows, taught, options, state.coef.value) for rows, taught in micro)
        metrics |= _step(losses, state.optimizer, options.max_grad_norm)
        if first:
            health.check_first_minibatch(metrics, state.step, learner.policy.dtype)
    if state.critic_optimizer is not None:
        assert isinstance(options, CriticOptions)
        losses = (_value_loss(learner, rows, taught, options) for rows, taught in micro)
        found = _step(losses, state.critic_optimizer, options.max_grad_norm)
        metrics["value_loss"] = found["loss"] / options.value_coef
    return metrics


@dataclass(frozen=True)
class _MicroLoss:
    loss: PolicyLoss
    num_tokens: int
    per_token: dict[str, Tensor]  # sums over the tokens learned from


def _policy_loss(
    learner: Learner, part: Rollout, lesson: Lesson, options: RolloutOptions, kl_coef: float
) -> _MicroLoss:
    width = part.reply_mask_BT.shape[1]
    logprobs_N, entropy_N = token_logprobs_and_entropy(learner.policy, part.examples, options.temperature)
    logprobs_BT = pad_by_row(logprobs_N, part.examples, width).cpu()
    entropy_BT = pad_by_row(entropy_N, part.examples, width).cpu()
    loss = learner.algorithm.loss(logprobs_BT, entropy_BT, part, lesson.advantages_BT, kl_coef, learner.config)
    with torch.no_grad():
        mask_BT = part.learn_mask_BT
        per_token = {
            "entropy": entropy_BT,
            "kl_old_new": kl_k3(part.logprobs_BT, logprobs_BT),
            "ratio_error": (torch.expm1(logprobs_BT - part.logprobs_BT)).abs(),
        }
        return _MicroLoss(loss, int(mask_BT.sum()), {key: (x * mask_BT).sum() for key, x in per_token.items()})


def _value_loss(learner: Learner, part: Rollout, lesson: Lesson, options: CriticOptions) -> _MicroLoss:
    assert learner.critic is not None
    values_BT = pad_by_row(learner.critic(part.examples), part.examples, part.reply_mask_BT.shape[1]).cpu()
    loss = learner.algorithm.value_loss(values_BT, part, lesson.returns_BT, learner.config)
    return _MicroLoss(replace(loss, loss_B=options.value_coef * loss.loss_B), 0, {})


def _step(losses: Iterator[_MicroLoss], optimizer: torch.optim.Optimizer, max_grad_norm: float) -> Metrics:
    """One optimiser step on the weighted mean over all micro-batches of all processes: the cut changes nothing."""
    sums = {"weight": 0.0}
    token_sums = {"tokens": 0.0}
    parameters = [p for some in optimizer.param_groups for p in some["params"]]
    gradients = GradientSums([] if ranks.current().sharded else parameters)
    for micro in losses:
        loss = micro.loss.loss_B.sum()
        gradients.take()
        loss.backward()
        sums["weight"] += float(micro.loss.weight_B.sum())
        token_sums["tokens"] += micro.num_tokens
        for key, value_B in ({"loss": loss.detach()} | micro.loss.metrics).items():
            sums[key] = sums.get(key, 0.0) + float(value_B.sum())
        for key, total in micro.per_token.items():
            token_sums[key] = token_sums.get(key, 0.0) + float(total)
    gradients.give()
    group = ranks.current()
    sums, token_sums = group.add(sums), group.add(token_sums)
    group.add_gradients(parameters)
    weight, tokens = sums.pop("weight"), token_sums.pop("tokens")
    torch._foreach_div_([p.grad for p in parameters if p.grad is not None], weight)
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    means = {key: total / weight for key, total in sums.items()}
    return means | {key: total / tokens for key, total in token_sums.items()} | {"grad_norm": float(norm)}
