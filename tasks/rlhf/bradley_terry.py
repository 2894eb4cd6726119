"""Losses of reward models on comparisons. Bradley-Terry: P(a preferred) = sigmoid(r_a - r_b); Christiano 2017,
arXiv:1706.03741, eq. 1. A label is P(a preferred), 0.5 a tie; scores are raw, in nats of log-odds.

Ties as an outcome of their own: Davidson 1970, JASA 65, p. 317; Rao and Kupper 1967, JASA 62, p. 194.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, softplus

from tasks.rlhf.batch import LossOutput
from tasks.rlhf.options import ComparisonOptions

DEFAULT = ComparisonOptions()


def loss(
    a_B: Tensor,
    b_B: Tensor,
    label_B: Tensor,
    options: ComparisonOptions = DEFAULT,
    margin_B: Tensor | None = None,
    log_tie_B: Tensor | None = None,
) -> LossOutput:
    """Negative log-likelihood of the labels, plus what holds the scores down.

    `margin_B` (>= 0) is taken off the difference in favour of the preferred reply: -ln sigmoid(r_w - r_l - margin);
    Touvron 2023, arXiv:2307.09288, eq. 2. `log_tie_B` is ln nu or ln theta where `options.ties` is not `half`.

    Hand-worked: scores 1 and 0, label 1: -ln sigmoid(1) = 0.313262; label 0.5: 0.813262; margin 1: 0.693147.
    """
    difference_B = a_B - b_B
    tied_B = label_B == 0.5
    shifted_B = difference_B
    if margin_B is not None:
        shifted_B = difference_B - margin_B * torch.sign(2 * label_B - 1)
    smoothing = options.label_smoothing
    p_B = label_B * (1 - smoothing) + (1 - label_B) * smoothing
    if options.ties == "half":
        loss_B = half(shifted_B, p_B)
    else:
        assert log_tie_B is not None
        likelihood = {"davidson": davidson, "rao_kupper": rao_kupper}[options.ties]
        loss_B = likelihood(shifted_B, p_B, tied_B, log_tie_B)
    loss_B = loss_B + options.centering * (a_B + b_B) ** 2
    if options.l2:
        loss_B = loss_B + options.l2 * (a_B**2 + b_B**2)
    return LossOutput(loss_B, _metrics(a_B.detach(), b_B.detach(), label_B))


def half(difference_B: Tensor, p_B: Tensor) -> Tensor:
    """Cross-entropy of sigmoid(r_a - r_b) against the label; a tie is half a win of each."""
    return -p_B * logsigmoid(difference_B) - (1 - p_B) * logsigmoid(-difference_B)


def davidson(difference_B: Tensor, p_B: Tensor, tied_B: Tensor, log_nu_B: Tensor) -> Tensor:
    """P(a) : P(b) : P(tie) = e^(d/2) : e^(-d/2) : nu, with d = r_a - r_b.

    Hand-worked, d = 1, nu = 1: e^0.5 + e^-0.5 + 1 = 3.255252; label 1: ln 3.255252 - 0.5 = 0.680270; tie: 1.180270.
    """
    logits_B3 = torch.stack([difference_B / 2, -difference_B / 2, log_nu_B], dim=-1)
    a_B, b_B, tie_B = log_softmax(logits_B3, dim=-1).unbind(-1)
    return -torch.where(tied_B, tie_B, p_B * a_B + (1 - p_B) * b_B)


def rao_kupper(difference_B: Tensor, p_B: Tensor, tied_B: Tensor, log_theta_B: Tensor) -> Tensor:
    """P(a) = sigmoid(d - ln theta), P(b) = sigmoid(-d - ln theta), and the rest (theta^2 - 1) P(a) P(b) is P(tie).

    Hand-worked, d = 1, theta = 2: P(a) = e / (e + 2) = 0.576117, label 1: 0.551444; P(b) = 1 / (1 + 2e) = 0.155362,
    P(tie) = 0.268521, tie: 1.314827.
    """
    a_B, b_B = logsigmoid(difference_B - log_theta_B), logsigmoid(-difference_B - log_theta_B)
    tie_B = 2 * log_theta_B + torch.log1p(-torch.exp(-2 * log_theta_B)) + a_B + b_B
    return -torch.where(tied_B, tie_B, p_B * a_B + (1 - p_B) * b_B)


class TieParameters(torch.nn.Module):
    """nu of Davidson (> 0) or theta of Rao-Kupper (> 1), one per head; fixed or learned.

    A learned one starts where replies of equal score tie as often as the head's comparisons do.
    """

    def __init__(self, ties: str, fixed: float | None, tied_shares: Sequence[float]) -> None:
        super().__init__()
        self.ties, self.learned = ties, fixed is None
        self.raw_K = torch.nn.Parameter(torch.empty(len(tied_shares)), requires_grad=self.learned)
        for head, share in enumerate(tied_shares):
            start = fixed
            if start is None:
                start = {"davidson": 2 * share, "rao_kupper": 1 + share}[ties] / (1 - share)
            log = math.log(start)
            # ln theta stays above 0 as a softplus.
            self.raw_K.data[head] = log if ties == "davidson" else log + math.log(-math.expm1(-log))

    @property
    def log_K(self) -> Tensor:
        return self.raw_K if self.ties == "davidson" else softplus(self.raw_K)

    def record(self, heads: Sequence[str]) -> dict[str, Any]:
        """What reward.json says of them."""
        parameters = dict(zip(heads, self.log_K.detach().exp().tolist(), strict=True))
        return {"model": self.ties, "learned": self.learned, "parameters": parameters}


def _metrics(a_B: Tensor, b_B: Tensor, label_B: Tensor) -> dict[str, Tensor]:
    signed_B = (a_B - b_B) * torch.sign(2 * label_B - 1)
    correct_B = (signed_B > 0).float() + 0.5 * (signed_B == 0).float()
    decided_B = (label_B != 0.5).float()
    return {
        "accuracy": correct_B * decided_B + 0.5 * (1 - decided_B),
        "margin": signed_B,
        "score_size": (a_B.abs() + b_B.abs()) / 2,  # grows where nothing restrains the scores
    }
