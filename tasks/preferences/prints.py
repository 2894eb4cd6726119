"""Fingerprints of rows: all that is asked of a row beside others and can be worked out of the row alone.

The process that judges a batch makes them, so that the one that holds rows against those before has little left to do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tasks.preferences.clusters import (
    default_number,
    group_text,
    is_vote,
    prompt_texts,
    rater_of,
    replies_of,
    voter_of,
)
from tasks.preferences.dialogue import fold
from tasks.preferences.keys import Key, key_of
from tasks.preferences.neighbours import PROMPTS, VOTES
from tasks.preferences.shingles import U32, U64, Int, Shingles, numbers_hash, picked, shingle, text_hash
from tasks.records import Record


class Print(NamedTuple):
    """Of a record; texts are numbers within the batch."""

    key: Key
    first: int  # user turn
    whole: int  # prompt
    group: int | None  # the ranking that it is of
    replies: tuple[int, ...]
    default: int  # the cluster of a prompt whose source names none, as a number
    vote: int  # its place in `Prints.votes`; -1: it is none
    rater: int  # hashed, of what decides between two replies; 0 otherwise


@dataclass(frozen=True)
class Prints:
    """Of the T distinct texts of a batch, in the order in which they were first named."""

    hashes: U64  # [T]
    numbers: U32  # [T] the numbers in a text, hashed
    shingles: Shingles
    prompt: Int  # [P] the text of each set of shingles by which a prompt is looked for
    prompt_keys: U32  # [P, bands]
    vote_keys: U32  # [N, bands] of the batch's votes

    def only(self, texts: Int) -> "Prints":
        """Of some of the texts, in this order; votes and prompts keep their places."""
        return Prints(
            self.hashes[texts],
            self.numbers[texts],
            self.shingles.only(texts),
            self.prompt,
            self.prompt_keys,
            self.vote_keys,
        )


def of_rows(rows: Sequence[Sequence[Record]]) -> tuple[list[list[Print]], Prints]:
    """Of rows, given as the records made of each: (those of their records, those of their texts)."""
    texts: dict[str, int] = {}
    found, votes, voters = [], list[tuple[int, int, int]](), list[int]()

    def number(text: str) -> int:
        return texts.setdefault(text, len(texts))

    for records in rows:
        of_row = []
        for record in records:
            first, whole = prompt_texts(record.prompt)
            start, prompt, group = number(first), number(whole), group_text(record)
            ranking = None if group is None else number(group)
            replies = tuple(number(fold(reply)) for reply in replies_of(record))
            vote = -1
            if is_vote(record):
                vote = len(votes)
                votes.append((prompt, replies[0], replies[-1]))
                voters.append(voter_of(record))
            default = default_number(first)
            of_row.append(Print(key_of(record), start, prompt, ranking, replies, default, vote, rater_of(record)))
        found.append(of_row)
    prompts = {text for of_row in found for each in of_row for text in (each.first, each.whole)}
    return found, of_texts(list(texts), prompts, votes, voters)


def of_texts(
    texts: Sequence[str],
    prompts: set[int],
    votes: Sequence[tuple[int, int, int]] = (),
    voters: Sequence[int] = (),
) -> Prints:
    """Of distinct texts, folded. `prompts`: which of them are; `votes`: prompt and replies of each, and who says so."""
    made = shingle(texts)
    views = np.flatnonzero(np.isin(made.view_text, np.fromiter(prompts, np.int64, len(prompts))))
    parts = np.array(votes, dtype=np.int64).reshape(-1, 3)
    values, starts = picked(made.values, made.starts, parts.ravel())
    numbers = zip(texts, made.has_numbers.tolist(), strict=True)
    return Prints(
        hashes=np.array([text_hash(text) for text in texts], dtype=np.uint64),
        numbers=np.array([numbers_hash(text) if has else 0 for text, has in numbers], dtype=np.uint32),
        shingles=made,
        prompt=made.view_text[views],
        prompt_keys=PROMPTS.keys(*picked(made.values, made.views, views)),
        vote_keys=VOTES.keys(values, starts[::3], np.array(voters, dtype=np.uint64)),
    )
