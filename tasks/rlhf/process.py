"""Process reward model: P(a step is right), read at the step's last token. Lightman 2023, arXiv:2305.20050.

A step ends where SEPARATOR does: at the token that holds the line break, and the last step at the reply's last token
(its EOS). Blank lines belong to the step before them. Scores are raw log-odds.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.records import CANARY, read_table
from tasks.rlhf import outcome, packing
from tasks.rlhf.batch import Example, LossOutput, Tracker
from tasks.rlhf.logprobs import measured_batches, unwrapped
from tasks.rlhf.options import DatasetOptions
from tasks.rlhf.reward_model import RewardModel
from tasks.rlhf.train_on_dataset import train_on_dataset

SEPARATOR = "\n"


@dataclass(frozen=True)
class Solution:
    """A reply in steps: where each ends (position in the reply), and whether it is right (None: nobody said)."""

    example: Example
    ends: Sequence[int]
    labels: Sequence[bool | None]
    correct: bool | None = None  # whether the final answer is right
    domain: str = ""
    cluster: str = ""
    weight: float = 1.0
    planted: bool = False  # by the canary: learned from, and counted nowhere

    def __post_init__(self) -> None:
        if len(self.ends) != len(self.labels):
            raise ValueError(
                f"process: a reply has {len(self.ends)} steps (lines) and {len(self.labels)} labels; each line needs "
                "one, null where it is not labelled"
            )

    @property
    def examples(self) -> tuple[Example, ...]:
        return (self.example,)

    @property
    def num_labelled(self) -> int:
        return sum(label is not None for label in self.labels)


def read_solutions(path: Path, tokenizer: Any) -> list[Solution]:
    """Prepared solutions: columns `prompt_ids`, `reply_ids`, `labels`, `correct`, `domain`, `cluster`, `weight`,
    `source`, `id`.

    ValueError, naming the row, where its lines in tokens are not as many as its labels.
    """
    separators = separator_ids(tokenizer)
    rows = []
    for row in read_table(path).to_pylist():
        ends = step_ends(row["reply_ids"], separators, tokenizer.eos_token_id)
        example = Example(row["prompt_ids"], row["reply_ids"])
        said = {name: row[name] for name in ("labels", "correct", "domain", "cluster", "weight")}
        try:
            rows.append(Solution(example=example, ends=ends, planted=row["source"] == CANARY, **said))
        except ValueError as error:
            raise ValueError(f"{path}: solution {row['id']}: {error}") from None
    return rows


def verdicts(rows: Sequence[Solution]) -> list[outcome.Verdict]:
    """Of the solutions whose final answer was judged."""
    return [
        outcome.Verdict(row.example, row.correct, row.weight, row.planted) for row in rows if row.correct is not None
    ]


def separator_ids(tokenizer: Any, separator: str = SEPARATOR) -> frozenset[int]:
    """The tokens that hold a line break, alone or merged with what stands before it."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return frozenset(i for i, text in enumerate(texts) if separator in text)


def step_ends(reply_ids: Sequence[int], separators: Collection[int], eos_id: int) -> list[int]:
    """Position of each step's last token; a reply without content is one step."""
    ends: list[int] = []
    inside = False
    for position, token in enumerate(reply_ids):
        if token not in separators and token != eos_id:
            inside = True
        elif inside:
            ends.append(position)
            inside = False
        elif ends:
            ends[-1] = position
    return ends if ends and not inside else [*ends, len(reply_ids) - 1]


def unlabelled(examples: Sequence[Example], separators: Collection[int], eos_id: int) -> list[Solution]:
    """Replies as solutions of which nobody said anything."""
    ends = [step_ends(each.reply_ids, separators, eos_id) for each in examples]
    return [Solution(each, found, [None] * len(found)) for each, found in zip(examples, ends, strict=True)]


def forward(model: RewardModel, rows: Sequence[Solution]) -> Tensor:
    """Raw scores of all steps, end to end over the rows: float32 [S]."""
    network = unwrapped(model.network)
    packed = packing.rows_of([row.example for row in rows], network.config)
    places = [int(start) + end for start, row in zip(packed.starts_B, rows, strict=True) for end in row.ends]
    scores_S: Tensor = model.read(packing.states(network.base_model, packed, np.array(places)))[:, 0]
    return scores_S


def train(
    model: RewardModel, network: Any, rows: Sequence[Solution], options: DatasetOptions, seed: int, tracker: Tracker
) -> None:
    """Fit `network`, the trainable form of `model.network`, to the labels: cross-entropy per labelled step. In place.

    Raises ValueError where all labels are alike.
    """
    labelled = [row for row in rows if row.num_labelled]
    own = [row for row in labelled if not row.planted]
    if len({label for row in own for label in row.labels if label is not None}) < 2:
        raise ValueError(f"process: the labels of {len(rows)} replies are all alike; it takes right and wrong steps")

    def loss(batch: list[Solution]) -> LossOutput:
        score_S = forward(model, batch)
        known_S = torch.tensor([label is not None for row in batch for label in row.labels], device=score_S.device)
        right_S = torch.tensor([bool(label) for row in batch for label in row.labels], device=score_S.device)
        steps = outcome.loss(score_S, right_S)
        return LossOutput(
            _row_means(steps.loss_B, known_S, batch),
            {"step_accuracy": _row_means(steps.metrics["accuracy"], known_S, batch)},
        )

    train_on_dataset(
        network,
        labelled,
        loss,
        lambda row: row.weight * row.num_labelled,
        options,
        seed,
        tracker,
        is_counted=lambda row: not row.planted,
    )


