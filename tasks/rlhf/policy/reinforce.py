"""REINFORCE with KL in the reward. Williams 1992, doi:10.1007/BF00992696.

The return of a token is the score less the KL cost from that token on. The baseline is the mean return over all
tokens of the rollout; since a reply counts in its own baseline, advantages are small by a share of about 1 / replies.
"""

from dataclasses import dataclass

from torch import Tensor

from tasks.rlhf.advantages import reward_tokens, whiten
from tasks.rlhf.batch import Lesson, PolicyLoss, Rollout, masked_mean

NEEDS_CRITIC = False
NEEDS_KL = False
MIN_REPLIES = 1
STEP_SCORES = "each"


@dataclass(frozen=True, kw_only=True)
class Config:
    whiten: bool = False  # also divide by the standard deviation over the rollout (REINFORCE++, arXiv:2501.03262)


def advantages(rollout: Rollout, kl_coef: float, config: Config) -> Lesson:
    """Return less baseline. Hand-worked: replies of one token, no KL, scores 1, 2, 6: advantages -2, -1, 3."""
    mask_BT = rollout.learn_mask_BT
    returns_BT = reward_tokens(rollout, kl_coef).flip(1).cumsum(1).flip(1) * mask_BT
    if config.whiten:
        return Lesson(whiten(returns_BT, mask_BT), rollout.scored_B)
    return Lesson((returns_BT - masked_mean(returns_BT, mask_BT)) * mask_BT, rollout.scored_B)


def loss(
    logprobs_BT: Tensor, entropy_BT: Tensor, rollout: Rollout, advantages_BT: Tensor, kl_coef: float, config: Config
) -> PolicyLoss:
    """-ratio * advantage, mean over tokens: at ratio 1 the gradient is that of -log p * advantage.

    The ratio keeps later passes over a rollout unbiased; nothing is clipped. Hand-worked: one token, ratio e^0.5,
    advantage 2: loss -3.2974.
    """
    mask_BT = rollout.learn_mask_BT
    ratio_BT = ((logprobs_BT - rollout.logprobs_BT) * mask_BT).clamp(-20, 20).exp()
    return PolicyLoss(-(ratio_BT * advantages_BT * mask_BT).sum(1), mask_BT.sum(1))
