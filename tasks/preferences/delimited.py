"""CSV and TSV with a header: every record a row, its cells texts but where a column is known to hold something else.

What Excel and pandas write around a table (an index, empty columns and lines, `sep=;`) is left out and counted. A file
whose quotation marks do not pair is refused whole: nobody can tell how many rows such a mark swallowed.
"""

import ast
import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any
from warnings import catch_warnings

from tasks.preferences import screen
from tasks.preferences.formats import FORMATS
from tasks.preferences.packed import SUFFIX
from tasks.preferences.screen import MAX_ROW_BYTES, BadFileError, Refusal, RefusedError, Row, check_text, redact, sniff

_NAME = re.compile(r"\.(csv|tsv)" + SUFFIX, re.IGNORECASE)
_SEPARATOR = re.compile(r"(?:\ufeff)?sep=([,;|\t])\s*", re.IGNORECASE)  # a first line, for Excel
_UNNAMED = re.compile(r"Unnamed: \d+(\.\d+)?")  # what pandas makes of no name

_NUMBER = re.compile(r"-?\d{1,18}(\.\d{1,18})?([eE][+-]?\d{1,3})?")
_COMMA = re.compile(r"-?\d{1,18},\d{1,18}")
_THOUSANDS = re.compile(r"-?[1-9]\d{0,2},\d{3}")  # or a decimal comma: where cells end at commas, nobody can tell
# A reply may be "42"; these columns never hold texts.
_NUMBERS = {"label", "labels", "choice", "preference", "weight", "seconds", "noise", "confidence", "correct"}
_NUMBERS |= {"winner_model_a", "winner_model_b", "winner_tie", "better_response_id", "safer_response_id"}
_NUMBERS |= {"preference_strength", "overall_preference", "annotation_id", "lead_time"}
_NUMBERS |= {"helpfulness", "correctness", "coherence", "complexity", "verbosity", "helpful", "harmless", "honesty"}
_NUMBERS |= {"desirable", "undesirable", "liked", "thumbs", "thumbs_up", "thumbs_down", "upvote", "vote"}
_NUMBERS |= {"verdict", "feedback", "kto_tag", "reward", "chosen_reward", "rejected_reward"}
# chosen_score, score_0, rejected-rating, is_safe, is_response_0_safe
_NUMBERED = re.compile(r"(?:.*[_-])?(?:score|rating|rank|stars)(?:[_-].*)?|is_.*")
_TRUTH = {"true": True, "false": False}

# Columns that hold lists or objects, whatever is in them. In another, a list in brackets may be what a model replied.
_LISTS = {"replies", "responses", "answers", "completions", "candidates", "generations", "outputs", "summaries"}
_LISTS |= {"items", "options", "rank", "ranks", "ranking", "rankings", "order", "scores", "rewards", "ratings", "steps"}
_LISTS |= {"labels", "messages", "conversations", "conversation", "conversation_a", "conversation_b", "history"}
_LISTS |= {"tags", "annotations", "predictions", "suggestions", "result", "data", "fields", "metadata", "info"}
_LISTED = re.compile(r".*\.(?:responses|users|status)")  # of a question in an export of Argilla
_TURNS = {"prompt", "response_a", "response_b"}  # lists of turns, where the Arena's outcomes stand beside them
_OBJECTS = ({"role", "content"}, {"from", "value"}, {"user_id", "value", "status"})  # elsewhere
_ASKED = ({"messages"}, {"full_text"}, {"message_id", "text"})  # of a prompt or question
_ANSWERED = ({"selected"}, {"choices"}, {"rating"}, {"rank"}, {"ranker"})  # in an export of Label Studio
_LIKE_MESSAGES = re.compile(r"""\[\s*\{\s*['"](?:role|content|from|value)['"]\s*:\s*['"]""")
_NO_JSON = {"malformed_json", "truncated_line", "multiple_values"}
_MAX_WRITTEN = 1 << 20  # characters: Python takes a hundred times as many bytes to read them
_REMEDY = "close the quotation mark, write those inside a cell twice, or export it as JSON Lines"


@dataclass(frozen=True)
class _Header:
    """Which cells of a record are read, and under which names."""

    names: dict[int, str]  # by place
    last: int  # the cells from here on are empty
    width: int  # cells of a record
    delimiter: str

    @property
    def shapes(self) -> tuple[set[str], ...]:
        """What objects may stand in a column of any name."""
        is_label_studio = {"annotation_id", "lead_time"} <= set(self.names.values())
        return (*_OBJECTS, *_ANSWERED) if is_label_studio else _OBJECTS

    @property
    def lists(self) -> set[str]:
        return _LISTS | _TURNS if "winner_model_a" in self.names.values() else _LISTS


