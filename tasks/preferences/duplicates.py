"""What was seen before: repeated votes, reused ids, and the cluster a prompt already belongs to.

What is nearly the same is for settle.py to find. Texts are compared folded. A row without a rater of its own never
contradicts another: they may be two people.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import orjson

from tasks.preferences.compact import Table
from tasks.preferences.keys import OUTCOME, Key, digest, identity, key_of
from tasks.preferences.prints import Print, Prints
from tasks.preferences.settle import Settler, Verdict
from tasks.records import Record, prompt_key

R = TypeVar("R", bound=Record)
_HEX = re.compile("[0-9a-f]{16}")  # a cluster that is its own 64-bit number


class Index:
    """An index over the records of all sources: 16 bytes for each of a few keys per record.

    `save` and `restore` carry it from run to run, so that a fresh shard is held against the past without reading it.
    """

    def __init__(self, settler: Settler | None = None) -> None:
        self._settler = settler
        self._contradicted: dict[int, int] = {}  # vote whose every row is refused -> `row_key` of the one accepted
        self._votes = Table()  # vote -> its row's key, who won, and whether the order was swapped
        self._ids = Table()  # kind of record and id -> content
        self._clusters = Table()  # prompt -> cluster
        self._names: dict[int, str] = {}  # of clusters that a source declared
        self.held_out: dict[str, dict[str, int]] = {}  # files of evaluation rows, and their counts

    def place(self, record: R) -> R:
        """Give a record the cluster under which its prompt was first seen: a prompt is never on two sides."""
        name = record.cluster
        cluster = int(name, 16) if _HEX.fullmatch(name) else digest(name)
        known = self._clusters.setdefault(digest(prompt_key(record.prompt)), cluster)
        if known == cluster:
            if cluster not in self._names and not _HEX.fullmatch(name):
                self._names[cluster] = name
            return record
        return replace(record, cluster=self._names.get(known) or f"{known:016x}")

    @property
    def settles(self) -> bool:
        return self._settler is not None

    def settle(
        self, batch: Sequence[Sequence[Record]], source: str, prints: tuple[list[list[Print]], Prints] | None = None
    ) -> list[Verdict]:
        """What becomes of rows, given as the records made of each; without a settler all are kept."""
        if self._settler is None:
            return [Verdict([self.place(record) for record in records]) for records in batch]
        return self._settler.settle(batch, source, prints)

    def trust(self, records: Sequence[R], source: str) -> list[R]:
        """Records of a source that knows which of its prompts belong together."""
        if self._settler is not None:
            prompts = {(record.cluster, prompt_key(record.prompt)): record for record in records}
            self._settler.trust([(record.prompt, record.cluster) for record in prompts.values()], source)
        return [self.place(record) for record in records]

    def reason(self, record: Record, key: Key | None = None) -> str | None:
        """Why this record must be refused after those seen before, or None; then it counts as seen."""
        key = key or key_of(record)
        if key.vote is not None and (first := self._votes.get(key.vote)) is not None:
            return self._repeated(key.vote, first, key.outcome)
        known = self._ids.get(key.identity)
        if known is not None:
            return "exact_duplicate" if known == key.content else "id_conflict"
        self._ids.set(key.identity, key.content)
        if key.vote is not None:
            self._votes.set(key.vote, key.identity & ~OUTCOME | key.outcome)
        return None

    def is_new(self, record: Record) -> bool:
        """Whether no record of its kind has its id; then it counts as seen."""
        return self._ids.get(identity(record)) is None and self.reason(record) is None

    def _repeated(self, vote: int, first: int, outcome: int) -> str:
        if (first & OUTCOME) // 2 != outcome // 2:
            self._contradicted[vote] = first & ~OUTCOME
        if vote in self._contradicted:
            return "self_contradiction"
        return "exact_duplicate" if first & 1 == outcome & 1 else "duplicate_swapped"

    @property
    def contradicted(self) -> Collection[int]:
        """`row_key` of accepted comparisons that their own raters have contradicted since."""
        return self._contradicted.values()

    def save(self, folder: Path) -> None:
        """Write what is known to a folder that is there."""
        for name, table in self._tables().items():
            table.save(folder / f"{name}.npy")
        pairs = sorted(self._contradicted.items())
        names = {str(cluster): name for cluster, name in self._names.items()}
        known = {"contradicted": pairs, "names": names, "held_out": self.held_out}
        (folder / "index.json").write_bytes(orjson.dumps(known))
        if self._settler is not None:
            self._settler.save(folder / "settled")

    def restore(self, folder: Path) -> None:
        """Know what was saved; for a new index."""
        for name, table in self._tables().items():
            table.update(np.load(folder / f"{name}.npy"))
        known = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self._contradicted = dict(known["contradicted"])
        self._names = {int(cluster): name for cluster, name in known["names"].items()}
        self.held_out = known["held_out"]
        if self._settler is not None:
            self._settler.load(folder / "settled")

    def _tables(self) -> dict[str, Table]:
        return {"votes": self._votes, "ids": self._ids, "clusters": self._clusters}
