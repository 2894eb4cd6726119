"""Clusters of prompts by number, and the texts of a record that decide where it belongs."""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tasks.preferences.columns import Column
from tasks.preferences.dialogue import fold
from tasks.preferences.folds import FOLDS, SEALED, fold_of
from tasks.records import Demonstration, Feedback, Message, Preference, Record, Safety, Solution

HELD_OUT = "held_out"  # the side of evaluation sets of one's own
SIDES = (*FOLDS, SEALED, HELD_OUT)


class Clusters:
    """Names and sides of clusters by number, in order of arrival."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        self._shares = shares
        self._hash, self._side, self._source = Column(np.uint64), Column(np.uint8), Column(np.uint16)
        self._declared: dict[str, int] = {}
        self._names: dict[int, str] = {}  # of the declared ones: others have the hash
        self._sources: dict[str | None, int] = {None: 0}
        self.held_out = self._add(0, HELD_OUT, None)

    def default(self, number: int) -> int:
        """A new cluster that nobody named."""
        return self._add(number, fold_of(default_name(number), self._shares), None)

    def declared(self, name: str, source: str) -> int:
        """The cluster of that name, which a source gave."""
        if name not in self._declared:
            self._declared[name] = self._add(0, fold_of(name, self._shares), source)
            self._names[self._declared[name]] = name
        return self._declared[name]

    def name(self, number: int) -> str:
        return self._names.get(number) or (HELD_OUT if number == self.held_out else default_name(self._hash[number]))

    def side(self, number: int) -> str:
        return SIDES[self._side[number]]

    def count(self) -> dict[str, int]:
        counts = np.bincount(self._side[1 : len(self._side)], minlength=len(SIDES)).tolist()
        return {"total": len(self._side) - 1, **dict(zip((*FOLDS, SEALED), counts, strict=False))}

    def is_declared_by(self, number: int, source: str) -> bool:
        return bool(self._source[number] and self._source[number] == self._sources.get(source))

    @property
    def columns(self) -> dict[str, Column]:
        return {"cluster_hash": self._hash, "cluster_side": self._side, "cluster_source": self._source}

    def names(self) -> dict[str, dict[str, int]]:
        """What sources declared, and which sources."""
        sources = {name: number for name, number in self._sources.items() if name is not None}
        return {"declared": self._declared, "sources": sources}

    def rename(self, names: Mapping[str, dict[str, int]]) -> None:
        """Become what `names` was told by."""
        self._declared = dict(names["declared"])
        self._names = {number: name for name, number in self._declared.items()}
        self._sources = {None: 0}
        self._sources.update(names["sources"])

    def _add(self, number: int, side: str, source: str | None) -> int:
        self._hash.extend([number])
        self._side.extend([SIDES.index(side)])
        self._source.extend([self._sources.setdefault(source, len(self._sources))])
        return len(self._hash) - 1


def prompt_texts(prompt: Sequence[Message]) -> tuple[str, str]:
    """(the first user turn, all turns), folded. A system turn says what many prompts share, not which one it is."""
    turns = [message for message in prompt if message["role"] != "system"]
    first = fold(turns[0]["content"])
    return first, first if len(turns) == 1 else " ".join([first, *(fold(turn["content"]) for turn in turns[1:])])


def group_text(record: Record) -> str | None:
    """What stands for the ranking that a comparison is of."""
    if not isinstance(record, Preference) or not record.group:
        return None
    return f"\0{record.source}\0{record.group}"


def replies_of(record: Record) -> tuple[str, ...]:
    """What answers the prompt; of a comparison the better reply first, of an undecided one in alphabetical order."""
    if isinstance(record, Preference):
        pair = (record.reply_a, record.reply_b)
        if record.choice in ("a", "b"):
            return pair if record.choice == "a" else pair[::-1]
        return pair if pair[0] <= pair[1] else pair[::-1]
    if isinstance(record, Demonstration | Feedback | Solution):
        return (record.reply,)
    return (record.reply,) if isinstance(record, Safety) and record.reply else ()


def is_vote(record: Record) -> bool:
    return isinstance(record, Preference | Demonstration)


def voter_of(record: Record) -> int:
    """Who says what kind of thing; rows without a rater of their own have one voice."""
    if not isinstance(record, Preference):
        return 0
    outcome = "decided" if record.choice in ("a", "b") else record.choice
    rater = "" if record.rater.startswith("source:") else record.rater
    return int.from_bytes(hashlib.blake2b(f"{outcome}\0{rater}".encode(), digest_size=8).digest(), "little")


def rater_of(record: Record) -> int:
    """32 bits for who decided between two replies; 0 where nobody did."""
    if not isinstance(record, Preference) or record.choice not in ("a", "b"):
        return 0
    return zlib.crc32(record.rater.encode()) | 1


def moved(record: Record, cluster: str) -> Record:
    return record if record.cluster == cluster else replace(record, cluster=cluster)


def default_number(first: str) -> int:
    """`dialogue.cluster` of a prompt, as a number."""
    return int.from_bytes(hashlib.sha256(first.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def default_name(number: int) -> str:
    return f"{number:016x}"
