"""Evaluation sets of one's own: files whose rows nothing may be near to, or hold much of."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path

from tasks.preferences.containers import open_rows
from tasks.preferences.formats import Dropped, detect
from tasks.preferences.grouped import grouped
from tasks.preferences.screen import BadFileError, RefusedError, Row
from tasks.preferences.settle import Settler
from tasks.preferences.sources import SAMPLE
from tasks.records import Record

_BATCH = 2000


def hold_out(path: Path, settler: Settler) -> dict[str, int]:
    """Hold out the rows of a file in any known format; how many there are, and how many could not be read.

    Raises FileNotFoundError or BadFileError where none can be.
    """
    warnings: Counter[str] = Counter()
    rows = open_rows(path, warnings)
    head = list(islice(rows, SAMPLE))
    sample = [row.value for row in head if isinstance(row, Row)]
    if not sample:
        raise BadFileError(path, "wrong_format", "no row can be read; give the evaluation set in a known format")
    form = detect(sample, path)
    counts = {"rows": 0, "unreadable": 0}
    every = grouped(chain(head, rows), form.group) if form.group else chain(head, rows)
    while batch := list(islice(every, _BATCH)):
        held: list[Sequence[Record]] = []
        for row in batch:
            try:
                found = form.convert(row.value, path.name) if isinstance(row, Row) else None
            except RefusedError:
                found = None
            counts["unreadable" if found is None else "rows"] += 1
            records = [part for part in found or () if not isinstance(part, Dropped)]
            held += [records] if records else []
        settler.hold_out(held)
    return counts
