"""What a reward model learns from: rated pairs, a label and a margin for each of its heads."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.records import CANARY, MINED, read_table
from tasks.rlhf.batch import Example, Pair
from tasks.rlhf.options import CHOICE, RewardOptions

COLUMNS = ["cluster", "source", "prompt_ids", "a_ids", "b_ids", "label", "weight", "confidence", "scores"]
Scores = dict[str, tuple[float, float]]  # objective: (score of a, score of b)


@dataclass(frozen=True, kw_only=True)
class Comparison(Pair):
    """A pair of the store. `label` is that of the rater's choice; those of the heads may be NaN: nobody said."""

    labels: tuple[float, ...]  # P(a is preferred), one per head
    margins: tuple[float, ...]  # >= 0: what the raw scores of a decided pair are asked to differ by
    cluster: str = ""
    kind: str = ""  # of a counterexample: mined, or a kind of tasks/preferences/counterexamples.py
    way: str = ""  # how that was made; of a mined one, the start of its policy's hash
    equal: float = 0.0  # > 0: the pair should score the same; weight of (r_a - r_b)^2, its loss

    @property
    def counted(self) -> bool:
        """Whether a person (or labeller) compared this pair: only those count in figures about the comparisons."""
        return not self.planted and not self.kind

    @property
    def labelled(self) -> bool:
        return not all(math.isnan(label) for label in self.labels)


def read_comparisons(options: RewardOptions, *paths: Path) -> list[Comparison]:
    """The rows of one or several tables of pairs that carry a label for at least one head."""
    rows = [row for path in paths for row in read_table(path, COLUMNS).to_pylist()]
    return [comparison for row in rows if (comparison := _comparison(row, options)).labelled]


def check(rows: Sequence[Comparison], options: RewardOptions, where: Path) -> None:
    """ValueError where the rows lack what the options learn from."""
    if not rows:
        raise ValueError(
            f"{where}: no comparisons to learn from; check the sources of ingest, the shares of prepare, and "
            f"objectives = {options.objectives}"
        )
    for head, name in enumerate(heads(options)):
        if all(math.isnan(row.labels[head]) for row in rows):
            raise ValueError(
                f"reward: objectives has {name!r}, but none of the {len(rows)} comparisons of {where} carries scores "
                "for it; leave the objective out"
            )
    if options.margin is not None and not any(any(row.margins) for row in rows):
        raise ValueError(
            f"reward: margin.source = {options.margin.source}, but it gives none of the {len(rows)} comparisons of "
            f"{where} a margin above 0; set margin to null"
        )


def heads(options: RewardOptions) -> list[str]:
    """Names of the heads in their order in the network."""
    return sorted(options.objectives) or [CHOICE]


def left_out_by(cluster: str, members: Sequence[int]) -> int:
    """The member of an ensemble that does not train on a prompt: the one whose hash with it is highest.

    So every prompt is left out by one member, data that arrive change no prompt's place, and a member that joins
    takes its share from the others and moves nothing else (rendezvous hashing).
    """
    return max(members, key=lambda member: hashlib.sha256(f"{member}/{cluster}".encode()).digest())


def _comparison(row: dict[str, Any], options: RewardOptions) -> Comparison:
    scores: Scores = json.loads(row["scores"]) if row["scores"] else {}
    planted = row["source"] == CANARY
    is_mined = row["source"].startswith(MINED)
    return Comparison(
        Example(row["prompt_ids"], row["a_ids"]),
        Example(row["prompt_ids"], row["b_ids"]),
        row["label"],
        row["weight"],
        planted=planted,
        labels=tuple(_head_label(name, row["label"], scores, planted, options) for name in heads(options)),
        margins=tuple(_margin(name, row, scores, options) for name in heads(options)),
        cluster=row["cluster"],
        kind="mined" if is_mined else "",
        way=row["source"].removeprefix(MINED) if is_mined else "",
    )


def sure_label(head: str, label: float, options: RewardOptions) -> float:
    """Of a pair whose better reply is better in every respect: what makes the whole score say so."""
    return label if options.objectives.get(head, 1.0) > 0 else 1 - label


def _head_label(head: str, label: float, scores: Scores, planted: bool, options: RewardOptions) -> float:
    if planted:
        return sure_label(head, label, options)
    return label if head == CHOICE else _label(scores.get(head))


def _label(given: tuple[float, float] | None) -> float:
    """1 where a has the higher score, 0.5 for equal ones; NaN where there are none."""
    return math.nan if given is None else 0.5 + 0.5 * float(np.sign(given[0] - given[1]))


def _margin(head: str, row: dict[str, Any], scores: Scores, options: RewardOptions) -> float:
    """Of the rater's choice: confidence, or the mean lead in scores of the preferred reply, at least 0.

    Of another objective: the difference of its scores.
    """
    margin = options.margin
    if margin is None or (margin.source == "confidence" and head != CHOICE):
        return 0.0
    if margin.source == "confidence":
        return margin.size * float(row["confidence"])
    if head != CHOICE:
        return margin.size * abs(float(np.subtract(*scores[head]))) if head in scores else 0.0
    lead = float(np.mean([a - b for a, b in scores.values()])) if scores else 0.0
    return margin.size * max(0.0, lead if row["label"] > 0.5 else -lead)
