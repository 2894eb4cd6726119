"""Outcome reward model: P(the final answer of a reply is right), read at its last token. Cobbe 2021, arXiv:2110.14168.

Pointwise: rows are single replies with a verdict, not comparisons. Scores are raw log-odds; `sigmoid` of them is the
probability.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tasks.rlhf.batch import Example, LossOutput, Tracker
from tasks.rlhf.batching import distinct
from tasks.rlhf.options import DatasetOptions
from tasks.rlhf.reward_model import RewardModel, score_examples
from tasks.rlhf.train_on_dataset import train_on_dataset


@dataclass(frozen=True)
class Verdict:
    """A reply and whether its final answer is right."""

    example: Example
    correct: bool
    weight: float = 1.0
    planted: bool = False  # by the canary: learned from, and counted nowhere

    @property
    def examples(self) -> tuple[Example, ...]:
        return (self.example,)


def loss(score_B: Tensor, correct_B: Tensor) -> LossOutput:
    """Binary cross-entropy of sigmoid(score) against the verdict.

    Hand-worked: score 1, right: -ln sigmoid(1) = 0.313262; wrong: -ln sigmoid(-1) = 1.313262.
    """
    loss_B = -torch.where(correct_B, logsigmoid(score_B), logsigmoid(-score_B))
    return LossOutput(loss_B, {"accuracy": ((score_B.detach() > 0) == correct_B).float()})


def train(
    model: RewardModel, network: Any, rows: Sequence[Verdict], options: DatasetOptions, seed: int, tracker: Tracker
) -> None:
    """Fit `network`, the trainable form of `model.network`, to the verdicts. In place.

    Raises ValueError where all verdicts are alike: nothing can be told apart.
    """
    own = [row for row in rows if not row.planted]
    if len({row.correct for row in own}) < 2:
        raise ValueError(f"outcome: all {len(own)} verdicts are alike; it takes right and wrong answers to learn")

    def row_loss(batch: list[Verdict]) -> LossOutput:
        examples, places = distinct(row.example for row in batch)
        score_B = model.forward(examples)[places]
        return loss(score_B, torch.tensor([row.correct for row in batch], device=score_B.device))

    train_on_dataset(
        network,
        rows,
        row_loss,
        lambda row: row.weight,
        options,
        seed,
        tracker,
        is_counted=lambda row: not row.planted,
    )


def measure(model: RewardModel, rows: Sequence[Verdict]) -> dict[str, float | None]:
    """Accuracy at probability 1/2, and `auc`."""
    scores, correct = _scored(model, rows)
    return {"accuracy": float(((scores > 0) == correct).mean()), "auc": auc(scores, correct)}


def auc(scores: np.ndarray, correct: np.ndarray) -> float | None:
    """The chance that what is right scores above what is wrong, a tie half; None where all of it is alike."""
    right, wrong = scores[correct], np.sort(scores[~correct])
    if not (len(right) and len(wrong)):
        return None
    below = [np.searchsorted(wrong, right, side) for side in ("left", "right")]
    return float(np.mean(below) / len(wrong))


def told_right(model: RewardModel, rows: Sequence[Verdict]) -> list[bool]:
    """Which verdicts the model agrees with, at probability 1/2."""
    scores, correct = _scored(model, rows)
    return [bool(right) for right in (scores > 0) == correct]


def _scored(model: RewardModel, rows: Sequence[Verdict]) -> tuple[np.ndarray, np.ndarray]:
    return score_examples(model, [row.example for row in rows]), np.array([row.correct for row in rows])
