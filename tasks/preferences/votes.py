"""Who voted how on what: columns of short numbers, read from the stored comparisons batch by batch.

A comparison of the same two replies to the same prompt is one item, whichever way round it was shown: votes are kept
in one canonical order, the reply that sorts first being `first`. About 35 bytes a row; the texts are never held.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.files import write_json
from tasks.preferences.columns import save_arrays
from tasks.preferences.tables import parquet_files, source_of
from tasks.shelf import Shelf

VALUES = ("first", "second", "tie", "both_bad", "unsure")
FIRST, SECOND, TIE, BOTH_BAD, UNSURE = range(5)
NUM_CLASSES = 4  # what an item can truly be: `unsure` says nothing of it
ANONYMOUS = "source:"  # the start of a rater's name where the source names none: that may be many people
_BATCH = 5000
_COLUMNS = ("prompt", "reply_a", "reply_b", "choice", "rater", "domain", "rubric", "created_at", "seconds")
_CODES = {"a": FIRST, "b": SECOND, "tie": TIE, "both_bad": BOTH_BAD, "unsure": UNSURE}

_NAMED = ("rater", "day", "domain", "rubric")

Codes = NDArray[np.int32]
Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Votes:
    """One entry per row of every array [n]; names of codes beside them, sorted."""

    item: NDArray[np.int64]
    rater: Codes  # index into `raters`
    value: NDArray[np.int8]  # of VALUES, in canonical order
    swapped: NDArray[np.bool_]  # shown the other way round
    lead: NDArray[np.int8]  # 1 where the canonical first reply is longer, -1 where the second is
    chars: Codes  # of prompt and replies
    seconds: NDArray[np.float32]  # NaN where the row does not say
    day: Codes  # index into `days`, as the rater's clock told it; "" where the row does not say
    domain: Codes
    rubric: Codes  # "" where the row names none
    file: Codes  # the shard or source that the row came in
    raters: tuple[str, ...]
    days: tuple[str, ...]
    domains: tuple[str, ...]
    rubrics: tuple[str, ...]
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.item)

    @property
    def named(self) -> NDArray[np.bool_]:
        """Rows whose rater has a name of their own."""
        known: NDArray[np.bool_] = np.array([not name.startswith(ANONYMOUS) for name in self.raters], dtype=bool)
        return known[self.rater]

    @property
    def picked_first(self) -> NDArray[np.bool_]:
        """Where the reply that was shown first won; of meaning for decided votes."""
        picked: NDArray[np.bool_] = (self.value == FIRST) != self.swapped
        return picked


def read(folder: Path, shelf: Shelf | None = None) -> Votes:
    """The votes in every parquet file of a folder, whose columns may be kept. FileNotFoundError where there is none."""
    paths = parquet_files(folder)
    sources = sorted({source_of(path) for path in paths})
    names = {key: _Names() for key in _NAMED}
    parts = []
    for path in paths:
        part, told = _file(path) if shelf is None else _kept(path, shelf)
        part |= {key: names[key].join(part[key], told[key]) for key in _NAMED}
        parts.append(part | {"file": np.full(len(part["item"]), sources.index(source_of(path)), dtype=np.int32)})
    columns: dict[str, Any] = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    sorted_names: dict[str, Any] = {}
    for key, found in names.items():
        columns[key], sorted_names[f"{key}s"] = found.sort(columns[key])
    _, columns["item"] = np.unique(columns["item"], return_inverse=True)
    return Votes(**columns, **sorted_names, files=tuple(sources))


def _kept(path: Path, shelf: Shelf) -> tuple[Columns, dict[str, list[str]]]:
    def fill(folder: Path) -> None:
        columns, names = _file(path)
        save_arrays(folder / "columns.npz", columns)
        write_json(folder / "names.json", names)

    place = shelf.get(shelf.key("votes", path), fill)
    with np.load(place / "columns.npz") as file:
        return dict(file), json.loads((place / "names.json").read_text(encoding="utf-8"))


class _Names:
    """Strings as numbers, in the order in which they come; at the end in that of the strings."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    @property
    def known(self) -> list[str]:
        return list(self._codes)

    def code(self, column: pa.Array) -> Codes:
        coded = column.fill_null("").dictionary_encode()
        return self.join(coded.indices.to_numpy(), coded.dictionary.to_pylist())

    def join(self, codes: Codes, names: Sequence[str]) -> Codes:
        """Codes that stand for these names, in place of their places among them."""
        known = [self._codes.setdefault(name, len(self._codes)) for name in names]
        found: Codes = np.array(known, dtype=np.int32)[codes]
        return found

    def sort(self, codes: Codes) -> tuple[Codes, tuple[str, ...]]:
        ordered = sorted(self._codes)
        place = np.empty(len(ordered), dtype=np.int32)
        place[[self._codes[name] for name in ordered]] = np.arange(len(ordered))
        return place[codes], tuple(ordered)


