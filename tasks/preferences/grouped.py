"""Rows that only say something together: replies to one prompt, messages of one tree, each in a row of its own."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from tasks.preferences import screen
from tasks.preferences.formats.building import GROUP
from tasks.preferences.screen import Refusal, RefusedError, Row

MOST_ROWS = 2000  # of a group; a longer one is cut, so that memory is bounded


def grouped(rows: Iterable[Row | Refusal], key: Callable[[dict[str, Any]], object]) -> Iterator[Row | Refusal]:
    """Every row once, in order; the last of those that stand together and have the same key has all of them as GROUP.

    A row that `key` refuses is refused, and is in no group.
    """
    waiting: Row | None = None
    group: list[dict[str, Any]] = []
    last: object = None
    for row in rows:
        if isinstance(row, Refusal):
            yield row
            continue
        try:
            own = key(row.value)
        except RefusedError as refused:
            yield Refusal(row.line, row.byte_offset, row.sha256, refused.reason, screen.redact(str(row.value)))
            continue
        if waiting is not None:
            if own != last or len(group) >= MOST_ROWS:
                yield replace(waiting, value=waiting.value | {GROUP: group})
                group = []
            else:
                yield replace(waiting, value=waiting.value | {GROUP: None})
        waiting, last = row, own
        group.append(row.value)
    if waiting is not None:
        yield replace(waiting, value=waiting.value | {GROUP: group})
