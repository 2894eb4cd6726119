"""What a row alone decides, for many rows: its records by format and rules, or why it is refused.

Long files are shared among processes. Batches come back in the order in which they went, and each depends on its own
rows alone, so the number of processes changes no verdict. They are started fresh, not forked (arrow has threads by
then), and end by themselves when the process that asked them is gone.
"""

import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tasks.preferences.formats import FORMATS, Dropped, misfit
from tasks.preferences.prints import Print, Prints, of_rows
from tasks.preferences.rules import Rules
from tasks.preferences.screen import Refusal, RefusedError, Row
from tasks.records import Record

FROM = 15  # batches before others are asked: to start them takes as long as some of these
_WAITING = 3  # batches per process that are on their way
_TIMEOUT = 600  # seconds for a batch, after which its process is taken for dead

Batch = Sequence[Row | Refusal]
Records = tuple[list[Record], list[str]]  # of a row, and why parts of it were dropped
Made = tuple[list[list[Print]], Prints]  # of the rows that have records, and of all their texts
Verdict = Records | RefusedError
Value = dict[str, Any]


@dataclass(frozen=True)
class Judge:
    """What rows of one source are judged by."""

    form: str  # a name of FORMATS
    source: str  # of rows that name none
    rules: Rules | None
    prints: bool = False  # whether rows are to be held against each other
    recognised: bool = False  # the format was told from a sample: a row that is in another one is not read as this

    def judge(self, values: Sequence[Value]) -> tuple[list[Verdict], Counter[str], Made | None]:
        """(a verdict for each row, how many rows each warning is about, the prints of those that are not refused)."""
        form, warnings = FORMATS[self.form], Counter[str]()
        found: list[Verdict] = []
        for value in values:
            try:
                if self.recognised and (reason := misfit(value, form)):
                    raise RefusedError(reason)
                found.append(self._of_row(form.convert(value, self.source), value, warnings))
            except RefusedError as refused:
                found.append(refused)
        kept = [verdict[0] for verdict in found if not isinstance(verdict, RefusedError) and verdict[0]]
        return found, warnings, of_rows(kept) if self.prints else None

    def _of_row(self, made: Sequence[Record | Dropped], value: Value, warnings: Counter[str]) -> Records:
        dropped = [part.reason for part in made if isinstance(part, Dropped)]
        records = [part for part in made if not isinstance(part, Dropped)]
        if dropped and not records:
            raise RefusedError(dropped[0])
        if self.rules is not None and records:
            records = self.rules.judge(records, value, warnings)
        return records, dropped


def judged(batches: Iterable[Batch], judge: Judge) -> Iterator[tuple[Batch, list[Verdict], Counter[str], Made | None]]:
    """Each batch with what `Judge.judge` says of its rows that the screen let pass, in order."""
    batches = iter(batches)
    for batch in islice(batches, FROM):
        yield batch, *judge.judge(_values(batch))
    upcoming = next(batches, None)
    if upcoming is None:
        return
    count = _processes()
    if count == 1:
        for batch in (upcoming, *batches):
            yield batch, *judge.judge(_values(batch))
        return
    with multiprocessing.get_context("spawn").Pool(count, _begin, (judge,)) as pool:
        waiting = deque([(upcoming, pool.apply_async(_work, (_values(upcoming),)))])
        for batch in batches:
            waiting.append((batch, pool.apply_async(_work, (_values(batch),))))
            if len(waiting) > _WAITING * count:
                first, answer = waiting.popleft()
                yield first, *answer.get(_TIMEOUT)
        for batch, answer in waiting:
            yield batch, *answer.get(_TIMEOUT)


def _processes() -> int:
    """One per core that this process may use, and at most two: this one has the rest of the work."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    return min(cores, 2)


def _values(batch: Batch) -> list[Value]:
    return [row.value for row in batch if isinstance(row, Row)]


_JUDGE: Judge | None = None  # of this process, where it is one of several


def _begin(judge: Judge) -> None:
    global _JUDGE
    _JUDGE = judge


def _work(values: Sequence[Value]) -> tuple[list[Verdict], Counter[str], Made | None]:
    assert _JUDGE is not None
    return _JUDGE.judge(values)
