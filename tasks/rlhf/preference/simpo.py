"""SimPO: the mean log-prob of a token leads by a margin; needs no reference. Meng 2024, arXiv:2405.14734, eq. 6."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.rlhf.batch import LossOutput, PairLogps, preferred_less_other

NEEDS_REFERENCE = False


@dataclass(frozen=True, kw_only=True)
class Config:
    beta: Annotated[float, Gt(0)]  # scale of the implicit reward; 2 to 10 in the paper, far above DPO's
    gamma: Annotated[float, Ge(0)]  # by how much the preferred reply's reward is to lead


def loss(policy: PairLogps, reference: PairLogps | None, label_B: Tensor, config: Config) -> LossOutput:
    """p l(margin - gamma) + (1 - p) l(-margin - gamma), l(x) = -ln sigmoid(x), p = P(a preferred): a tie pulls to 0.

    Hand-worked: beta 2, gamma 0.5, log-probs -4 of 4 tokens (a) and -3 of 2 (b), label 1: rewards -2 and -3, margin 1,
    loss -ln sigmoid(0.5) = 0.474077.
    """
    a_B = config.beta * policy.a_B / policy.a_tokens_B  # implicit rewards
    b_B = config.beta * policy.b_B / policy.b_tokens_B
    margin_B = a_B - b_B
    loss_B = -label_B * logsigmoid(margin_B - config.gamma) - (1 - label_B) * logsigmoid(-margin_B - config.gamma)
    return LossOutput(loss_B, {"implicit_margin": preferred_less_other(margin_B, label_B)})
