"""Counterexamples and swaps (tasks/preferences/counterexamples.py) as comparisons, to learn from or be asked about."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.records import Message
from tasks.rlhf.batch import Example
from tasks.rlhf.comparisons import Comparison, heads, sure_label
from tasks.rlhf.options import CHOICE, RewardOptions
from tasks.rlhf.reward_model import RewardModel, lead
from tasks.rlhf.reward_quality import told_right


class Text(Protocol):
    @property
    def kind(self) -> str: ...
    @property
    def way(self) -> str: ...
    @property
    def cluster(self) -> str: ...
    @property
    def prompt(self) -> list[Message]: ...
    @property
    def reply(self) -> str: ...
    @property
    def other_prompt(self) -> list[Message]: ...
    @property
    def other(self) -> str: ...


class Encoder(Protocol):
    def prompt(self, messages: Sequence[Message]) -> list[int]: ...
    def reply(self, text: str) -> list[int]: ...


def tokenised(
    texts: Sequence[Text], encoder: Encoder, options: RewardOptions, max_length: int, equal: float | None = None
) -> list[Comparison]:
    """A comparison of weight 1 for each text that fits into `max_length` tokens; the better side is a and b in turn.

    `equal`: they are swaps, and this is the weight of their gap's square.
    """
    rows: list[Comparison] = []
    for text in texts:
        better = Example(encoder.prompt(text.prompt), encoder.reply(text.reply))
        worse = Example(encoder.prompt(text.other_prompt), encoder.reply(text.other))
        if max(better.length, worse.length) <= max_length:
            is_a = len(rows) % 2 == 0
            label = 0.5 if equal is not None else float(is_a)
            rows.append(
                Comparison(
                    *((better, worse) if is_a else (worse, better)),
                    label,
                    1.0,
                    labels=tuple(_label(name, label, options) for name in heads(options)),
                    margins=(0.0,) * len(heads(options)),
                    cluster=text.cluster,
                    kind=text.kind,
                    way=text.way,
                    equal=equal or 0.0,
                )
            )
    return rows


def _label(head: str, label: float, options: RewardOptions) -> float:
    """A swap asks every head. Who is worse, the head of the choice is told alone: a wrong reply may be a safe one."""
    is_told = label == 0.5 or head == CHOICE or CHOICE not in heads(options)
    return sure_label(head, label, options) if is_told else float("nan")


def right(model: RewardModel, rows: Sequence[Comparison]) -> NDArray[np.float64]:
    """1 where the better side scores higher, 0 where lower, 0.5 where the same, [len(rows)]."""
    return told_right(_gaps(model, rows), np.array([row.label for row in rows]))


def gap_sizes(model: RewardModel, rows: Sequence[Comparison]) -> NDArray[np.float64]:
    """|score a - score b| in standard deviations of the scores of SFT replies, [len(rows)]."""
    return np.abs(_gaps(model, rows))


def _gaps(model: RewardModel, rows: Sequence[Comparison]) -> NDArray[np.float64]:
    return np.asarray(lead(model, [row.a for row in rows], [row.b for row in rows]))
