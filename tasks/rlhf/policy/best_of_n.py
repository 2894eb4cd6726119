"""Best of n: the best reply to each prompt becomes a demonstration. Touvron 2023, arXiv:2307.09288, sec. 3.2.3; RAFT
(Dong 2023, arXiv:2304.06767).

Best is the highest score less kl_coef * log(policy / reference) of the reply. A winner has to beat another reply: a
prompt whose replies all earn the same teaches nothing.
"""

from dataclasses import dataclass

from torch import Tensor

from tasks.rlhf.advantages import first_best, reward_tokens, spread
from tasks.rlhf.batch import Lesson, PolicyLoss, Rollout

NEEDS_CRITIC = False
NEEDS_KL = False
MIN_REPLIES = 2
STEP_SCORES = "reply"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing to choose: n is `replies_per_prompt`."""


def advantages(rollout: Rollout, kl_coef: float, config: Config) -> Lesson:
    """1 on the winners' tokens, 0 elsewhere; only winners are kept."""
    rewards_B = reward_tokens(rollout, kl_coef).sum(1)
    differ_B = spread(rewards_B, rollout.scored_B, rollout.prompt_B)
    winner_B = first_best(rewards_B, differ_B, rollout.prompt_B)
    return Lesson((winner_B[:, None] & rollout.reply_mask_BT).to(rewards_B.dtype), winner_B)


def loss(
    logprobs_BT: Tensor, entropy_BT: Tensor, rollout: Rollout, advantages_BT: Tensor, kl_coef: float, config: Config
) -> PolicyLoss:
    """-log p * advantage, mean over tokens: SFT on the winners. Hand-worked: log p -2 and -1: loss 3 over 2 tokens."""
    mask_BT = rollout.learn_mask_BT
    return PolicyLoss(-(logprobs_BT * advantages_BT * mask_BT).sum(1), mask_BT.sum(1))
