"""Screen a file's bytes before anything else sees them, then parse each row with one parser.

Parsers disagree about NaN, duplicate keys, surrogates and line ends, and one deeply nested row ends a process
that lets a native parser loose on it; so rows are cut at b"\\n" alone and judged as bytes first.
Every row comes out as exactly one of `Row` and `Refusal`, in bounded memory.
"""

import hashlib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tasks.preferences import plain
from tasks.preferences.errors import RULE_VERSION, BadFileError, RefusedError
from tasks.preferences.packed import PACKED, open_unpacked
from tasks.preferences.plain import MAX_DEPTH

__all__ = ["MAX_DEPTH", "RULE_VERSION", "BadFileError", "RefusedError", "open_unpacked"]

# Refusals that say nothing of quality: what was said before, or by another rubric, or was not said at all.
REPEATS = frozenset({"exact_duplicate", "duplicate_swapped", "near_duplicate", "rubric_changed"})
REPEATS |= {"discarded", "draft", "unanswered", "neutral", "histories_differ", "unranked", "single_reply"}
MAX_ROW_BYTES = 4 << 20
MAX_DIGITS = 19  # what a 64-bit integer holds
_CHUNK = 1 << 16
_PLACES = ("id", "source", "cluster")

_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")  # tab, line feed, VT, FF and CR are text
# Bidirectional overrides, zero-width characters, and tag characters that are not part of a flag.
_HIDDEN = re.compile(
    "[\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0000-\U000e007f]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["{}\[\],]', re.DOTALL)
_MAGIC = {
    b"PK\x03\x04": ("archive_unsafe", "a zip archive inside another file; unpack it"),
    **{magic: ("archive_unsafe", "compressed twice; unpack it") for magic in PACKED},
    b"Rar!": ("wrong_format", "a rar archive; pack it as zip or tar"),
    b"7z\xbc\xaf": ("wrong_format", "a 7z archive; pack it as zip or tar"),
    b"\xff\xfe": ("wrong_encoding", "UTF-16 text; save it as UTF-8"),
    b"\xfe\xff": ("wrong_encoding", "UTF-16 text; save it as UTF-8"),
}
Cut = tuple[int, bytes | None, str]  # byte offset, bytes (None: too many), sha256


class HeldError(Exception):
    """A file waits for a person; the message is one line: hold, value, bound, remedy."""


@dataclass(frozen=True)
class Row:
    line: int  # from 1; the element's number in a JSON array, the row's in parquet
    byte_offset: int | None  # in the unpacked file; None where rows are not bytes (parquet, hub)
    sha256: str  # of the row's bytes
    value: dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    line: int
    byte_offset: int | None
    sha256: str
    reason: str
    excerpt: str  # redacted
    rule_version: str = RULE_VERSION
    near: str | None = None  # the cluster of what the row repeats, or leaks into
    rater: str | None = None  # of a vote that its own rater contradicts
    raw: bytes | None = None  # JSON that the screen refused, as it came; in no quarantine

    def record(self) -> dict[str, Any]:
        """What the quarantine says of the row."""
        return {key: value for key, value in vars(self).items() if key != "raw"}


def json_rows(path: Path, warnings: Counter[str]) -> Iterator[Row | Refusal]:
    """Yield the rows of a JSON Lines file, or of a file holding one JSON array; either may be compressed.

    Counts what was mended (BOM, CRLF, blank lines) in `warnings`. Raises BadFileError for a file refused whole.
    """
    with open_unpacked(path) as stream:
        yield from stream_rows(path, stream, warnings)


def stream_rows(path: object, stream: io.BufferedReader, warnings: Counter[str]) -> Iterator[Row | Refusal]:
    """`json_rows` of an open stream; `path` is for messages."""
    head = stream.peek(_CHUNK)
    sniff(path, head)
    cut = _elements if re.match(rb"(\xef\xbb\xbf)?\s*\[\s*\{", head) else _lines
    number = 0
    for number, (offset, raw, sha256) in enumerate(cut(path, stream, warnings), 1):
        if raw is None:
            yield Refusal(number, offset, sha256, "row_too_large", "")
            continue
        yield row_of(number, offset, sha256, raw)
    if number == 0:
        raise BadFileError(path, "empty_file", "holds no row; remove it from the sources or fill it")


def row_of(line: int, byte_offset: int | None, sha256: str, raw: bytes) -> Row | Refusal:
    """What becomes of one row's bytes, which stood there."""
    try:
        return Row(line, byte_offset, sha256, _given(parse(raw)))
    except RefusedError as refused:
        return Refusal(line, byte_offset, sha256, refused.reason, redact(raw), raw=raw)


def parse(raw: bytes) -> dict[str, Any]:
    """Judge one row's bytes and parse them. Raises RefusedError with the reason code."""
    value = plain.parse(raw)
    return judge(raw) if value is None else value


def _given(value: dict[str, Any]) -> dict[str, Any]:
    """A key that is null says no more than one that is not there."""
    return {key: item for key, item in value.items() if item is not None} if None in value.values() else value


