"""KTO: each reply by itself, wanted or not, against a reference point. Ethayarajh 2024, arXiv:2402.01306, eq. 7.

Needs no pairs: it learns from feedback on single replies (data/prepared/feedback) as they come. Pairs are read as two
verdicts: the preferred reply is wanted, the other is not; a tie is left out.
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt
from torch import Tensor, sigmoid

from tasks.rlhf.batch import LossOutput

NEEDS_REFERENCE = True
UNPAIRED = True  # the loop is train_on_feedback.py


@dataclass(frozen=True, kw_only=True)
class Config:
    beta: Annotated[float, Gt(0)]  # no default: higher is more averse to leaving the reference
    desirable_weight: Annotated[float, Ge(0)] = 1.0  # with unequal numbers of wanted and unwanted rows, choose them so
    undesirable_weight: Annotated[float, Ge(0)] = 1.0  # that the ratio of the weighted numbers is from 1 to 4/3

    def __post_init__(self) -> None:
        if self.desirable_weight == self.undesirable_weight == 0:
            raise ValueError("desirable_weight and undesirable_weight are both 0: nothing would be learned")


def reference_point(log_ratio_B: Tensor, weight_B: Tensor) -> Tensor:
    """z0, an estimate of KL(policy || reference), nats per reply: the mean log-ratio of mismatched replies, at least 0.

    log_ratio_B: log(policy / reference) of each row's mismatched reply, of all rows of an optimiser step. No gradient
    passes. Hand-worked: log-ratios 3 and -1 of weights 1 and 1: 1; of weights 1 and 4: 0.
    """
    return ((log_ratio_B * weight_B).sum() / weight_B.sum()).clamp(min=0).detach()


def loss(policy_B: Tensor, reference_B: Tensor, desirable_B: Tensor, z0: Tensor, config: Config) -> LossOutput:
    """d w_D (1 - sigmoid(beta (r - z0))) + (1 - d) w_U (1 - sigmoid(beta (z0 - r))), d = P(wanted).

    policy_B, reference_B: log-probs of whole replies, in nats; r is their difference, z0 is `reference_point`.
    Hand-worked: beta 0.5, r 3, z0 1: sigmoid(1) = 0.731059, loss 0.268941 if wanted, 0.731059 if not.
    """
    reward_B = config.beta * (policy_B - reference_B)  # implicit
    beyond_B = reward_B - config.beta * z0
    wanted_B = config.desirable_weight * desirable_B * (1 - sigmoid(beyond_B))
    unwanted_B = config.undesirable_weight * (1 - desirable_B) * (1 - sigmoid(-beyond_B))
    return LossOutput(wanted_B + unwanted_B, {"implicit_reward": reward_B.detach()})
