"""Every distinct text once: what tells it from others in memory, its set of shingles on disk.

Sets are read for candidates alone; memory holds a few numbers for each text.
"""

import json
import os
import shutil
from bisect import bisect_right
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tasks.preferences.columns import Column, save_arrays
from tasks.preferences.multimap import Multimap
from tasks.preferences.prints import Prints
from tasks.preferences.shingles import U32, Int, similarity


@dataclass(frozen=True)
class _Segment:
    """A file of shingles; what one run adds is one of them."""

    start: int  # of its first shingle among all
    path: Path
    file: int


class Texts:
    """Folded texts by number, in order of arrival."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._segments: list[_Segment] = []
        self._open(folder / "00000.u32", 0)
        self._known = Multimap(per_key=8)  # hash -> number
        self._hashes, self._offsets, self._lengths = Column(np.uint64), Column(np.uint64), Column(np.uint32)
        self._numbers = Column(np.uint32)  # those in a text, hashed
        self._size = 0
        self._recent: dict[int, U32] = {}  # of the last batch

    def __len__(self) -> int:
        return len(self._hashes)

    def close(self) -> None:
        for segment in self._segments:
            os.close(segment.file)

    def save(self, folder: Path) -> None:
        """Write what memory holds, and link the files of shingles."""
        save_arrays(folder / "texts.npz", {name: part.values for name, part in self._parts().items()})
        starts = [segment.start for segment in self._segments]
        for number, segment in enumerate(self._segments):
            _share(segment.path, folder / f"{number:05}.u32")
        (folder / "texts.json").write_text(json.dumps({"starts": starts, "size": self._size}), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Become what was saved; what is new goes into a file of its own."""
        with np.load(folder / "texts.npz") as held:
            for name, part in self._parts().items():
                part.restore(held[name])
        known = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        (new,) = self._segments
        self._segments, self._size = [], known["size"]
        for number, start in enumerate(known["starts"]):
            self._open(folder / f"{number:05}.u32", start)
        self._segments.append(replace(new, start=self._size))

    def add(self, prints: Prints) -> Int:
        """The number of each of some distinct texts."""
        hashes, found = prints.hashes, prints.shingles
        numbers = self._lookup(hashes)
        is_new = numbers < 0
        numbers[is_new] = len(self) + np.arange(int(is_new.sum()))
        self._known.insert(hashes[is_new].astype(np.uint32), numbers[is_new].astype(np.uint32))
        lengths = np.diff(found.starts)
        kept = found.values[np.repeat(is_new, lengths)]
        ends = np.cumsum(lengths[is_new])
        self._offsets.extend(self._size + ends - lengths[is_new])
        self._hashes.extend(hashes[is_new])
        self._lengths.extend(lengths[is_new])
        self._numbers.extend(prints.numbers[is_new])
        self._size += len(kept)
        os.write(self._segments[-1].file, kept.tobytes())
        self._recent = {int(number): found.of(i) for i, number in enumerate(numbers)}
        return numbers

    def shingles(self, number: int) -> U32:
        recent = self._recent.get(number)
        if recent is not None:
            return recent
        offset, size = int(self._offsets[number]), 4 * int(self._lengths[number])
        segment = self._segments[bisect_right(self._segments, offset, key=lambda found: found.start) - 1]
        return np.frombuffer(os.pread(segment.file, size, 4 * (offset - segment.start)), dtype=np.uint32)

    def similarity(self, one: int, other: int) -> float:
        return 1.0 if one == other else similarity(self.shingles(one), self.shingles(other))

    def have_same_numbers(self, one: int, other: int) -> bool:
        return bool(self._numbers[one] == self._numbers[other])

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts().values())

    def _parts(self) -> dict[str, Column | Multimap]:
        columns = {"hashes": self._hashes, "offsets": self._offsets, "lengths": self._lengths}
        return {"known": self._known, **columns, "numbers": self._numbers}

    def _open(self, path: Path, start: int) -> None:
        self._segments.append(_Segment(start, path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)))

    def _lookup(self, hashes: npt.NDArray[np.uint64]) -> Int:
        where, numbers = self._known.find(hashes.astype(np.uint32))
        found = np.full(len(hashes), -1, dtype=np.int64)
        is_same = self._hashes[numbers] == hashes[where]
        found[where[is_same]] = numbers[is_same]
        return found


def _share(path: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
