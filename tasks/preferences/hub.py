"""Rows of Hugging Face datasets at a pinned revision, or of local folders in their layout.

`datasets` says which data files a name, revision, config and split mean, and fetches them; their rows take the path of
local files, so that the screen sees the bytes first. What only `datasets` can open (its own Arrow files, folders of
images, splits like `train[:10%]`, files with options of their own) it reads, which is counted as `read_by_datasets`.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tasks.preferences import tabular
from tasks.preferences.containers import Part, Rows, parts
from tasks.preferences.screen import BadFileError, Refusal, Row

_SPLIT = re.compile(r"(?!all$)\w+(\.\w+)*")  # no more than a name
# What a config says beside how bytes are to be read; a separator is told from the header, too.
_HEEDED = {"name", "version", "description", "data_dir", "data_files", "features", "sep", "delimiter"}
_SEPARATORS = (None, ",", ";", "\t")


def hub_rows(name: str, revision: str, split: str, config: str | None, warnings: Counter[str] | None = None) -> Rows:
    """Yield the rows of a split. Of several files, lines are counted on from one to the next.

    Images and the like stand beside the texts of many a dataset: such columns are dropped as dates are.
    Raises BadFileError where `datasets` cannot find it, naming the dataset, or a file is refused whole.
    """
    import datasets

    warnings = Counter() if warnings is None else warnings
    with _speaking(name):
        builder = datasets.load_dataset_builder(name, config, revision=revision)
        files = _files(builder, split)
    if files is None:
        warnings["read_by_datasets"] += 1
        yield from _loaded(name, revision, split, config, warnings)
        return
    classes = _classes(builder.info.features or {})
    yield from _counted(name, _numbered(_parts(files, classes), warnings), _rows_said(builder, split))


@contextmanager
def _speaking(name: str) -> Iterator[None]:
    """What `datasets` met, which it hides behind a general message where a file cannot be read, as one line."""
    import datasets
    import yaml

    try:
        yield
    except (datasets.exceptions.DatasetsError, OSError, RuntimeError, ValueError, yaml.YAMLError) as error:
        said = " ".join(str(error.__cause__ or error).split())[:300]
        where = "mend the file, or check" if error.__cause__ else "check"
        message = f"{said}; {where} name, revision, split and network"
        raise BadFileError(name, "hub_unavailable", message) from None


def _files(builder: Any, split: str) -> list[Path] | None:
    """The data files of a split, fetched; None where they are not for our reader. Raises ValueError for no split."""
    import datasets
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.json.json import Json
    from datasets.packaged_modules.parquet.parquet import Parquet

    if not isinstance(builder, Csv | Json | Parquet) or not _is_plain(builder.config) or not _SPLIT.fullmatch(split):
        return None
    listed = {str(key): list(files) for key, files in builder.config.data_files.items()}
    if split not in listed:
        raise ValueError(f"there is no split `{split}`, only {', '.join(listed)}")
    options = datasets.DownloadConfig(token=builder.token, storage_options=builder.storage_options, use_etag=False)
    fetch = datasets.DownloadManager(builder.dataset_name, download_config=options, base_path=builder.base_path)
    found = [Path(path) for path in fetch.download(listed[split])]
    # What is fetched from elsewhere loses its name, and CSV is told by that.
    kept = all(path.name == str(url).rpartition("/")[2] for path, url in zip(found, listed[split], strict=True))
    return found if kept else None


def _is_plain(config: Any) -> bool:
    """Whether no option says to read bytes in another way than ours."""
    usual = type(config)()
    names = {field.name for field in dataclasses.fields(config)} - _HEEDED
    return getattr(config, "sep", None) in _SEPARATORS and all(
        getattr(config, name) == getattr(usual, name) for name in names
    )


def _classes(features: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The names of columns that the dataset's card declares as classes."""
    import datasets

    found = {name: kind.names for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
    return {name: tabular.plain_names(names) for name, names in found.items() if names}


def _rows_said(builder: Any, split: str) -> int | None:
    """How many rows the dataset's card gives the split."""
    said = (builder.info.splits or {}).get(split)
    return said.num_examples if said is not None and said.num_examples else None


def _parts(files: list[Path], classes: Mapping[str, list[Any]]) -> list[Part]:
    found = []
    for path in files:
        if tabular.is_parquet(path):
            opened = partial(tabular.parquet_rows, path, drops_bytes=True, classes=classes)
            found.append(Part("", str(path), opened))
        else:
            found += [dataclasses.replace(part, open=partial(_named, part, classes)) for part in parts(path)]
    return found


def _numbered(read: list[Part], warnings: Counter[str]) -> Rows:
    last = 0
    for part in read:
        warnings.update(part.left_out)
        before = last
        try:
            for row in part.open(warnings):
                last = before + row.line
                yield row if len(read) == 1 else dataclasses.replace(row, line=last, byte_offset=None)
        except BadFileError as refused:
            if refused.reason != "empty_file" or len(read) == 1:
                raise
            warnings["empty_file"] += 1


def _named(part: Part, classes: Mapping[str, list[Any]], warnings: Counter[str]) -> Rows:
    """Rows with the names of classes for their numbers."""
    for row in part.open(warnings):
        if isinstance(row, Row) and (here := row.value.keys() & classes.keys()):
            value = row.value | {key: tabular.class_name(row.value[key], classes[key]) for key in here}
            row = dataclasses.replace(row, value={key: item for key, item in value.items() if item is not None})
        yield row


def _counted(name: str, rows: Rows, said: int | None) -> Rows:
    """The rows. Raises BadFileError where they are none, or not as many as was said and not for what is refused."""
    number = refused = 0
    for row in rows:
        number += 1
        refused += isinstance(row, Refusal)
        yield row
    if number == 0:
        raise BadFileError(name, "empty_file", "holds no row; remove it from the sources, or name another split")
    if said is not None and abs(said - number) > refused:
        message = f"has {number} rows, its card says {said}; fetch it again, or mend the card"
        raise BadFileError(name, "hash_mismatch", message)


def _loaded(name: str, revision: str, split: str, config: str | None, warnings: Counter[str]) -> Rows:
    import datasets

    with _speaking(name):
        dataset = datasets.load_dataset(name, config, split=split, revision=revision)
    schema = dataset.features.arrow_schema
    columns = tabular.worth_reading(name, schema, warnings, drops_bytes=True)
    tables = dataset.select_columns(list(columns)).with_format("arrow").iter(tabular.BATCH)
    yield from tabular.table_rows(tables, columns, tabular.class_names(schema))
