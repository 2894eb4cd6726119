"""GRPO: advantages normalised within the replies to one prompt, KL in the loss. Shao 2024, arXiv:2402.03300, eq. 3, 4.

As DeepSeek states it by default. Dr. GRPO (Liu 2025, arXiv:2503.20783): `aggregation: dr_grpo`, `scale: false`.
DAPO (Yu 2025, arXiv:2503.14476): `aggregation: dapo`, `clip_high: 0.28`, `dynamic_sampling: true`. GSPO (Zheng 2025,
arXiv:2507.18071): `ratio: sequence`, clips of about 3e-4.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from tasks.rlhf.advantages import kl_k2, kl_k3, less_group, spread, step_advantages, sum_by_prompt
from tasks.rlhf.batch import Lesson, PolicyLoss, Rollout

NEEDS_CRITIC = False
NEEDS_KL = False
MIN_REPLIES = 2
STEP_SCORES = "each"


@dataclass(frozen=True, kw_only=True)
class Config:
    clip: Annotated[float, Gt(0)] = 0.2  # of the ratio, below 1 and above
    clip_high: Annotated[float, Gt(0)] | None = None  # above 1, where it shall differ
    ratio: Literal["token", "sequence"] = "token"  # sequence: the geometric mean over the reply
    scale: bool = True  # advantages over the group's standard deviation
    aggregation: Literal["grpo", "dr_grpo", "dapo"] = "grpo"
    dynamic_sampling: bool = False  # leave out prompts whose replies score the same; `max_redraws` fills up
    # As a loss k3 pulls toward KL(reference || policy), the published form; weighted by the ratio, or k2, toward
    # KL(policy || reference).
    kl_loss: Literal["k3", "k3_weighted", "k2"] = "k3"


def advantages(rollout: Rollout, kl_coef: float, config: Config) -> Lesson:
    """The score less the mean of its group, over the group's standard deviation; the same on each token.

    Scores of steps are normalised apart and added by their weight (process supervision, section 4.1.3): so a group
    whose replies score the same may still teach.
    """
    scores_B, scored_B, prompt_B = rollout.scores_B, rollout.scored_B, rollout.prompt_B
    advantages_B = less_group(scores_B, scored_B, prompt_B, config.scale)
    advantages_BT = advantages_B[:, None] * rollout.learn_mask_BT
    kept_B = spread(scores_B, scored_B, prompt_B) if config.dynamic_sampling else scored_B
    if rollout.step_scores_BT is not None:
        steps_BT = rollout.step_weight * step_advantages(rollout, config.scale)
        advantages_BT = advantages_BT + steps_BT
        kept_B = kept_B | scored_B & (sum_by_prompt(steps_BT.abs().sum(1), prompt_B) > 0)
    return Lesson(advantages_BT, kept_B)


def loss(
    logprobs_BT: Tensor, entropy_BT: Tensor, rollout: Rollout, advantages_BT: Tensor, kl_coef: float, config: Config
) -> PolicyLoss:
    """Clipped surrogate plus kl_coef * KL, aggregated as the options say.

    Hand-worked: one token, ratio e^0.5, advantage 1, log(policy / reference) 1, kl_coef 0.1: k3 = e^-1 - 1 + 1 =
    0.3679, loss -1.2 + 0.0368 = -1.1632.
    """
    mask_BT = rollout.learn_mask_BT
    log_ratio_BT = (logprobs_BT - rollout.logprobs_BT) * mask_BT
    if config.ratio == "sequence":
        log_ratio_BT = _row_mean(log_ratio_BT, mask_BT)[:, None].expand_as(log_ratio_BT)
    ratio_BT = log_ratio_BT.clamp(-20, 20).exp()
    clipped_BT = ratio_BT.clamp(1 - config.clip, 1 + (config.clip_high or config.clip))
    loss_BT = -torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)
    estimator = kl_k2 if config.kl_loss == "k2" else kl_k3
    kl_BT = estimator(logprobs_BT * mask_BT, rollout.reference_BT * mask_BT)  # a tool's token may be infinitely far
    if config.kl_loss == "k3_weighted":
        kl_BT = kl_BT * ratio_BT
    loss_BT = loss_BT + kl_coef * rollout.kl_scale_B[:, None] * kl_BT
    clip_fraction_BT = (ratio_BT != clipped_BT).to(loss_BT.dtype)
    return _aggregate(loss_BT, clip_fraction_BT, rollout, config)


def _aggregate(loss_BT: Tensor, clip_fraction_BT: Tensor, rollout: Rollout, config: Config) -> PolicyLoss:
    """grpo: mean over a reply's tokens, then over replies. dapo: over all tokens. dr_grpo: sum over tokens, over
    replies * max_new_tokens, so that the length of a reply changes no token's weight.
    """
    mask_BT = rollout.learn_mask_BT
    clip_fraction_B = _row_mean(clip_fraction_BT, mask_BT)
    if config.aggregation == "grpo":
        weight_B = mask_BT.any(1).to(loss_BT.dtype)
        return PolicyLoss(_row_mean(loss_BT, mask_BT), weight_B, {"clip_fraction": clip_fraction_B})
    tokens_B = mask_BT.sum(1).to(loss_BT.dtype)
    weight_B = tokens_B if config.aggregation == "dapo" else mask_BT.any(1) * float(rollout.max_new_tokens)
    return PolicyLoss((loss_BT * mask_BT).sum(1), weight_B, {"clip_fraction": clip_fraction_B * weight_B})


def _row_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    return (values_BT * mask_BT).sum(1) / mask_BT.sum(1).clamp(min=1)
