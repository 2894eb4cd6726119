"""Rows of a fresh shard that were refused, kept so that the quarantine has them and other rules judge them again.

A line of JSON each: what the quarantine said of the row, and the row as it came: `value`, or `bytes` where the screen
refused them. A row that must not be kept (of somebody who opted out; with what accepted rows are kept without), or
cannot be (above the limit of a row, cells of a CSV file), is its verdict alone, which then stands.
"""

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks.preferences import dialogue, people, screen
from tasks.preferences.formats import FORMATS, Dropped
from tasks.preferences.rules import Rules, opt_outs
from tasks.preferences.screen import BadFileError, Refusal, RefusedError, Row
from tasks.records import prompt_key

Kept = dict[str, Any]
Place = tuple[int, str]  # line and sha256 of a row
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\d+)')


def keep(
    rows: Iterable[Row | Refusal],
    form: str,
    verdicts: Path,
    target: Path,
    rules: Rules | None,
    known: Collection[Place] = (),
) -> int:
    """Write the refused ones of `rows` to a file; how many, without those that are known.

    verdicts: their quarantine. rows: those of the file that were judged, read again. Raises BadFileError where it
    was changed meanwhile.
    """
    told: dict[Place, list[Kept]] = {}
    for kept in lines(verdicts):
        told.setdefault(_place(kept), []).append(kept)
    number = 0
    with target.open("w", encoding="ascii") as file:
        for row in rows if told else ():
            place = (row.line, row.sha256)
            if place not in told:
                continue
            record = told[place].pop()
            if not told[place]:
                del told[place]
            if place not in known:
                file.write(line({**record, **_given(row, form, rules)}))
                number += 1
        file.flush()
        os.fsync(file.fileno())
    if told:
        raise BadFileError(verdicts, "hash_mismatch", "the file changed while it was read; send it again")
    return number


def line(kept: Kept) -> str:
    """In ASCII: bytes that are no UTF-8 stand in it as lone surrogates."""
    return json.dumps(kept, sort_keys=True) + "\n"


def lines(path: Path) -> Iterator[Kept]:
    if path.is_file():
        with path.open(encoding="ascii") as file:
            yield from map(json.loads, file)


def places(paths: Iterable[Path]) -> set[Place]:
    return {_place(kept) for path in paths for kept in lines(path)}


def rows(path: Path) -> Iterator[Row | Refusal]:
    """The rows, to be judged again, where they stood when they came."""
    for kept in lines(path):
        at = kept["line"], kept["byte_offset"], kept["sha256"]
        if "value" in kept:
            yield Row(*at, kept["value"])
        elif "bytes" in kept:
            yield screen.row_of(*at, kept["bytes"].encode("utf-8", "surrogateescape"))
        else:
            yield Refusal(**kept)


def _place(kept: Kept) -> Place:
    return kept["line"], kept["sha256"]


def names(kept: Kept, form: str) -> set[str]:
    """Whoever a row of this format may belong to: every short text and number in it, and its prompt by its key."""
    if "bytes" in kept:
        found = {text or number for text, number in _WORD.findall(kept["bytes"])}
    else:
        found = {*_texts(kept.get("value")), *_subjects(kept.get("value", {}), form)}
    return {name for name in found if len(name) <= people.MAX_NAME}


def _subjects(value: Kept, form: str) -> Iterator[str]:
    try:
        records = FORMATS[form].convert(value, "")
        for record in records:
            if not isinstance(record, Dropped):
                yield from opt_outs.subjects(record, value)
    except RefusedError:
        try:
            yield prompt_key(dialogue.prompt(value.get("prompt")))
        except RefusedError:
            return


def _given(row: Row | Refusal, form: str, rules: Rules | None) -> Kept:
    """What is kept of the row itself."""
    given: Kept = {"value": row.value} if isinstance(row, Row) else {}
    if isinstance(row, Refusal) and row.raw is not None:
        given = {"bytes": row.raw.decode("utf-8", "surrogateescape")}
    text = "\n".join(_texts(given)).replace("\\n", "\n")
    return given if rules is None or rules.lets_keep(text, names(given, form)) else {}


def _texts(value: Any) -> Iterator[str]:
    """Every text and number that stands in a value."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
    elif isinstance(value, str | int) and not isinstance(value, bool):
        yield str(value)
