"""What was seen before: repeated votes, reused ids, and the cluster a prompt already belongs to.

What is nearly the same is for settle.py to find. Texts are compared folded. A row without a rater of its own never
contradicts another: they may be two people.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from tasks.preferences.dialogue import fold
from tasks.preferences.settle import Settler, Verdict
from tasks.records import Preference, Record, prompt_key

R = TypeVar("R", bound=Record)
REPEATS = frozenset(
    {"exact_duplicate", "duplicate_swapped", "near_duplicate"}
)  # harmless: no reason to refuse a file whole
_OUTCOMES: dict[tuple[str, bool], tuple[str, bool]] = {}  # one object per outcome, not one per row


class Index:
    """An index over the records of all sources: a few short hashes per record."""

    def __init__(self, settler: Settler | None = None) -> None:
        self._settler = settler
        # All keys are 64-bit hashes: two of ten million rows collide with a chance of 3e-6.
        self._contradicted: set[int] = set()  # votes whose every row is refused
        self._votes: dict[int, tuple[str, bool]] = {}  # vote -> (who won, whether the order was swapped)
        self._ids: dict[int, int] = {}  # kind of record and id -> content
        self._clusters: dict[int, str] = {}  # prompt -> cluster

    def place(self, record: R) -> R:
        """Give a record the cluster under which its prompt was first seen: a prompt is never on two sides."""
        cluster = self._clusters.setdefault(_digest(prompt_key(record.prompt)), record.cluster)
        return record if cluster == record.cluster else replace(record, cluster=cluster)

    def settle(self, batch: Sequence[Sequence[Record]], source: str) -> list[Verdict]:
        """What becomes of rows, given as the records made of each; without a settler all are kept."""
        if self._settler is None:
            return [Verdict([self.place(record) for record in records]) for records in batch]
        return self._settler.settle(batch, source)

    def trust(self, records: Sequence[R], source: str) -> list[R]:
        """Records of a source that knows which of its prompts belong together."""
        if self._settler is not None:
            prompts = {(record.cluster, prompt_key(record.prompt)): record for record in records}
            self._settler.trust([(record.prompt, record.cluster) for record in prompts.values()], source)
        return [self.place(record) for record in records]

    def reason(self, record: Record) -> str | None:
        """Why this record must be refused after those seen before, or None; then it counts as seen."""
        vote = _vote(record) if isinstance(record, Preference) else None
        if vote and vote[0] in self._votes:
            return self._repeated(*vote)
        fields = vars(record) | {"source": "", "cluster": ""}
        content = _digest(json.dumps(fields, sort_keys=True))
        known = self._ids.setdefault(_digest(type(record).__name__, record.id), content)
        if known is not content:
            return "exact_duplicate" if known == content else "id_conflict"
        if vote:
            self._votes[vote[0]] = _OUTCOMES.setdefault(vote[1:], vote[1:])
        return None

    def _repeated(self, key: int, winner: str, swapped: bool) -> str:
        first_winner, first_swapped = self._votes[key]
        if first_winner != winner:
            self._contradicted.add(key)
        if key in self._contradicted:
            return "self_contradiction"
        return "exact_duplicate" if first_swapped == swapped else "duplicate_swapped"

    @property
    def has_contradictions(self) -> bool:
        return bool(self._contradicted)

    def contradicts(self, row: Preference) -> bool:
        """Whether a row that was accepted has been contradicted since."""
        return _vote(row)[0] in self._contradicted


def _vote(row: Preference) -> tuple[int, str, bool]:
    """(key of pair and rater, who won, whether the replies stand in the other order)."""
    reply_a, reply_b = fold(row.reply_a), fold(row.reply_b)
    swapped = reply_a > reply_b
    sides = {"a": "second", "b": "first"} if swapped else {"a": "first", "b": "second"}
    winner = sides.get(row.choice, row.choice)
    # Without a rater, or with "unsure", another answer is no contradiction: the answer is part of the key.
    anonymous = row.rater.startswith("source:") or row.choice == "unsure"
    voter = ("", winner) if anonymous else ("rater", row.rater)
    prompt = [part for turn in row.prompt for part in (turn["role"], fold(turn["content"]))]
    return _digest(*prompt, *sorted((reply_a, reply_b)), *voter), winner, swapped


def _digest(*parts: str) -> int:
    return int.from_bytes(hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest(), "big")
