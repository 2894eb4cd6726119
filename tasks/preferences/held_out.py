"""Evaluation sets of one's own: files whose rows nothing may be near to, or hold much of."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from tasks.preferences.containers import open_rows
from tasks.preferences.formats import Dropped
from tasks.preferences.screen import RefusedError, Row
from tasks.preferences.settle import Settler
from tasks.preferences.sources import recognised
from tasks.records import Record

_BATCH = 2000


def hold_out(path: Path, settler: Settler) -> dict[str, int]:
    """Hold out the rows of a file in any known format; how many there are, and how many could not be read.

    Raises FileNotFoundError or BadFileError where none can be.
    """
    warnings: Counter[str] = Counter()
    form, every = recognised(open_rows(path, warnings), path)
    counts = {"rows": 0, "unreadable": 0}
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
