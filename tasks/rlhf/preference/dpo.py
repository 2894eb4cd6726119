"""DPO: prefer the chosen reply, measured against a frozen reference. Rafailov 2023, arXiv:2305.18290, eq. 7."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Lt
from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.rlhf.batch import LossOutput, PairLogps, preferred_less_other

NEEDS_REFERENCE = True


@dataclass(frozen=True, kw_only=True)
class Config:
    beta: Annotated[float, Gt(0)]  # no default: higher stays closer to the reference
    label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0  # share of labels assumed flipped (cDPO)


def loss(policy: PairLogps, reference: PairLogps, label_B: Tensor, config: Config) -> LossOutput:
    """Cross-entropy of P(a preferred) = sigmoid(margin) against the label; a tie is 0.5.

    Hand-worked: beta 0.1, log-ratios 2 (a) and -1 (b), label 1: margin 0.3, loss -ln sigmoid(0.3) = 0.554355.
    """
    a_B = config.beta * (policy.a_B - reference.a_B)  # implicit rewards
    b_B = config.beta * (policy.b_B - reference.b_B)
    margin_B = a_B - b_B
    p_B = label_B * (1 - config.label_smoothing) + (1 - label_B) * config.label_smoothing
    loss_B = -p_B * logsigmoid(margin_B) - (1 - p_B) * logsigmoid(-margin_B)
    return LossOutput(loss_B, {"implicit_margin": preferred_less_other(margin_B, label_B)})
