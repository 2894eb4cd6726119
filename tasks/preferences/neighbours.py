"""Sets of shingles that may be near each other: candidates by MinHash LSH."""

from typing import Any

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from tasks.preferences.multimap import Multimap
from tasks.preferences.shingles import U32, Int, mix

SEED = 0
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


def _power_of_two(count: int) -> int:
    return int(1 << (count - 1).bit_length())
