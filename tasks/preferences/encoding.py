"""Canonical rows as rows of tokens: what a prepared table has of each, or why a row is left out.

Raters have no say here: what their votes are worth depends on all votes (`parts.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from tasks.preferences.tokens import Encoder
from tasks.records import LABELS, PAIRS, Message, Preference, pair_row

Row = dict[str, Any]


class LeftOut(Exception):  # noqa: N818 - like StopIteration: not an error
    """A row that cannot be used; the argument is the reason it is counted under."""


@dataclass
class Conversion:
    """Turns canonical rows into tokenised ones."""

    encoder: Encoder
    max_length: int  # of prompt and reply, in tokens
    reply_room: int  # tokens kept free after a prompt of `prompts`
    long_prompts: Literal["drop", "truncate"]
    num_truncated: int = 0

    def rows(self, table: "Table", rows: list[Row]) -> list[Row | str]:
        """Each as tokens, or why it is left out."""
        replies = (row[key] for row in rows for key in _REPLIES if row.get(key))
        self.encoder.remember(replies, (row["prompt"] for row in rows))
        return [self._row(table, row) for row in rows]

    def _row(self, table: "Table", row: Row) -> Row | str:
        try:
            return table.convert(self, row)
        except LeftOut as reason:
            return str(reason)

    def has_room(self, prompt: list[Message], *replies: str) -> bool:
        """Whether each of the replies fits into the model behind the whole prompt."""
        longest = max(len(self.encoder.reply(reply)) for reply in replies)
        return len(self.encoder.prompt(prompt)) + longest <= self.max_length

    def prompt(self, row: Row) -> Row:
        prompt, prompt_ids = self._fit(row["prompt"], self.reply_room)
        return row | {"prompt": prompt, "prompt_ids": prompt_ids}

    def pair(self, row: Row) -> Row:
        if row["choice"] not in LABELS:
            raise LeftOut(row["choice"])
        a_ids, b_ids = self.encoder.reply(row["reply_a"]), self.encoder.reply(row["reply_b"])
        if a_ids == b_ids:
            raise LeftOut("identical_after_tokenization")
        limit = self.max_length
        if max(len(a_ids), len(b_ids)) > limit and a_ids[:limit] == b_ids[:limit]:
            raise LeftOut("identical_after_truncation")  # too long as well, and worthless if it were cut
        prompt, prompt_ids = self._fit(row["prompt"], max(len(a_ids), len(b_ids)))
        return pair_row(Preference(**row | {"prompt": prompt}), prompt_ids, a_ids, b_ids)

    def answer(self, row: Row) -> Row:
        reply_ids = self.encoder.reply(row["reply"])
        prompt, prompt_ids = self._fit(row["prompt"], len(reply_ids))
        return row | {"prompt": prompt, "prompt_ids": prompt_ids, "reply_ids": reply_ids}

    def solution(self, row: Row) -> Row:
        return self.answer({"weight": 1.0} | row | {"reply": "\n".join(row["steps"])})

    def _fit(self, prompt: list[Message], room: int) -> tuple[list[Message], list[int]]:
        """The prompt and its ids, where `room` more tokens still fit into the model.

        Only a prompt is ever cut, only between turns, and only where params ask for it.
        """
        ids = self.encoder.prompt(prompt)
        shorter = prompt
        while len(ids) + room > self.max_length:
            shorter = without_oldest_turn(shorter) if self.long_prompts == "truncate" else []
            if not shorter:
                raise LeftOut("too_long")
            ids = self.encoder.prompt(shorter)
        self.num_truncated += shorter is not prompt
        return shorter, ids


def without_oldest_turn(prompt: list[Message]) -> list[Message]:
    """A prompt less its oldest question and answer; nothing where only the last question is left."""
    system = [message for message in prompt[:1] if message["role"] == "system"]
    rest = prompt[len(system) + 2 :]
    return system + rest if rest else []


@dataclass(frozen=True)
class Table:
    """A prepared table."""

    dataset: str  # that it is made of
    columns: pa.Schema
    convert: Callable[[Conversion, Row], Row]
    lengths: dict[str, str]  # {column of tokens: the name that its lengths are reported by}


_TEXT, _IDS = pa.string(), pa.list_(pa.int32())
_SHARED = [(name, _TEXT) for name in ("id", "cluster", "source")]
_PROMPT = [PAIRS.field("prompt"), PAIRS.field("prompt_ids")]
_REPLIES = ("reply", "reply_a", "reply_b")
TABLES = {
    "demonstrations": Table(
        "demonstrations",
        pa.schema([*_SHARED, ("domain", _TEXT), ("reply", _TEXT), *_PROMPT, ("reply_ids", _IDS)]),
        Conversion.answer,
        {"prompt_ids": "demonstration_prompt", "reply_ids": "demonstration_reply"},
    ),
    "prompts": Table(
        "prompts",
        pa.schema([*_SHARED, ("domain", _TEXT), ("verifier", _TEXT), *_PROMPT]),
        Conversion.prompt,
        {"prompt_ids": "prompt"},
    ),
    "safety": Table(
        "safety",
        pa.schema([*_SHARED, ("category", _TEXT), ("expected", _TEXT), *_PROMPT]),
        Conversion.prompt,
        {"prompt_ids": "prompt"},
    ),
    "pairs": Table(
        "preferences",
        PAIRS,
        Conversion.pair,
        {"prompt_ids": "pair_prompt", "a_ids": "pair_reply", "b_ids": "pair_reply"},
    ),
    "solutions": Table(
        "solutions",
        pa.schema(
            [
                *_SHARED,
                ("domain", _TEXT),
                ("reply", _TEXT),
                *_PROMPT,
                ("reply_ids", _IDS),
                ("labels", pa.list_(pa.bool_())),
                ("correct", pa.bool_()),
                ("weight", pa.float64()),
            ]
        ),
        Conversion.solution,
        {"reply_ids": "solution"},
    ),
    "feedback": Table(
        "feedback",
        pa.schema(
            [
                *_SHARED,
                *((name, _TEXT) for name in ("domain", "rater", "signal", "reply")),
                *_PROMPT,
                ("reply_ids", _IDS),
                ("desirable", pa.bool_()),
                ("weight", pa.float64()),
            ]
        ),
        Conversion.answer,
        {"reply_ids": "feedback"},
    ),
}