class _Lines:
    """Lines as they are read, of which the last record's are told."""

    def __init__(self, lines: Iterator[str], count: int) -> None:
        self._lines, self.count = lines, count
        self.of_record: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.count += 1
        self.of_record.append(line)
        return line


def is_delimited(name: str) -> bool:
    """By its name: that a text is CSV no content can prove, and what is called JSON Lines must be that."""
    return _NAME.search(name) is not None


def is_json(stream: io.BufferedReader) -> bool:
    """Whether a file called CSV holds JSON, or something that the screen has a name for."""
    head = stream.peek(1 << 12)
    try:
        sniff("", head)
    except BadFileError as refused:
        return refused.reason != "wrong_format" or "no line begins" not in str(refused)
    # A later line that begins as JSON does may stand in a quoted cell.
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def delimited_rows(where: object, stream: io.BufferedReader, warnings: Counter[str]) -> Iterator[Row | Refusal]:
    """Yield the records. Raises BadFileError where there is no header, or quotation marks do not pair."""
    csv.field_size_limit(MAX_ROW_BYTES)
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        yield from _judged(where, text, warnings)


def _judged(where: object, text: io.TextIOWrapper, warnings: Counter[str]) -> Iterator[Row | Refusal]:
    delimiter, first, before = _begin(text, warnings)
    lines = _Lines(chain([first], text), before)
    records = _records(where, lines, delimiter)
    header = _header(where, next(records, []), delimiter, warnings)
    warnings["delimited"] += 1
    number = 0
    for cells in records:
        if not any(cell.strip() for cell in cells):
            warnings["blank_line"] += 1
            continue
        number += 1
        if len(lines.of_record) > 1 and len(cells) != header.width:
            message = f"a quoted cell runs over lines and leaves {len(cells)} cells of {header.width}"
            raise _unpaired(where, message, number, lines)
        yield _judge(number, header, cells)
    if number == 0:
        raise BadFileError(where, "empty_file", "holds no row; remove it from the sources or fill it")


def _begin(text: io.TextIOWrapper, warnings: Counter[str]) -> tuple[str, str, int]:
    """(delimiter, the line of the header, lines before it)."""
    line, before, delimiter = text.readline(), 0, None
    while line and (not line.strip() or _SEPARATOR.fullmatch(line)):
        if said := _SEPARATOR.fullmatch(line):
            delimiter = said[1]
        else:
            warnings["blank_line"] += 1
        line, before = text.readline(), before + 1
    guess = "\t" if "\t" in line else ";" if line.count(";") > line.count(",") else ","
    return delimiter or guess, line, before


def _records(where: object, lines: _Lines, delimiter: str) -> Iterator[list[str]]:
    """Yield the cells of each record, whose lines are then told. Raises BadFileError where a quotation mark errs."""
    for number, cells in enumerate(_strict(lines, delimiter)):
        if isinstance(cells, csv.Error):
            said = str(cells).replace("unexpected end of data", "a quoted cell never ends")
            raise _unpaired(where, said, number, lines)
        yield cells


def _strict(lines: _Lines, delimiter: str) -> Iterator[list[str] | csv.Error]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.of_record = []
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield error


def _unpaired(where: object, message: str, number: int, lines: _Lines) -> BadFileError:
    if any('\\"' in line for line in lines.of_record):
        message += '; it has \\" where CSV has ""'
    first = lines.count - len(lines.of_record) + 1
    return BadFileError(where, "wrong_format", f"record {number}, line {first}: {message}; {_REMEDY}")


def _header(where: object, record: list[str], delimiter: str, warnings: Counter[str]) -> _Header:
    """Columns without a name are an index in the first place, and nothing in the last ones. Raises BadFileError."""
    names = [name.strip() for name in record]
    width = len(names)
    while names and not names[-1]:
        names.pop()
    is_index = bool(names) and not names[0]
    named = {n: name for n, name in enumerate(names) if not (is_index and n == 0) and not _UNNAMED.fullmatch(name)}
    if width < 2 or not all(named.values()) or not named or len(set(named.values())) < len(named):
        message = "the first line is no header of a CSV file; give every column a name of its own"
        raise BadFileError(where, "wrong_format", message)
    if len(named) < width:
        warnings["unnamed_column"] += width - len(named)
    low = {place: _low(name) for place, name in named.items()}
    return _Header(low if len(set(low.values())) == len(low) else named, len(names), width, delimiter)


