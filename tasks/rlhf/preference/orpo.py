"""ORPO: imitate the preferred reply and raise its odds over the other's. Hong 2024, arXiv:2403.07691, eq. 6.

Needs no reference. The likelihood term is part of the algorithm: `sft_weight`, where it is given, comes on top of it.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.rlhf.batch import LossOutput, PairLogps, preferred_less_other, preferred_nll

NEEDS_REFERENCE = False


@dataclass(frozen=True, kw_only=True)
class Config:
    lam: Annotated[float, Gt(0)]  # weight of the odds-ratio term beside the likelihood term


def loss(policy: PairLogps, reference: PairLogps | None, label_B: Tensor, config: Config) -> LossOutput:
    """-log p per token of the preferred reply - lam (p ln sigmoid(r) + (1 - p) ln sigmoid(-r)), p = P(a preferred).

    r is the log of odds(a) / odds(b), odds = P / (1 - P), where P is the geometric mean of the token probabilities.
    A tie imitates neither reply and pulls r to 0.
    Hand-worked: P = 1/2 (a) and 1/4 (b), lam 0.1, label 1: odds 1 and 1/3, r = ln 3, sigmoid(r) = 3/4, loss
    ln 2 - 0.1 ln(3/4) = 0.721915.
    """
    log_odds_ratio_B = _log_odds(policy.a_B / policy.a_tokens_B) - _log_odds(policy.b_B / policy.b_tokens_B)
    ratio_loss_B = -label_B * logsigmoid(log_odds_ratio_B) - (1 - label_B) * logsigmoid(-log_odds_ratio_B)
    nll_B = preferred_nll(policy, label_B)
    metrics = {
        "implicit_margin": preferred_less_other(log_odds_ratio_B, label_B),
        "odds_ratio_loss": ratio_loss_B.detach(),
        "nll": nll_B.detach(),
    }
    return LossOutput(nll_B + config.lam * ratio_loss_B, metrics)


def _log_odds(logp_B: Tensor) -> Tensor:
    """log(P / (1 - P)) of log P; of P = 1, whose odds are infinite, that of the number just below it."""
    below_B = logp_B.clamp(max=-torch.finfo(logp_B.dtype).eps)
    near_one_B = torch.log(-torch.expm1(below_B))  # each form is exact where the other cancels
    return below_B - torch.where(below_B > -0.7, near_one_B, torch.log1p(-torch.exp(below_B)))
