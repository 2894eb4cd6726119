"""Fitting a reward model to comparisons: the dataset loop under the loss of bradley_terry.py, one label per head."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tasks.rlhf import bradley_terry
from tasks.rlhf.batch import LossOutput, Tracker
from tasks.rlhf.batching import distinct
from tasks.rlhf.comparisons import Comparison
from tasks.rlhf.dataset import both
from tasks.rlhf.options import RewardOptions
from tasks.rlhf.reward_model import RewardModel
from tasks.rlhf.train_on_dataset import train_on_dataset


def train(
    model: RewardModel, network: Any, rows: Sequence[Comparison], options: RewardOptions, seed: int, tracker: Tracker
) -> None:
    """Fit `network`, the trainable form of `model.network` (itself, or with adapters), to the rows. In place."""
    ties = tie_parameters(rows, options, list(model.objectives))
    # The tie parameters learn beside the network, in one optimiser.
    learner = network
    if ties is not None:
        learner = torch.nn.ModuleDict({"network": network, "ties": ties.to(model.network.device)})

    def loss(batch: list[Comparison]) -> LossOutput:
        examples, places = distinct(both(batch))
        a_BK, b_BK = model.heads(examples)[places].chunk(2)
        return heads_loss(a_BK, b_BK, batch, options, None if ties is None else ties.log_K)

    train_on_dataset(
        learner, rows, loss, lambda row: row.weight, options, seed, tracker, is_counted=lambda row: row.counted
    )
    model.ties = None if ties is None else ties.record(list(model.objectives))


def heads_loss(
    a_BK: Tensor, b_BK: Tensor, rows: Sequence[Comparison], options: RewardOptions, log_tie_K: Tensor | None
) -> LossOutput:
    """The sum of the losses of the heads that have a label, per row; metrics are means over those heads.

    A pair that should score the same costs the square of its gap: counterfactual logit pairing,
    Garg 2019, arXiv:1809.10610, with a square for the absolute value.

    Every pair and head is a comparison of its own, so the loss is that of one head with B * K rows.
    """
    label_BK = torch.tensor([row.labels for row in rows], device=a_BK.device)
    known_BK = ~label_BK.isnan()
    margin_BK = torch.tensor([row.margins for row in rows], device=a_BK.device)
    output = bradley_terry.loss(
        a_BK.flatten(),
        b_BK.flatten(),
        label_BK.nan_to_num(0.5).flatten(),
        options,
        None if options.margin is None else margin_BK.flatten(),
        None if log_tie_K is None else log_tie_K.expand_as(a_BK).flatten(),
    )
    loss_BK = output.loss_B.view_as(a_BK)
    if any(row.equal for row in rows):
        equal_B1 = torch.tensor([[row.equal] for row in rows], device=a_BK.device)
        loss_BK = torch.where(equal_B1 > 0, equal_B1 * (a_BK - b_BK) ** 2, loss_BK)
    metrics = {name: value.view_as(a_BK) * known_BK for name, value in output.metrics.items()}
    return LossOutput(
        (loss_BK * known_BK).sum(1),
        {name: value_BK.sum(1) / known_BK.sum(1) for name, value_BK in metrics.items()},
    )


def tie_parameters(
    rows: Sequence[Comparison], options: RewardOptions, heads: Sequence[str]
) -> bradley_terry.TieParameters | None:
    """A parameter of the tie model per head; None for `ties: half`. ValueError where nothing teaches one."""
    if options.ties == "half":
        return None
    own = [row for row in rows if row.counted]  # nothing planted or made says how often people tie
    shares = [_tied_share([(row.labels[head], row.weight) for row in own]) for head in range(len(heads))]
    for name, share in zip(heads, shares, strict=True):
        if options.tie_parameter is None and not 0 < share < 1:
            raise ValueError(
                f"reward: ties = {options.ties} learns its parameter from ties, and {share:.0%} of the comparisons of "
                f"{name!r} are ties; use `ties: half` or give tie_parameter"
            )
    return bradley_terry.TieParameters(options.ties, options.tie_parameter, shares)


def _tied_share(labels: Sequence[tuple[float, float]]) -> float:
    """Of the weight that carries a label (NaN is none)."""
    total = sum(weight for label, weight in labels if label == label)
    return sum(weight for label, weight in labels if label == 0.5) / total if total else 0.0
