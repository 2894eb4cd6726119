"""CSV and TSV with a header: every record a row, its cells texts but where a column is known to hold numbers."""

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tasks.preferences.screen import MAX_ROW_BYTES, BadFileError, Refusal, RefusedError, Row, check_text, redact, sniff

_NAME = re.compile(r"\.(csv|tsv)(\.(gz|bz2|xz))?$", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d{1,18}(\.\d{1,18})?")
# A reply may be "42"; these columns never hold texts.
_NUMBERS = {"label", "labels", "choice", "rank", "score", "rating", "preference", "confidence", "weight", "seconds"}
_NUMBERS |= {"score_0", "score_1", "score_chosen", "score_rejected", "score_ratio", "winner_model_a", "winner_model_b"}
_NUMBERS |= {"winner_tie", "better_response_id", "safer_response_id", "preference_strength", "overall_preference"}
_NUMBERS |= {
    "helpfulness",
    "correctness",
    "coherence",
    "complexity",
    "verbosity",
    "desirable",
    "overall_score",
    "noise",
}
_NUMBERS |= {"annotation_id", "annotator", "lead_time", "correct"}
_TRUTH = {"true": True, "false": False}


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
    return True


def delimited_rows(where: object, stream: io.BufferedReader, warnings: Counter[str]) -> Iterator[Row | Refusal]:
    """Yield the records. Raises BadFileError where there is no header, or a cell never ends."""
    csv.field_size_limit(MAX_ROW_BYTES)
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        yield from _records(where, text, warnings)


def _records(where: object, text: io.TextIOWrapper, warnings: Counter[str]) -> Iterator[Row | Refusal]:
    header = text.readline()
    delimiter = "\t" if "\t" in header else ";" if header.count(";") > header.count(",") else ","
    names = next(csv.reader([header], delimiter=delimiter), [])
    if len(names) < 2 or len(set(names)) < len(names) or not all(name.strip() for name in names):
        raise BadFileError(where, "wrong_format", "the first line is no header of a CSV file; give every column a name")
    warnings["delimited"] += 1
    number = 0
    try:
        for number, cells in enumerate(csv.reader(text, delimiter=delimiter), 1):
            yield _judge(number, names, cells)
    except csv.Error as error:
        raise BadFileError(where, "wrong_format", f"record {number + 1}: {error}; export it as JSON Lines") from None
    if number == 0:
        raise BadFileError(where, "empty_file", "holds no row; remove it from the sources or fill it")


def _judge(number: int, names: list[str], cells: list[str]) -> Row | Refusal:
    raw = "\x1f".join(cells).encode("utf-8", "surrogateescape")
    sha256 = hashlib.sha256(raw).hexdigest()
    try:
        if len(raw) > MAX_ROW_BYTES:
            raise RefusedError("row_too_large")
        if len(cells) != len(names):
            raise RefusedError("cell_count")
        if any("\udc80" <= char <= "\udcff" for cell in cells if not cell.isascii() for char in cell):
            raise RefusedError("bad_encoding")
        # An empty cell says no more than a key that is not there.
        value = {name: _cell(name, cell) for name, cell in zip(names, cells, strict=True) if cell}
        check_text(value)
    except RefusedError as refused:
        return Refusal(number, None, sha256, refused.reason, redact(raw))
    return Row(number, None, sha256, value)


def _cell(name: str, cell: str) -> Any:
    if name in _NUMBERS:
        if cell.casefold() in _TRUTH:
            return _TRUTH[cell.casefold()]
        if _NUMBER.fullmatch(cell):
            return float(cell) if "." in cell else int(cell)
    if cell[:2] in ("[{", '["') or cell[:2] == '{"':
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell
