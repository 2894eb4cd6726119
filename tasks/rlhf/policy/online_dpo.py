"""Online DPO: the best and the worst scored reply to a prompt are a fresh pair for DPO. Guo 2024, arXiv:2402.04792.

DPO's beta is the coefficient of KL, `kl_coef`. A prompt whose replies all score the same gives no pair.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.rlhf.advantages import first_best, spread, sum_by_prompt
from tasks.rlhf.batch import Lesson, PolicyLoss, Rollout

NEEDS_CRITIC = False
NEEDS_KL = True  # without it the loss has no gradient
MIN_REPLIES = 2


@dataclass(frozen=True, kw_only=True)
class Config:
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0  # share of pairs whose scores are assumed the wrong way


def advantages(rollout: Rollout, kl_coef: float, config: Config) -> Lesson:
    """1 on the tokens of each prompt's best reply, -1 on those of its worst; the others are left out."""
    differ_B = spread(rollout.scores_B, rollout.scored_B, rollout.prompt_B)
    best_B = first_best(rollout.scores_B, differ_B, rollout.prompt_B)
    worst_B = first_best(-rollout.scores_B, differ_B, rollout.prompt_B)
    sign_B = best_B.to(rollout.scores_B.dtype) - worst_B.to(rollout.scores_B.dtype)
    return Lesson(sign_B[:, None] * rollout.reply_mask_BT, best_B | worst_B)


def loss(
    logprobs_BT: Tensor, entropy_BT: Tensor, rollout: Rollout, advantages_BT: Tensor, kl_coef: float, config: Config
) -> PolicyLoss:
    """DPO's loss, mean over pairs; that of a pair stands in the row of its better reply.

    Hand-worked: beta 0.1, log-ratios 2 (better) and -1: margin 0.3, loss -ln sigmoid(0.3) = 0.554355.
    """
    mask_BT = rollout.learn_mask_BT
    sign_B = torch.sign((advantages_BT * mask_BT).sum(1))
    log_ratio_B = ((logprobs_BT - rollout.reference_BT) * mask_BT).sum(1)
    margin_B = kl_coef * rollout.kl_scale_B * sum_by_prompt(sign_B * log_ratio_B, rollout.prompt_B)
    flip = config.label_smoothing
    loss_B = -(1 - flip) * logsigmoid(margin_B) - flip * logsigmoid(-margin_B)
    better_B = (sign_B > 0).to(loss_B.dtype)
    return PolicyLoss(loss_B * better_B, better_B, {"implicit_margin": margin_B.detach() * better_B})