def _low(name: str) -> str:
    """A known name in small letters and without spaces, where it is known in no others."""
    low = name.casefold()
    return next((known for known in (name, low, low.replace(" ", "_")) if known in _known()), name)


@cache
def _known() -> frozenset[str]:
    return frozenset(field for form in FORMATS.values() for field in form.fields) | _NUMBERS | _LISTS


def _judge(number: int, header: _Header, cells: list[str]) -> Row | Refusal:
    raw = "\x1f".join(cells).encode("utf-8", "surrogateescape")
    sha256 = hashlib.sha256(raw).hexdigest()
    try:
        if len(raw) > MAX_ROW_BYTES:
            raise RefusedError("row_too_large")
        if len(cells) != header.width or any(cell.strip() for cell in cells[header.last :]):
            raise RefusedError("cell_count")
        if any("\udc80" <= char <= "\udcff" for cell in cells if not cell.isascii() for char in cell):
            raise RefusedError("bad_encoding")
        # An empty cell says no more than a key that is not there.
        value = {name: _cell(header, name, cells[place]) for place, name in header.names.items() if cells[place]}
        check_text(value)
    except RefusedError as refused:
        return Refusal(number, None, sha256, refused.reason, redact(raw))
    return Row(number, None, sha256, value)


def _cell(header: _Header, name: str, cell: str) -> Any:
    if name in _NUMBERS or _NUMBERED.fullmatch(name):
        found = _number(cell, header.delimiter)
        if found is not None:
            return found
    if cell[0] not in "[{":
        return cell
    if name in header.lists or _LISTED.fullmatch(name):
        found = _parsed(cell)
        return cell if found is None else found
    return _object(header, name, cell)


def _number(cell: str, delimiter: str) -> bool | int | float | None:
    if cell.casefold() in _TRUTH:
        return _TRUTH[cell.casefold()]
    if _COMMA.fullmatch(cell) and (delimiter == ";" or not _THOUSANDS.fullmatch(cell)):
        cell = cell.replace(",", ".")
    found = _NUMBER.fullmatch(cell)
    if not found:
        return None
    return float(cell) if found[1] or found[2] else int(cell)


def _object(header: _Header, name: str, cell: str) -> Any:
    """Messages, and what else only a tool writes; any other text stays one. Raises RefusedError for torn messages."""
    shapes = (*header.shapes, *_ASKED) if name in ("prompt", "question", "input") else header.shapes
    try:
        found = _parsed(cell)
    except RefusedError:
        found = None
    items = found if isinstance(found, list) else [found]
    if items and all(isinstance(item, dict) and any(keys <= item.keys() for keys in shapes) for item in items):
        return found
    if found is None and _LIKE_MESSAGES.match(cell):
        raise RefusedError("type")
    return cell


def messages_in(said: str) -> Any:
    """The messages that a text holds, as JSON or as Python writes them; None for any other text.

    Raises RefusedError for torn ones.
    """
    if said[:1] != "[" or not _LIKE_MESSAGES.match(said):
        return None
    found = _parsed(said)
    if not (isinstance(found, list) and all(isinstance(item, dict) for item in found)):
        raise RefusedError("type")
    return found


def _parsed(cell: str) -> Any:
    """A list or object, as JSON or as Python writes it, which is what pandas does; None for any other text.

    Raises RefusedError where it is JSON that no row may hold.
    """
    try:
        row = screen.parse(b'{"cell": ' + cell.encode() + b"}\n")
    except RefusedError as refused:
        if refused.reason not in _NO_JSON:
            raise
        return _written(cell)
    return row["cell"] if row.keys() == {"cell"} else None


def _written(cell: str) -> Any:
    """What Python wrote. Of ['a' 'b'], as numpy writes it, Python reads one text: only what it writes again counts."""
    if len(cell) > _MAX_WRITTEN:
        return None
    try:
        with catch_warnings(action="ignore"):  # about escapes, in texts that are none of Python's
            found = ast.literal_eval(cell)
        if repr(found) != cell.strip():
            return None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    # From here on as JSON: without tuples, sets and bytes, numbers of any size and what is nested too deep.
    try:
        return screen.parse(json.dumps({"cell": found}).encode() + b"\n")["cell"]
    except TypeError:
        return None
