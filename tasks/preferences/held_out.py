"""Evaluation sets of one's own: files whose rows nothing may be near to, or hold much of."""

from collections import Counter
from itertools import chain, islice
from pathlib import Path

from tasks.preferences.formats import detect
from tasks.preferences.screen import BadFileError, RefusedError, Row
from tasks.preferences.settle import Settler
from tasks.preferences.sources import SAMPLE, open_rows

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
    every = chain(head, rows)
    while batch := list(islice(every, _BATCH)):
        held = []
        for row in batch:
            try:
                held += [form.convert(row.value, path.name)] if isinstance(row, Row) else []
            except RefusedError:
                continue
        settler.hold_out(held)
        counts["rows"] += len(held)
        counts["unreadable"] += len(batch) - len(held)
    return counts
