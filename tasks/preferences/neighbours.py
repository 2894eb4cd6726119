"""Sets of shingles that may be near each other: candidates by MinHash LSH."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from tasks.preferences.columns import Column
from tasks.preferences.multimap import Multimap
from tasks.preferences.shingles import U32, Int, Shingles, mix

SEED = 0
NUM_RUNS = 4  # 13-grams by which a text is found: one that holds half of it misses all four in 6 of 100 cases
PER_BAND = 2  # texts kept of those that share a band: what makes a template's thousandth variant cheap


Candidates = dict[int, list[int]]


@dataclass(frozen=True)
class Banding:
    """Locality-sensitive hashing of MinHash signatures. Leskovec 2014, Mining of Massive Datasets, section 3.4.

    A pair of similarity s shares one of b bands of r rows with probability 1 - (1 - s^r)^b.
    """

    num_bands: int
    num_rows: int

    def keys(self, values: U32, starts: Int, salts: npt.NDArray[Any] | None = None) -> U32:
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


PROMPTS = Banding(num_bands=12, num_rows=5)  # finds 99% at a similarity of 0.8
VOTES = Banding(num_bands=8, num_rows=4)  # 98.5%


class Bands:
    """Ids by the bands of their sets."""

    def __init__(self, banding: Banding) -> None:
        self.num_bands = banding.num_bands
        self.map = Multimap(PER_BAND)

    def insert(self, keys: npt.NDArray[np.uint32], ids: npt.NDArray[Any]) -> None:
        self.map.insert(keys.ravel(), np.repeat(ids.astype(np.uint32), self.num_bands))

    def candidates(self, keys: npt.NDArray[np.uint32]) -> list[list[int]]:
        """For every set the ids that share a band with it, oldest first."""
        where, ids = self.map.find(keys.ravel())
        pairs = np.unique((where.astype(np.uint64) // np.uint64(self.num_bands) << np.uint64(32)) | ids)
        cuts = np.searchsorted(pairs >> np.uint64(32), np.arange(len(keys) + 1))
        found = (pairs & np.uint64(0xFFFFFFFF)).tolist()
        return [found[cuts[i] : cuts[i + 1]] for i in range(len(keys))]


class Neighbours:
    """Where prompts, votes and long texts look for others like them."""

    def __init__(self) -> None:
        self._prompts, self._votes = Bands(PROMPTS), Bands(VOTES)
        self._runs = Multimap(per_key=2)
        self._is_prompt, self._has_runs = Column(np.uint8), Column(np.uint8)  # of a text: whether it can be found

    def parts(self) -> dict[str, Multimap | Column]:
        maps = {"prompts": self._prompts.map, "votes": self._votes.map, "runs": self._runs}
        return {**maps, "is_prompt": self._is_prompt, "has_runs": self._has_runs}

    def prompts(self, subjects: Int, owner: Int, keys: U32, is_loose: npt.NDArray[np.bool_]) -> Candidates:
        """Make prompts findable; the candidates of those that are loose: in no cluster yet.

        `subjects`: their texts; `keys` of sets of shingles, of which each is of the text `owner`.
        """
        is_asked = np.isin(owner, subjects)
        keys, owner = keys[is_asked], owner[is_asked]
        order = np.argsort(owner, kind="stable")
        keys, owner = keys[order], owner[order]
        self._is_prompt.extend(np.zeros(len(is_loose) - len(self._is_prompt), dtype=np.uint8))
        is_new = self._is_prompt[owner] == 0
        self._prompts.insert(keys[is_new], owner[is_new])
        self._is_prompt[subjects] = 1
        is_asked = is_loose[owner]
        near: Candidates = {int(text): [] for text in subjects}
        for text, others in zip(owner[is_asked].tolist(), self._prompts.candidates(keys[is_asked]), strict=True):
            near[text] = sorted({*near[text], *others} - {text})
        return near

    def long_runs(self, distinct: Int, found: Shingles) -> Candidates:
        """Make long runs of words findable; for each text those that share one."""
        more = int(distinct.max(initial=-1)) + 1 - len(self._has_runs)
        self._has_runs.extend(np.zeros(max(0, more), dtype=np.uint8))
        run_text = found.run_text
        first, numbers = found.run_starts[run_text], distinct[run_text]
        is_new = (np.arange(len(first)) - first < NUM_RUNS) & (self._has_runs[numbers] == 0)
        self._runs.insert(found.runs[is_new], numbers[is_new].astype(np.uint32))
        self._has_runs[distinct] = 1
        where, others = self._runs.find(found.runs)
        pairs = np.unique((numbers[where].astype(np.uint64) << np.uint64(32)) | others)
        sharing: Candidates = {}
        for text, other in zip(
            (pairs >> np.uint64(32)).tolist(), (pairs & np.uint64(0xFFFFFFFF)).tolist(), strict=True
        ):
            if text != other:
                sharing.setdefault(text, []).append(other)
        return sharing

    def votes(self, numbers: Int, keys: U32) -> list[list[int]]:
        """Make votes findable, given by their numbers; the candidates of each, of the same voter."""
        self._votes.insert(keys, numbers)
        return self._votes.candidates(keys)


def _power_of_two(count: int) -> int:
    return int(1 << (count - 1).bit_length())
