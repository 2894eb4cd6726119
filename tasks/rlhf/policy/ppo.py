"""PPO with a critic and KL in the reward. Schulman 2017, arXiv:1707.06347, eq. 7 and 9; Ziegler 2019, arXiv:1909.08593.

The reward of a token is -kl_coef * log(policy / reference); the score stands on the last token.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from tasks.rlhf.advantages import gae, reward_tokens, whiten
from tasks.rlhf.batch import Lesson, PolicyLoss, Rollout

NEEDS_CRITIC = True
NEEDS_KL = False
MIN_REPLIES = 1
STEP_SCORES = "each"


@dataclass(frozen=True, kw_only=True)
class Config:
    gamma: Annotated[float, Gt(0), Le(1)] = 1.0
    lam: Annotated[float, Ge(0), Le(1)] = 0.95
    clip: Annotated[float, Gt(0)] = 0.2  # of the ratio
    value_clip: Annotated[float, Gt(0)] = 0.2
    entropy_coef: Annotated[float, Ge(0)] = 0.0
    whiten_rewards: bool = False


def advantages(rollout: Rollout, kl_coef: float, config: Config) -> Lesson:
    """Advantages and returns of every scored reply; returns are taken before the advantages are whitened."""
    assert rollout.values_BT is not None
    mask_BT = rollout.learn_mask_BT
    rewards_BT = reward_tokens(rollout, kl_coef)
    if config.whiten_rewards:
        rewards_BT = whiten(rewards_BT, mask_BT, shift_mean=False)
    advantages_BT, returns_BT = gae(rewards_BT, rollout.values_BT, mask_BT, config.gamma, config.lam)
    return Lesson(whiten(advantages_BT, mask_BT), rollout.scored_B, returns_BT)


def loss(
    logprobs_BT: Tensor, entropy_BT: Tensor, rollout: Rollout, advantages_BT: Tensor, kl_coef: float, config: Config
) -> PolicyLoss:
    """Clipped surrogate less the entropy bonus, mean over tokens.

    Hand-worked: one token, ratio e^0.5 = 1.6487, advantage 1, clip 0.2: loss -min(1.6487, 1.2) = -1.2.
    """
    mask_BT = rollout.learn_mask_BT
    log_ratio_BT = (logprobs_BT - rollout.logprobs_BT) * mask_BT
    ratio_BT = log_ratio_BT.clamp(-20, 20).exp()
    clipped_BT = ratio_BT.clamp(1 - config.clip, 1 + config.clip)
    surrogate_BT = torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)
    loss_B = -((surrogate_BT + config.entropy_coef * entropy_BT) * mask_BT).sum(1)
    return PolicyLoss(loss_B, mask_BT.sum(1), {"clip_fraction": ((ratio_BT != clipped_BT) & mask_BT).sum(1)})


def value_loss(values_BT: Tensor, rollout: Rollout, returns_BT: Tensor, config: Config) -> PolicyLoss:
    """Half the larger of the squared errors of the value and of the clipped value, mean over tokens."""
    assert rollout.values_BT is not None
    mask_BT = rollout.learn_mask_BT
    change_BT = (values_BT - rollout.values_BT).clamp(-config.value_clip, config.value_clip)
    clipped_BT = rollout.values_BT + change_BT
    worst_BT = torch.maximum((values_BT - returns_BT) ** 2, (clipped_BT - returns_BT) ** 2)
    return PolicyLoss(0.5 * (worst_BT * mask_BT).sum(1), mask_BT.sum(1))
