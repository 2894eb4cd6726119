"""A map from 64-bit keys to 64-bit values that takes 16 bytes an entry and can be kept in a file."""

from array import array
from bisect import bisect_left
from pathlib import Path

import numpy as np

_LIVE = 100_000  # entries in a dict before they are merged into the sorted arrays


class Table:
    """Sorted arrays, and a dict of what is new since they were last merged: one entry in four at most."""

    def __init__(self) -> None:
        self._keys, self._values = array("Q"), array("Q")
        self._live: dict[int, int] = {}

    def get(self, key: int) -> int | None:
        found = self._live.get(key)
        if found is None and self._keys:
            at = bisect_left(self._keys, key)
            if at < len(self._keys) and self._keys[at] == key:
                found = self._values[at]
        return found

    def set(self, key: int, value: int) -> None:
        self._live[key] = value
        if len(self._live) > max(_LIVE, len(self._keys) // 4):
            self._merge()

    def setdefault(self, key: int, value: int) -> int:
        found = self.get(key)
        if found is not None:
            return found
        self.set(key, value)
        return value

    def __len__(self) -> int:
        self._merge()
        return len(self._keys)

    def entries(self) -> np.ndarray:
        """[2, N] of uint64: the keys in order, and their values."""
        self._merge()
        return np.array([np.frombuffer(self._keys, np.uint64), np.frombuffer(self._values, np.uint64)], np.uint64)

    def update(self, entries: np.ndarray) -> None:
        """Take in [2, N] of entries; they win over those of the same key."""
        self._merge(entries)

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, self.entries())

    def _merge(self, more: np.ndarray | None = None) -> None:
        if not self._live and more is None:
            return
        live = np.fromiter(self._live.keys(), np.uint64, len(self._live))
        values = np.fromiter(self._live.values(), np.uint64, len(self._live))
        self._live.clear()
        parts = [(np.frombuffer(self._keys, np.uint64), np.frombuffer(self._values, np.uint64)), (live, values)]
        parts += [] if more is None else [(more[0], more[1])]
        keys, values = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], values[order]
        last = np.append(keys[1:] != keys[:-1], True) if len(keys) else np.zeros(0, bool)  # the newest of a key
        self._keys, self._values = (array("Q", column[last].tobytes()) for column in (keys, values))
