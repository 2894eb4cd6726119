"""Rows of tables: parquet files, and Hugging Face datasets by name and pinned revision.

They hold typed values instead of bytes; from there on a row takes the same path as one of JSON Lines.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
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

_BATCH = 1000


def is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1" or path.suffix == ".parquet"


def parquet_rows(path: Path | str, warnings: Counter[str], content: BytesIO | None = None) -> Iterator[Row | Refusal]:
    """Yield the rows of a parquet file, or of its content.

    Raises BadFileError where it is torn or holds what is not text or numbers.
    """
    try:
        with pq.ParquetFile(content or path, page_checksum_verification=True) as file:
            columns = _columns(path, file.schema_arrow, warnings)
            number = 0
            for batch in file.iter_batches(_BATCH, columns=columns):
                for value in batch.to_pylist():
                    number += 1
                    yield _judge(number, value)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadFileError(path, "parquet_corrupt", f"{reason}; fetch the file again") from None
    if number == 0:
        raise BadFileError(path, "empty_file", "holds no row; remove it from the sources or fill it")


def hub_rows(name: str, revision: str, split: str, config: str | None) -> Iterator[Row | Refusal]:
    """Yield the rows of a hub dataset (or of a local folder in its layout) at a pinned revision.

    Raises BadFileError where `datasets` cannot load it, naming the dataset.
    """
    import datasets

    try:
        dataset = datasets.load_dataset(name, config, split=split, revision=revision)
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BadFileError(name, "hub_unavailable", f"{reason}; check name, revision, split and network") from None
    for number, value in enumerate(dataset, 1):
        yield _judge(number, value)


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
        return Refusal(number, None, sha256, refused.reason, redact(text))
    return Row(number, None, sha256, value)


def _columns(path: Path | str, schema: pa.Schema, warnings: Counter[str]) -> list[str]:
    """The columns worth reading. Dates and the like are dropped and counted: no format holds them."""
    names = []
    for field in schema:
        kind = _kind(field.type)
        if kind == "hostile":
            message = f"column `{field.name}` is {field.type}; only text, numbers, lists and structs are read"
            raise BadFileError(path, "parquet_corrupt", f"{message}: export it without this column")
        if kind == "text":
            names.append(field.name)
        else:
            warnings["dropped_column"] += 1
    return names


def _kind(dtype: pa.DataType, depth: int = 1) -> str:
    """`text` (JSON can say it), `other` (dates, decimals) or `hostile` (bytes, extension types, too deep)."""
    if depth > MAX_DEPTH or isinstance(dtype, pa.BaseExtensionType):
        return "hostile"
    if pa.types.is_binary(dtype) or pa.types.is_large_binary(dtype) or pa.types.is_fixed_size_binary(dtype):
        return "hostile"
    if pa.types.is_dictionary(dtype):
        return _kind(dtype.value_type, depth + 1)
    if pa.types.is_list(dtype) or pa.types.is_large_list(dtype) or pa.types.is_fixed_size_list(dtype):
        return _kind(dtype.value_type, depth + 1)
    if pa.types.is_struct(dtype):
        kinds = {_kind(field.type, depth + 1) for field in dtype}
        return next((kind for kind in ("hostile", "other") if kind in kinds), "text")
    plain = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_boolean,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_null,
    )
    return "text" if any(is_plain(dtype) for is_plain in plain) else "other"
