"""A multimap of 32-bit keys to 32-bit ids in 8 bytes a slot, filled and asked in batches.

Python's dict takes above 100 bytes per entry; ten million entries must fit beside everything else.
"""

import numpy as np
import numpy.typing as npt

_EMPTY = np.uint64(2**64 - 1)
_CHUNK = 1 << 18
_LOAD = 0.7  # of the slots, at most

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
Int = npt.NDArray[np.int64]


class Multimap:
    """Open addressing with linear probing. A key keeps its first `per_key` ids and forgets the others, so that what
    a query finds is bounded, and the same however the insertions were cut into batches.
    """

    def __init__(self, per_key: int, bits: int = 12) -> None:
        self._per_key = per_key
        self._bits = bits
        self._slots = np.full(1 << bits, _EMPTY, dtype=np.uint64)
        self.count = 0

    @property
    def nbytes(self) -> int:
        return int(self._slots.nbytes)

    def insert(self, keys: U32, ids: U32) -> None:
        """Add pairs, in order: ids must not fall from one call to the next, or within one."""
        for start in range(0, len(keys), _CHUNK):
            part = slice(start, start + _CHUNK)
            self._reserve(len(keys[part]))
            self._insert(keys[part].astype(np.uint64), ids[part].astype(np.uint64))

    def find(self, keys: U32) -> tuple[Int, U32]:
        """(positions in `keys`, ids found for them), by position and age."""
        sought = keys.astype(np.uint64)
        slot, left = self._home(sought), np.arange(len(keys))
        positions, ids = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.uint32)]
        while len(left):
            held = self._slots[slot]
            is_hit = ((held >> np.uint64(32)) == sought[left]) & (held != _EMPTY)
            positions.append(left[is_hit])
            ids.append(held[is_hit].astype(np.uint32))
            goes_on = held != _EMPTY
            left, slot = left[goes_on], (slot[goes_on] + 1) & (len(self._slots) - 1)
        where = np.concatenate(positions)
        order = np.argsort(where, kind="stable")
        return where[order], np.concatenate(ids)[order]

    @property
    def values(self) -> U64:
        """Everything that is in it."""
        return self._slots

    def restore(self, values: U64) -> None:
        """Become what another was."""
        self._slots, self._bits = values, len(values).bit_length() - 1
        self.count = int((values != _EMPTY).sum())

    def _home(self, keys: U64) -> Int:
        spread = (keys * np.uint64(0x9E3779B1)) & np.uint64(0xFFFFFFFF)
        return (spread >> np.uint64(32 - self._bits)).astype(np.int64)

    def _reserve(self, more: int) -> None:
        while self.count + more > _LOAD * len(self._slots):
            old = self._slots[self._slots != _EMPTY]
            old = np.sort((old << np.uint64(32)) | (old >> np.uint64(32)))  # by id: the oldest first
            self._bits += 1
            self._slots = np.full(1 << self._bits, _EMPTY, dtype=np.uint64)
            self.count = 0
            for start in range(0, len(old), _CHUNK):
                part = old[start : start + _CHUNK]
                self._insert(part & np.uint64(0xFFFFFFFF), part >> np.uint64(32))

    def _insert(self, keys: U64, ids: U64) -> None:
        slot, left = self._home(keys), np.arange(len(keys))
        seen = np.zeros(len(keys), dtype=np.int64)
        while len(left):
            held = self._slots[slot]
            is_free = held == _EMPTY
            # Of those that want one free slot, the oldest takes it.
            taken, winner = np.unique(slot[is_free], return_index=True)
            won = np.flatnonzero(is_free)[winner]
            self._slots[taken] = (keys[left[won]] << np.uint64(32)) | ids[left[won]]
            self.count += len(won)
            seen[left] += ~is_free & ((held >> np.uint64(32)) == keys[left])
            stays = seen[left] < self._per_key
            stays[won] = False
            slot = np.where(is_free, slot, (slot + 1) & (len(self._slots) - 1))[stays]
            left = left[stays]