def _file(path: Path) -> tuple[Columns, dict[str, list[str]]]:
    """Its columns, and the names that its codes stand for."""
    names = {key: _Names() for key in _NAMED}
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        batches = file.iter_batches(_BATCH, columns=list(_COLUMNS))
        parts = [_batch(batch, names) for batch in batches if len(batch)] or [_empty()]
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return columns, {key: found.known for key, found in names.items()}


def _batch(batch: pa.RecordBatch, names: dict[str, _Names]) -> Columns:
    reply_a, reply_b = batch["reply_a"], batch["reply_b"]
    swapped = pc.greater(reply_a, reply_b).to_numpy(zero_copy_only=False)
    prompts, prompt_chars = _prompts(batch["prompt"])
    texts_a, texts_b = reply_a.to_pylist(), reply_b.to_pylist()
    first = [b if other else a for a, b, other in zip(texts_a, texts_b, swapped, strict=True)]
    second = [a if other else b for a, b, other in zip(texts_a, texts_b, swapped, strict=True)]
    chars_a, chars_b = (pc.utf8_length(side).to_numpy() for side in (reply_a, reply_b))
    lead = np.sign(chars_a - chars_b).astype(np.int8)
    shown = np.array([_CODES[choice] for choice in batch["choice"].to_pylist()], dtype=np.int8)
    turned = np.where(shown == FIRST, SECOND, np.where(shown == SECOND, FIRST, shown)).astype(np.int8)
    day = pc.utf8_slice_codeunits(batch["created_at"].fill_null(""), 0, 10)
    return {
        "item": _digests(prompts, first, second),
        "rater": names["rater"].code(batch["rater"]),
        "value": np.where(swapped, turned, shown),
        "swapped": swapped,
        "lead": np.where(swapped, -lead, lead).astype(np.int8),
        "chars": (chars_a + chars_b + prompt_chars).astype(np.int32),
        "seconds": batch["seconds"].cast(pa.float32()).fill_null(float("nan")).to_numpy(),
        "day": names["day"].code(day),
        "domain": names["domain"].code(batch["domain"]),
        "rubric": names["rubric"].code(batch["rubric"]),
    }


def _prompts(column: pa.ListArray) -> tuple[list[str], NDArray[np.int64]]:
    """Every prompt as one text, roles and all, and its characters."""
    turns = column.flatten()
    told = pc.binary_join_element_wise(turns.field("role"), turns.field("content"), "\0")
    offsets = pa.array(column.offsets.to_numpy() - column.offsets[0].as_py(), pa.int32())
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, told), "\0")
    return joined.to_pylist(), pc.utf8_length(joined).to_numpy()


def _digests(*texts: Sequence[str]) -> NDArray[np.int64]:
    """64-bit hashes of rows of texts: among ten million, two collide with a chance of 3e-6."""
    digests = b"".join(
        hashlib.blake2b("\0".join(row).encode(), digest_size=8).digest() for row in zip(*texts, strict=True)
    )
    return np.frombuffer(digests, dtype=np.int64)


def _empty() -> Columns:
    types = {"value": np.int8, "lead": np.int8, "swapped": np.bool_, "seconds": np.float32, "item": np.int64}
    names = ("item", "rater", "value", "swapped", "lead", "chars", "seconds", "day", "domain", "rubric")
    return {name: np.zeros(0, dtype=types.get(name, np.int32)) for name in names}
