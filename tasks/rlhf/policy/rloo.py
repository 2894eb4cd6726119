"""RLOO: the other replies to the prompt are the baseline. Ahmadian 2024, arXiv:2402.14740.

A reply is one action: its reward is the score less kl_coef * the sum of log(policy / reference), its ratio that of
whole replies, clipped as in PPO for the passes after the first.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from tasks.rlhf.advantages import less_siblings, reward_tokens
from tasks.rlhf.batch import Lesson, PolicyLoss, Rollout

NEEDS_CRITIC = False
NEEDS_KL = False
MIN_REPLIES = 2


@dataclass(frozen=True, kw_only=True)
class Config:
    clip: Annotated[float, Gt(0)] = 0.2  # of the ratio of whole replies


def advantages(rollout: Rollout, kl_coef: float, config: Config) -> Lesson:
    """The reward of a reply less the mean reward of its siblings, the same on each of its tokens."""
    rewards_B = reward_tokens(rollout, kl_coef).sum(1)
    advantages_B = less_siblings(rewards_B, rollout.scored_B, rollout.prompt_B)
    return Lesson(advantages_B[:, None] * rollout.learn_mask_BT, rollout.scored_B)


def loss(
    logprobs_BT: Tensor, entropy_BT: Tensor, rollout: Rollout, advantages_BT: Tensor, kl_coef: float, config: Config
) -> PolicyLoss:
    """Clipped surrogate of whole replies, mean over replies.

    Hand-worked: two tokens, log-ratios 0.2 and 0.3, advantage 1: ratio e^0.5 = 1.6487, loss -min(1.6487, 1.2) = -1.2.
    """
    mask_BT = rollout.learn_mask_BT
    advantages_B = (advantages_BT * mask_BT).sum(1) / mask_BT.sum(1).clamp(min=1)
    ratio_B = ((logprobs_BT - rollout.logprobs_BT) * mask_BT).sum(1).clamp(-20, 20).exp()
    clipped_B = ratio_B.clamp(1 - config.clip, 1 + config.clip)
    loss_B = -torch.minimum(ratio_B * advantages_B, clipped_B * advantages_B)
    learned_B = mask_BT.any(1)
    return PolicyLoss(loss_B * learned_B, learned_B, {"clip_fraction": (ratio_B != clipped_B) & learned_B})
