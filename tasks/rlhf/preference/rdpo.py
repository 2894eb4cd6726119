"""Robust DPO: DPO as it would be without the labels that raters flip. Chowdhury 2024, arXiv:2403.00409, section 3.1.

cDPO (`label_smoothing` of dpo.py) expects the noise too, but aims at less certain preferences; this loss is unbiased:
its mean over random flips is the loss on the true labels. Raters of one known reliability are the case it is made for.
It has no lower bound, so nothing but the number of steps ends the pull on a pair.
"""

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
    flip_rate: Annotated[float, Ge(0), Lt(0.5)]  # share of the labels that are wrong; 0 is DPO


def loss(policy: PairLogps, reference: PairLogps, label_B: Tensor, config: Config) -> LossOutput:
    """DPO's cross-entropy with the label p replaced by (p - flip_rate) / (1 - 2 flip_rate), which may leave [0, 1].

    For a label of 1 it is ((1 - e) l(m) - e l(-m)) / (1 - 2 e), l(m) = -ln sigmoid(m). A tie stays one.
    Hand-worked: beta 0.1, log-ratios 2 and -1, so margin 0.3, label 1, flip_rate 0.2: (0.8 * 0.554355 - 0.2 * 0.854355)
    / 0.6 = 0.454355.
    """
    a_B = config.beta * (policy.a_B - reference.a_B)  # implicit rewards
    b_B = config.beta * (policy.b_B - reference.b_B)
    margin_B = a_B - b_B
    p_B = (label_B - config.flip_rate) / (1 - 2 * config.flip_rate)
    loss_B = -p_B * logsigmoid(margin_B) - (1 - p_B) * logsigmoid(-margin_B)
    return LossOutput(loss_B, {"implicit_margin": preferred_less_other(margin_B, label_B)})
