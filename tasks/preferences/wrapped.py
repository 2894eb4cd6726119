"""Files in which rows lie a level down, and those of other programs, which are refused with what to do about them.

A document is a `.json` file that holds one object: a wrapper around the list of rows (`{"data": [...]}`), one row over
several lines, or a table turned on its side, as pandas writes it by default.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tasks.preferences import screen
from tasks.preferences.formats import matching
from tasks.preferences.packed import SUFFIX
from tasks.preferences.screen import BadFileError, Refusal, Row

MAX_DOCUMENT = 256 << 20  # bytes: it is read from memory
_NAME = re.compile(r"\.json" + SUFFIX, re.IGNORECASE)
_LISTS = ("data", "rows", "examples", "instances", "train", "items", "records", "samples")
_SPACE = re.compile(r"\s*")
_DECODER = json.JSONDecoder(strict=False)
WORKBOOK = "an Excel workbook, which is not read; save each of its sheets as CSV"
_FOREIGN = {
    b"ARROW1": "an Arrow file, which is not read; open it with `datasets` or pyarrow and write parquet or JSON Lines",
    b"\xd0\xcf\x11\xe0": WORKBOOK,
}
_SUFFIXES = {".arrow": _FOREIGN[b"ARROW1"], ".feather": _FOREIGN[b"ARROW1"], ".xlsx": WORKBOOK}
_PANDAS = "write its rows: to_json(path, orient='records', lines=True)"


def stream_rows(where: object, stream: io.BufferedReader, warnings: Counter[str]) -> Iterator[Row | Refusal]:
    """`screen.stream_rows`, through a wrapper where the file is one. Raises BadFileError."""
    check_foreign(where, stream.peek(8))
    yield from screen.stream_rows(where, _opened(where, stream) if _NAME.search(str(where)) else stream, warnings)


def check_foreign(where: object, head: bytes = b"") -> None:
    """Raises BadFileError for a file of another program, by its first bytes or by its name."""
    said = next((message for magic, message in _FOREIGN.items() if head.startswith(magic)), None)
    said = said or next((message for suffix, message in _SUFFIXES.items() if str(where).lower().endswith(suffix)), None)
    if said:
        raise BadFileError(where, "wrong_format", said)


def is_description(content: bytes) -> bool:
    """Whether a small file holds one JSON object that is no row and holds none: it tells about the files beside it."""
    found = _document(content)
    if found is None or _turned(found[1]) or _row_like(found[1]):
        return False
    return not any(_is_rows(value) for value in found[1].values())


def _opened(where: object, stream: io.BufferedReader) -> io.BufferedReader:
    """The rows of a document as a stream that the screen can read; anything else as it is."""
    head = stream.peek(1)
    if not re.match(rb"(\xef\xbb\xbf)?\s*\{", head):
        return stream
    first = stream.readline(MAX_DOCUMENT)
    more = b"" if _document(first) is None else _next_line(stream)
    if more:
        return _joined(first + more, stream)  # JSON Lines
    content = first + stream.read(MAX_DOCUMENT - len(first))
    if stream.peek(1) or (found := _document(content)) is None:
        return _joined(content, stream)
    rows = _unwrapped(where, *found)
    if rows is None and b"\n" not in content.strip():
        return _joined(content, stream)
    return _joined(b"[" + found[0].encode() + b"]" if rows is None else rows, stream)


def _unwrapped(where: object, text: str, value: dict[str, Any]) -> bytes | None:
    """The bytes of the list of rows; None for one row. Raises BadFileError where nobody can tell which list it is."""
    if how := _turned(value):
        raise BadFileError(where, "wrong_format", f"{how}, as pandas writes a table; {_PANDAS}")
    lists = [key for key, found in value.items() if _is_rows(found) and (key in _LISTS or _row_like(found[0]))]
    if not lists or _row_like(value):
        return None
    if len(lists) > 1:
        message = f"holds rows under {' and '.join(f'`{key}`' for key in lists)}; write each to a file of its own"
        raise BadFileError(where, "wrong_format", message)
    rows = value[lists[0]]
    if all(isinstance(row.get("row"), dict) for row in rows):  # of the hub's server of datasets
        return "".join(json.dumps(row["row"]) + "\n" for row in rows).encode()
    start, end = _span(text, lists[0])
    return text[start:end].encode()


def _document(content: bytes) -> tuple[str, dict[str, Any]] | None:
    """A text that is one JSON object, and the object; None for any other."""
    try:
        text = content.decode("utf-8-sig")
        value, end = _DECODER.raw_decode(text, _skipped(text, 0))
    except (ValueError, RecursionError):
        return None
    return (text, value) if isinstance(value, dict) and not text[end:].strip() else None


def _span(text: str, wanted: str) -> tuple[int, int]:
    """Where the value of a key of an object stands in its text: the rows are judged as they were written."""
    place = _skipped(text, 0) + 1
    while True:
        key, place = _DECODER.raw_decode(text, _skipped(text, place))
        start = _skipped(text, _skipped(text, place) + 1)  # the colon
        value, end = _DECODER.raw_decode(text, start)
        if key == wanted and _is_rows(value):
            return start, end
        place = _skipped(text, end) + 1  # the comma


def _skipped(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _row_like(value: dict[str, Any]) -> bool:
    """Whether an object is a row by itself. A prompt alone stands in many a description."""
    return bool(set(matching(value)) - {"canonical_prompts"})


def _turned(value: dict[str, Any]) -> str | None:
    """How a table stands in an object that does not hold its rows as a list; None where it is none."""
    if {"columns", "data"} <= value.keys() <= {"columns", "data", "index", "index_names", "column_names"}:
        return "holds the names of the columns apart from the cells"
    columns = list(value.values())
    if not all(isinstance(column, dict) for column in columns):
        return None
    if not any(isinstance(cell, str) for column in columns for cell in column.values()):
        return None  # counts of something
    if all(key.isdigit() for key in value):
        return "holds rows under their numbers"
    keys = columns[0].keys()
    if len(columns) > 1 and keys and all(column.keys() == keys for column in columns) and all(map(str.isdigit, keys)):
        return "holds columns instead of rows"
    return None


def _next_line(stream: io.BufferedReader) -> bytes:
    """The next line that holds something, with the blank ones before it."""
    blank: list[bytes] = []
    while line := stream.readline(MAX_DOCUMENT):
        blank.append(line)
        if line.strip():
            return b"".join(blank)
    return b""


class _Joined(io.RawIOBase):
    """Bytes already read, then those of a stream, which closes with it."""

    def __init__(self, content: bytes, stream: io.BufferedReader) -> None:
        self._content, self._stream = io.BytesIO(content), stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._content.read(len(buffer)) or self._stream.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


def _joined(content: bytes, stream: io.BufferedReader) -> io.BufferedReader:
    return io.BufferedReader(_Joined(content, stream), 1 << 16)
