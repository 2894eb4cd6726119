"""What identifies a record among all that were seen, as 64-bit hashes: two of ten million collide with 3e-6."""

import hashlib
from typing import NamedTuple

import orjson

from tasks.preferences.dialogue import fold
from tasks.records import CHOICES, Preference, Record

WINNERS = ("first", "second", *CHOICES[2:])
OUTCOME = 15  # bits of an outcome in what is known of a vote; the others are its row's


class Key(NamedTuple):
    identity: int  # kind of record and id
    content: int
    vote: int | None  # pair and rater; None: no comparison
    outcome: int  # twice the place of who won in WINNERS; the lowest bit: whether the order was swapped


def key_of(record: Record) -> Key:
    vote, outcome = _vote(record) if isinstance(record, Preference) else (None, 0)
    return Key(identity(record), _content(record), vote, outcome)


def identity(record: Record) -> int:
    return digest(type(record).__name__, record.id)


def row_key(preference_id: str) -> int:
    """64 bits that stand for an accepted comparison: an id names one."""
    return digest(Preference.__name__, preference_id) & ~OUTCOME


def digest(*parts: str) -> int:
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest(), "big")


def _vote(row: Preference) -> tuple[int, int]:
    """(key of pair and rater, outcome). Texts are compared folded."""
    reply_a, reply_b = fold(row.reply_a), fold(row.reply_b)
    swapped = reply_a > reply_b
    sides = {"a": "second", "b": "first"} if swapped else {"a": "first", "b": "second"}
    winner = sides.get(row.choice, row.choice)
    # Without a rater, or with "unsure", another answer is no contradiction: the answer is part of the key.
    anonymous = row.rater.startswith("source:") or row.choice == "unsure"
    voter = ("", winner) if anonymous else ("rater", row.rater)
    prompt = [part for turn in row.prompt for part in (turn["role"], fold(turn["content"]))]
    return digest(*prompt, *sorted((reply_a, reply_b)), *voter), 2 * WINNERS.index(winner) | swapped


def _content(record: Record) -> int:
    fields = vars(record) | {"source": "", "cluster": "", "owner": "", "tags": ""}
    return int.from_bytes(hashlib.blake2b(orjson.dumps(fields), digest_size=8).digest(), "big")