def judge(raw: bytes) -> dict[str, Any]:
    """`parse`, step by step: what every verdict comes from. Raises RefusedError with the reason code."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise RefusedError("bad_encoding") from None
    if _CONTROL.search(text):
        raise RefusedError("control_char")
    if plain.depth(raw) > MAX_DEPTH:
        raise RefusedError("too_deep")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise RefusedError("multiple_values") from None
        # Only the last row of a file can lack its line end, so only it can have been cut.
        raise RefusedError("malformed_json" if raw.endswith(b"\n") else "truncated_line") from None
    if not isinstance(value, dict):
        raise RefusedError("not_object")
    if _HIDDEN.search(text.removeprefix("\ufeff")):
        raise RefusedError("hidden_text")
    if "\\u" in text:
        check_text(value)
    return value


def check_text(value: Any) -> None:
    """Refuse a parsed value that holds characters or numbers no row may hold. Raises RefusedError."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(item)
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, str):
            for pattern, reason in (
                (_SURROGATE, "bad_unicode"),
                (_CONTROL, "control_char"),
                (_HIDDEN, "hidden_text"),
            ):
                if pattern.search(item):
                    raise RefusedError(reason)
        elif isinstance(item, float) and not math.isfinite(item):
            raise RefusedError("non_finite")


def redact(raw: bytes | str, length: int = 160) -> str:
    """Keep the shape of the head of a row, not its words: letters become x, digits 0.

    A key stays readable where it is followed by a colon, as in JSON.
    """
    text = raw if isinstance(raw, str) else raw[: 4 * length].decode("utf-8", "replace")
    masked = re.sub(r'("[a-z_0-9]{1,20}"\s*:)|[^\W\d_]|\d', _mask, text[:length])
    return masked.encode("ascii", "replace").decode()


def excerpt(row: Mapping[str, Any]) -> str:
    """The same of a canonical row, from its prompt on."""
    return redact(json.dumps({key: row[key] for key in row if row[key] is not None and key not in _PLACES}))


def _mask(match: re.Match[str]) -> str:
    return match[1] or ("0" if match[0].isdigit() else "x")


def sniff(path: object, head: bytes) -> None:
    """Refuse a file whose first bytes say that it is not UTF-8 JSON."""
    for magic, (reason, message) in _MAGIC.items():
        if head.startswith(magic):
            raise BadFileError(path, reason, message)
    if head[257:262] == b"ustar":
        raise BadFileError(path, "archive_unsafe", "a tar archive inside another file; unpack it")
    if re.match(rb"\x80[\x02-\x05]", head):
        raise BadFileError(path, "wrong_format", "a Python pickle, which is never read; export it as JSON Lines")
    if head.count(0) > len(head) // 5:
        raise BadFileError(path, "wrong_encoding", "UTF-16 or UTF-32 text; save it as UTF-8")
    if head.strip() and not re.search(rb"(?:^|\n)(?:\xef\xbb\xbf)?\s*[{\[]", head):
        raise BadFileError(
            path, "wrong_format", "no line begins as JSON does; give JSON Lines, a JSON array, parquet, or a .csv file"
        )


def _lines(path: object, stream: io.BufferedReader, warnings: Counter[str]) -> Iterator[Cut]:
    """Cut at line feeds only. A row above the size limit is hashed and streamed past: its bytes are None."""
    offset = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        start, offset = offset, offset + len(line)
        digest = hashlib.sha256(line)
        if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
            while more := stream.readline(_CHUNK):
                digest.update(more)
                offset += len(more)
                if more.endswith(b"\n"):
                    break
            yield start, None, digest.hexdigest()
            continue
        if start == 0 and line.startswith(b"\xef\xbb\xbf"):
            warnings["bom_stripped"] += 1
            line = line[3:]
        if line.endswith(b"\r\n"):
            warnings["crlf"] += 1
        if line.isspace():
            warnings["blank_line"] += 1
            continue
        yield start, line, digest.hexdigest()


def _elements(
    path: object, stream: io.BufferedReader, warnings: Counter[str]
) -> Iterator[tuple[int, bytes | None, str]]:
    """Cut one JSON array, however it is laid out, into its elements."""
    buffer, start = stream.read(_CHUNK), 0
    skip = buffer.index(b"[") + 1
    buffer, start = buffer[skip:], skip
    warnings["json_array"] += 1
    while True:
        end = _element_end(buffer)
        while end is None and len(buffer) <= MAX_ROW_BYTES and (more := stream.read(len(buffer) + _CHUNK)):
            buffer += more
            end = _element_end(buffer)
        if end is None and len(buffer) > MAX_ROW_BYTES:
            raise BadFileError(
                path, "row_too_large", f"the array element at byte {start} is above {MAX_ROW_BYTES} bytes"
            )
        raw = buffer[:end].strip()
        if raw:
            # The line end says that this element is whole.
            yield start, raw + (b"" if end is None else b"\n"), hashlib.sha256(raw).hexdigest()
        if end is None:
            return
        closed = buffer[end : end + 1] == b"]"
        buffer, start = buffer[end + 1 :], start + end + 1
        if closed:
            if buffer.strip() or stream.read(_CHUNK).strip():
                raise BadFileError(path, "wrong_format", f"text after the end of the JSON array at byte {start}")
            return


def _element_end(buffer: bytes) -> int | None:
    """Where the element at the head of `buffer` ends (a comma or the array's bracket), if it is all there."""
    depth = 0
    for match in _TOKEN.finditer(buffer):
        token = match[0]
        if token == b'"':
            return None  # a string that goes on beyond the buffer
        if depth == 0 and token in b",]":
            return match.start()
        if token in b"{[":
            depth += 1
        elif token in b"}]":
            depth -= 1
    return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise RefusedError("duplicate_key")
    return value


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise RefusedError("number_range")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise RefusedError("non_finite")
    return number


def _constant(name: str) -> NoReturn:
    raise RefusedError("non_finite")


# The parser of all verdicts: `strict=False` lets a raw tab, VT or FF stand in a string; `_CONTROL` refused others.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant, strict=False
)
