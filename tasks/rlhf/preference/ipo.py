"""IPO: a squared loss that pulls two replies apart to a set gap and no further. Azar 2023, arXiv:2310.12036, eq. 17.

The paper writes log-ratios of whole replies (`sum`). TRL takes the `mean` per token and reports that the authors did
too; then the length of a reply does not decide how soon the gap is reached. One tau does not fit both.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt
from torch import Tensor

from tasks.rlhf.batch import LossOutput, PairLogps, preferred_less_other

NEEDS_REFERENCE = True


@dataclass(frozen=True, kw_only=True)
class Config:
    tau: Annotated[float, Gt(0)]  # no default: the margin aimed at is 1 / (2 tau); higher stays closer to the reference
    log_ratio: Literal["sum", "mean"]  # of a reply's tokens; no default: it changes what tau means


def loss(policy: PairLogps, reference: PairLogps, label_B: Tensor, config: Config) -> LossOutput:
    """(margin - (2 p - 1) / (2 tau))^2, p = P(a preferred): a tie pulls the margin to 0.

    This is p (margin - 1 / (2 tau))^2 + (1 - p) (margin + 1 / (2 tau))^2 less what does not depend on the policy.
    Hand-worked: tau 0.25, `sum`, log-ratios 2 (a) and -1 (b), label 1: (3 - 2)^2 = 1; of 4 and 1 tokens, `mean`:
    (2 / 4 + 1 / 1 - 2)^2 = 0.25.
    """
    a_B, b_B = policy.a_B - reference.a_B, policy.b_B - reference.b_B
    if config.log_ratio == "mean":
        a_B, b_B = a_B / policy.a_tokens_B, b_B / policy.b_tokens_B
    margin_B = a_B - b_B
    loss_B = (margin_B - (2 * label_B - 1) / (2 * config.tau)) ** 2
    return LossOutput(loss_B, {"implicit_margin": preferred_less_other(margin_B, label_B)})
