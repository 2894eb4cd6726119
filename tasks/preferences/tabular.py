"""Rows of tables: parquet files, and what the `datasets` library loads.

They hold typed values instead of bytes; from there on a row takes the same path as one of JSON Lines.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.preferences.plain import MAX_DEPTH
from tasks.preferences.screen import (
    MAX_ROW_BYTES,
    BadFileError,
    Refusal,
    RefusedError,
    Row,
    check_text,
    redact,
)

BATCH = 1000
_NAMED = 8  # dropped columns that are counted by name, too
_NAME_LENGTH = 40
_UTC = pa.timestamp("us", "UTC")
_INTEGER = re.compile(r"-?\d{1,18}")


def is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1" or path.suffix == ".parquet"


def parquet_rows(
    path: Path | str,
    warnings: Counter[str],
    content: BytesIO | None = None,
    drops_bytes: bool = False,
    classes: Mapping[str, list[Any]] | None = None,
) -> Iterator[Row | Refusal]:
    """Yield the rows of a parquet file, or of its content.

    drops_bytes: leave out columns of bytes, which refuse the file otherwise. classes: names beside those in the file.
    Raises BadFileError where it is torn or holds what is not text or numbers.
    """
    number = 0
    try:
        with pq.ParquetFile(content or path, page_checksum_verification=True) as file:
            columns = worth_reading(path, file.schema_arrow, warnings, drops_bytes)
            batches = file.iter_batches(BATCH, columns=list(columns))
            names = class_names(file.schema_arrow) | dict(classes or {})
            for row in table_rows(batches, columns, names):
                number = row.line
                yield row
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadFileError(path, "parquet_corrupt", f"{reason}; fetch the file again") from None
    if number == 0:
        raise BadFileError(path, "empty_file", "holds no row; remove it from the sources or fill it")


def table_rows(
    batches: Iterable[Any], columns: Mapping[str, Any], classes: Mapping[str, list[Any]]
) -> Iterator[Row | Refusal]:
    """Yield the rows of record batches or tables: `columns` as the types they are read as, `classes` by their names."""
    for number, row in enumerate(_rows(batches, columns, classes), 1):
        yield _judge(number, row)


def _rows(batches: Iterable[Any], columns: Mapping[str, Any], names: Mapping[str, list[Any]]) -> Iterator[Any]:
    """The rows of record batches or tables, their columns cast to what is read of them."""
    for batch in batches:
        read = {name: _cast(batch.column(name), dtype) for name, dtype in columns.items()}
        for name in read.keys() & names.keys():
            read[name] = [class_name(value, names[name]) for value in read[name]]
        for place in range(batch.num_rows):
            yield {name: values[place] for name, values in read.items()}


def _cast(column: Any, dtype: Any) -> list[Any]:
    if column.type == dtype:
        return list(column.to_pylist())
    # A time is cast twice: what Arrow writes of one without a detour is the hour of its zone.
    found = column.cast(_with_times(dtype, column.type), safe=False).cast(dtype)
    if pa.types.is_timestamp(column.type):
        found = pc.replace_substring(found, " ", "T")
    return list(found.to_pylist())


def class_name(value: Any, names: list[Any]) -> Any:
    """The name of a class, for the number in its place or its name as text; -1 is none. What is no class stays."""
    if isinstance(value, str):
        texts = list(map(str, names))
        place = texts.index(value) if value in texts else int(value) if _INTEGER.fullmatch(value) else None
    else:
        place = value if isinstance(value, int) and not isinstance(value, bool) else None
    if place is None or not -1 <= place < len(names):
        return value
    return None if place == -1 else names[place]


def class_names(schema: pa.Schema) -> dict[str, list[Any]]:
    """The names of columns that `datasets` calls a ClassLabel and keeps as integers. Names that are integers are
    given as such: the label "1" says 1.
    """
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        found = {name: kind["names"] for name, kind in features.items() if kind.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {name: plain_names(names) for name, names in found.items() if isinstance(names, list)}


def plain_names(names: list[Any]) -> list[Any]:
    texts = [str(name) for name in names]
    return [int(text) for text in texts] if all(map(_INTEGER.fullmatch, texts)) else texts


def _judge(number: int, value: dict[str, Any]) -> Row | Refusal:
    # A column that is null in this row says no more than a key that is not there.
    value = {key: item for key, item in value.items() if item is not None}
    text = json.dumps(value, sort_keys=True, default=str)  # escapes whatever UTF-8 cannot hold
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    try:
        if len(text) > MAX_ROW_BYTES:
            raise RefusedError("row_too_large")
        check_text(value)
    except RefusedError as refused:
        return Refusal(number, None, sha256, refused.reason, redact(text), raw=text.encode())
    return Row(number, None, sha256, value)


def worth_reading(path: Path | str, schema: pa.Schema, warnings: Counter[str], drops_bytes: bool) -> dict[str, Any]:
    """{column worth reading: the type it is read as}. What no format holds is dropped and counted.

    Raises BadFileError where two columns have one name, or one holds what is never read.
    """
    _check_names(path, schema, "the table")
    columns: dict[str, Any] = {}
    dropped: list[str] = []
    for field in schema:
        try:
            dtype = _readable(path, field.type, field.name, dropped)
        except _HostileError:
            if not drops_bytes:
                message = f"column `{field.name}` is {field.type}; only text, numbers, lists and structs are read"
                raise BadFileError(path, "parquet_corrupt", f"{message}: export it without this column") from None
            dtype = None
        if dtype is None:
            dropped.append(field.name)
        else:
            columns[field.name] = dtype
    if dropped:
        warnings["dropped_column"] += len(dropped)
        warnings.update(f"dropped_column:{name[:_NAME_LENGTH]}" for name in dropped[:_NAMED])
    return columns


def _check_names(path: Path | str, fields: Iterable[Any], what: str) -> None:
    """Of two values of one name, a row can hold the last one alone."""
    name, count = Counter(field.name for field in fields).most_common(1)[0] if fields else ("", 0)
    if count > 1:
        message = f"{what} has {count} columns named `{name}`; rename them, or drop all but one"
        raise BadFileError(path, "wrong_format", message)


class _HostileError(Exception):
    """Bytes, extension types, or types nested too deep."""


def _readable(path: Path | str, dtype: Any, name: str, dropped: list[str], depth: int = 1) -> Any:
    """The type that a column is read as: times with a zone as text, structs without the fields that JSON cannot say
    (dates, decimals). None where nothing is left; dropped fields are listed, a column itself is not.
    """
    is_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    if depth > MAX_DEPTH or isinstance(dtype, pa.BaseExtensionType) or any(test(dtype) for test in is_bytes):
        raise _HostileError
    if pa.types.is_timestamp(dtype):
        return pa.string() if dtype.tz is not None else None
    if pa.types.is_dictionary(dtype):
        inner = _readable(path, dtype.value_type, name, dropped, depth + 1)
        return dtype if inner == dtype.value_type else inner
    if _is_list(dtype):
        inner = _readable(path, dtype.value_type, name, dropped, depth + 1)
        return dtype if inner == dtype.value_type else None if inner is None else pa.large_list(inner)
    if pa.types.is_struct(dtype):
        return _struct(path, dtype, name, dropped, depth)
    plain = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_boolean,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_null,
    )
    return dtype if any(is_plain(dtype) for is_plain in plain) else None


def _struct(path: Path | str, dtype: Any, name: str, dropped: list[str], depth: int) -> Any:
    _check_names(path, list(dtype), f"the column `{name}`")
    kept, lost = [], []
    for field in dtype:
        inner = _readable(path, field.type, f"{name}.{field.name}", dropped, depth + 1)
        if inner is None:
            lost.append(f"{name}.{field.name}")
        else:
            kept.append(field.with_type(inner))
    if lost and not kept:
        return None
    dropped += lost
    return pa.struct(kept) if kept != list(dtype) else dtype


def _is_list(dtype: Any) -> bool:
    return bool(
        pa.types.is_list(dtype)
        or pa.types.is_large_list(dtype)
        or pa.types.is_fixed_size_list(dtype)
        or pa.types.is_list_view(dtype)
        or pa.types.is_large_list_view(dtype)
    )


def _with_times(dtype: Any, found: Any) -> Any:
    """The type read, with a moment of UTC for each time that is to become a text."""
    if pa.types.is_timestamp(found):
        return _UTC
    if pa.types.is_dictionary(found):
        return dtype if pa.types.is_dictionary(dtype) else _with_times(dtype, found.value_type)
    if _is_list(found):
        return dtype if dtype == found else pa.large_list(_with_times(dtype.value_type, found.value_type))
    if pa.types.is_struct(found):
        return pa.struct([field.with_type(_with_times(field.type, found.field(field.name).type)) for field in dtype])
    return dtype