def _row_means(values_S: Tensor, known_S: Tensor, rows: Sequence[Solution]) -> Tensor:
    """Means over each row's labelled steps, [B]."""
    sizes = [len(row.ends) for row in rows]
    pieces = zip(values_S.split(sizes), known_S.split(sizes), strict=True)
    return torch.stack([(values * known).sum() / known.sum() for values, known in pieces])


@torch.no_grad()
def step_probabilities(model: RewardModel, rows: Sequence[Solution], batch_tokens: int = 2048) -> list[np.ndarray]:
    """P(right) of each step, a float64 array per row."""
    found: list[np.ndarray] = [np.empty(0)] * len(rows)
    for index in measured_batches([row.example for row in rows], batch_tokens):
        batch = [rows[i] for i in index]
        scores = torch.sigmoid(forward(model, batch).double()).cpu().split([len(row.ends) for row in batch])
        for i, row_scores in zip(index, scores, strict=True):
            found[i] = row_scores.numpy()
    return found


def mean_probabilities(model: RewardModel, examples: Sequence[Example], tokenizer: Any) -> np.ndarray:
    """The mean of P(right) over each reply's steps, float64 [B]."""
    rows = unlabelled(examples, separator_ids(tokenizer), tokenizer.eos_token_id)
    return np.array([found.mean() for found in step_probabilities(model, rows)])


def reply_score(steps: np.ndarray, how: str) -> float:
    """One number for ranking replies: `min` of the steps' probabilities, their `product`, or the `last` one."""
    known = {"min": steps.min(), "product": steps.prod(), "last": steps[-1]}
    if how not in known:
        raise ValueError(f"process: {how!r} is no way to rank replies; known: {', '.join(known)}")
    return float(known[how])


def measure(probabilities: Sequence[np.ndarray], rows: Sequence[Solution]) -> dict[str, float | None]:
    """The means of `judgements`; None where no row can say."""
    found = judgements(probabilities, rows)
    return {name: float(np.mean([value for _, value in values])) if values else None for name, values in found.items()}


def auc(probabilities: Sequence[np.ndarray], rows: Sequence[Solution]) -> float | None:
    """The chance that a right step scores above a wrong one, of any reply; None where all labels are alike."""
    labels = [label for row in rows for label in row.labels]
    known = np.array([label is not None for label in labels], dtype=bool)
    right = np.array([bool(label) for label in labels], dtype=bool)
    return outcome.auc(np.concatenate([np.empty(0), *probabilities])[known], right[known])


def judgements(probabilities: Sequence[np.ndarray], rows: Sequence[Solution]) -> dict[str, list[tuple[int, bool]]]:
    """How well steps are judged: for each figure (number of the row, yes or no), as often as a row can say.

    `step_accuracy`: labelled steps told right at probability 1/2. `first_error_accuracy`: of the replies with a bad
    step, those whose first one is the first that the model calls bad; `clean_accuracy`: of those without, the ones
    in which it calls none bad (Zheng 2024, arXiv:2412.06559). `lucky_guess_rate`: of the replies with the right
    answer, those with a bad step; `lucky_guess_found`: of these, the ones in which the model calls a step bad.
    """
    names = ("step_accuracy", "first_error_accuracy", "clean_accuracy", "lucky_guess_rate", "lucky_guess_found")
    found: dict[str, list[tuple[int, bool]]] = {name: [] for name in names}
    for number, (values, row) in enumerate(zip(probabilities, rows, strict=True)):
        pairs = zip(values, row.labels, strict=True)
        found["step_accuracy"] += [(number, bool((p > 0.5) == label)) for p, label in pairs if label is not None]
        true = _first_bad([label is False for label in row.labels])
        called = _first_bad((values <= 0.5).tolist())
        # Up to the first error (or throughout) somebody has to have looked.
        if None not in row.labels[: len(row.labels) if true is None else true]:
            name = "clean_accuracy" if true is None else "first_error_accuracy"
            found[name].append((number, called == true))
        if row.correct and None not in row.labels:
            found["lucky_guess_rate"].append((number, true is not None))
            if true is not None:
                found["lucky_guess_found"].append((number, called is not None))
    return found


def _first_bad(bad: Sequence[bool]) -> int | None:
    return next((position for position, is_bad in enumerate(bad) if is_bad), None)
