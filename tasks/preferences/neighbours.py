"""Every distinct text once, and which others are near it: candidates by MinHash LSH, verified by Jaccard similarity.

Sets of shingles lie on disk and are read for candidates alone; memory holds hashes, a few bytes at a time.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from tasks.preferences.multimap import Multimap
from tasks.preferences.shingles import U32, Int, Shingles, mix, numbers_hash, shingle, similarity, text_hash

SEED = 0
SHINGLES = "shingles.u32"  # the file of all sets
PER_BAND = 2  # texts kept of those that share a band: what makes a template's thousandth variant cheap


class Bands:
    """Locality-sensitive hashing of MinHash signatures. Leskovec 2014, Mining of Massive Datasets, section 3.4.

    A pair of similarity s shares one of b bands of r rows with probability 1 - (1 - s^r)^b.
    """

    def __init__(self, num_bands: int, num_rows: int) -> None:
        self.num_bands, self.num_rows = num_bands, num_rows
        self.map = Multimap(PER_BAND)

    def keys(self, values: U32, starts: Int, salts: npt.NDArray[Any] | None = None) -> npt.NDArray[np.uint32]:
        """(sets, bands) hashes; sets with other salts share none."""
        if len(starts) == 1:
            return np.zeros((0, self.num_bands), dtype=np.uint32)
        signatures = RMinHash.digest_matrix_from_flat_token_hashes(
            mix(values), starts.astype(np.uint64), _power_of_two(self.num_bands * self.num_rows), SEED
        )
        rows = np.array(signatures.to_rows(), dtype=np.uint64)[:, : self.num_bands * self.num_rows]
        parts = rows.reshape(len(rows), self.num_bands, self.num_rows)
        keys = np.broadcast_to(np.arange(self.num_bands, dtype=np.uint64), parts.shape[:2])
        if salts is not None:
            keys = keys ^ salts.astype(np.uint64)[:, None]
        for row in range(self.num_rows):
            keys = mix(keys ^ parts[:, :, row])
        return (keys >> np.uint64(32)).astype(np.uint32)

    def insert(self, keys: npt.NDArray[np.uint32], ids: npt.NDArray[Any]) -> None:
        self.map.insert(keys.ravel(), np.repeat(ids.astype(np.uint32), self.num_bands))

    def candidates(self, keys: npt.NDArray[np.uint32]) -> list[list[int]]:
        """For every set the ids that share a band with it, oldest first."""
        where, ids = self.map.find(keys.ravel())
        pairs = np.unique((where.astype(np.uint64) // np.uint64(self.num_bands) << np.uint64(32)) | ids)
        cuts = np.searchsorted(pairs >> np.uint64(32), np.arange(len(keys) + 1))
        found = (pairs & np.uint64(0xFFFFFFFF)).tolist()
        return [found[cuts[i] : cuts[i + 1]] for i in range(len(keys))]


class Column:
    """An array that grows."""

    def __init__(self, dtype: Any, fill: int = 0) -> None:
        self._values, self._fill, self._count = np.full(1024, fill, dtype=dtype), fill, 0

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._values[index] = value

    def __len__(self) -> int:
        return self._count

    def extend(self, values: Any) -> None:
        count = self._count + len(values)
        if count > len(self._values):
            grown = np.full(max(count, 3 * len(self._values) // 2), self._fill, dtype=self._values.dtype)
            grown[: self._count] = self._values[: self._count]
            self._values = grown
        self._values[self._count : count] = values
        self._count = count

    def replace(self, values: Any) -> None:
        self._values, self._count = values, len(values)

    @property
    def nbytes(self) -> int:
        return int(self._values.nbytes)


class Texts:
    """Folded texts by number, in order of arrival."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / SHINGLES
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._known = Multimap(per_key=8)  # hash -> number
        self._hashes, self._offsets, self._lengths = Column(np.uint64), Column(np.uint64), Column(np.uint32)
        self._numbers = Column(np.uint32)  # those in a text, hashed
        self.size = 0
        self._recent: dict[int, U32] = {}  # of the last batch

    def __len__(self) -> int:
        return len(self._hashes)

    def close(self) -> None:
        os.close(self._file)

    def reopen(self, size: int) -> None:
        """Go on with the file that lies in its place now, as far as `size` numbers of it."""
        self._file, self.size = os.open(self.path, os.O_RDWR), size

    def columns(self) -> dict[str, Column]:
        return {
            "hashes": self._hashes,
            "offsets": self._offsets,
            "lengths": self._lengths,
            "numbers": self._numbers,
        }

    def maps(self) -> dict[str, Multimap]:
        return {"known": self._known}

    def add(self, folded: Sequence[str]) -> tuple[Int, Int, Shingles]:
        """(the number of each text, the numbers of the distinct ones, the shingles of those)."""
        distinct = dict.fromkeys(folded)
        hashes = np.array([text_hash(text) for text in distinct], dtype=np.uint64)
        found = shingle(list(distinct))
        numbers = self._lookup(hashes)
        is_new = numbers < 0
        numbers[is_new] = len(self) + np.arange(int(is_new.sum()))
        self._known.insert(hashes[is_new].astype(np.uint32), numbers[is_new].astype(np.uint32))
        lengths = np.diff(found.starts)
        kept = found.values[np.repeat(is_new, lengths)]
        ends = np.cumsum(lengths[is_new])
        self._offsets.extend(self.size + ends - lengths[is_new])
        self._hashes.extend(hashes[is_new])
        self._lengths.extend(lengths[is_new])
        self._numbers.extend([numbers_hash(text) for text, new in zip(distinct, is_new.tolist(), strict=True) if new])
        self.size += len(kept)
        os.pwrite(self._file, kept.tobytes(), 4 * (self.size - len(kept)))
        self._recent = {int(number): found.of(i) for i, number in enumerate(numbers)}
        by_text = dict(zip(distinct, numbers.tolist(), strict=True))
        return np.array([by_text[text] for text in folded], dtype=np.int64), numbers, found

    def shingles(self, number: int) -> U32:
        recent = self._recent.get(number)
        if recent is not None:
            return recent
        size = 4 * int(self._lengths[number])
        return np.frombuffer(os.pread(self._file, size, 4 * int(self._offsets[number])), dtype=np.uint32)

    def similarity(self, one: int, other: int) -> float:
        return 1.0 if one == other else similarity(self.shingles(one), self.shingles(other))

    def have_same_numbers(self, one: int, other: int) -> bool:
        return bool(self._numbers[one] == self._numbers[other])

    @property
    def nbytes(self) -> int:
        return self._known.nbytes + sum(column.nbytes for column in self.columns().values())

    def _lookup(self, hashes: npt.NDArray[np.uint64]) -> Int:
        where, numbers = self._known.find(hashes.astype(np.uint32))
        found = np.full(len(hashes), -1, dtype=np.int64)
        is_same = self._hashes[numbers] == hashes[where]
        found[where[is_same]] = numbers[is_same]
        return found


def _power_of_two(count: int) -> int:
    return int(1 << (count - 1).bit_length())
