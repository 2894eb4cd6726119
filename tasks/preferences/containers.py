"""Where rows lie: a file, a folder of files, or an archive, whose members are read where they lie.

A folder or archive gives its data files in name order; each is a source of its own, told apart by content. What is no
data (hidden files, licences, cards) is left out and counted. A manifest beside the data is held against it.
"""

import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from tasks.preferences import archives, delimited, manifests, screen, tabular, wrapped
from tasks.preferences.screen import BadFileError, Refusal, Row

_SMALL = 1 << 20  # bytes; a larger .json file describes nothing
# What stands beside data in a published dataset, and is none.
_NO_DATA = {".md", ".rst", ".txt", ".py", ".ipynb", ".yaml", ".yml", ".toml", ".html", ".pdf", ".png", ".jpg", ".jpeg"}
_NO_DATA |= {".svg", ".lock", ".cfg", ".sh", ".bib", ".cff", ".xml"}
_NO_DATA_NAMES = {"license", "licence", "readme", "notice", "authors", "makefile", "dockerfile", "sha256sums"}
_METADATA = {"manifest.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_METADATA |= {"metadata.json", "croissant.json", "config.json", "settings.json", "version.json", "dataset.json"}

Rows = Iterator[Row | Refusal]


@dataclass(frozen=True)
class Part:
    """One data file."""

    name: str  # inside the folder or archive; empty for a file given by itself
    where: str  # for messages
    open: Callable[[Counter[str]], Rows]  # counts what reading mends
    left_out: Counter[str] = field(default_factory=Counter)  # of the whole container, with its first part


def parts(path: Path) -> list[Part]:
    """The data files of a path. Raises FileNotFoundError, or BadFileError where it is unsafe or holds no data."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    left_out: Counter[str] = Counter()
    if path.is_dir():
        found = _of_folder(path, left_out)
    else:
        manifests.check_file(path)
        wrapped.check_foreign(path)
        if (kind := archives.kind(path)) is None:
            return [Part("", str(path), partial(open_rows, path))]
        found = _of_archive(path, kind, left_out)
    if not found:
        raise BadFileError(path, "empty_file", "holds no data file; give JSON Lines, JSON, CSV or parquet")
    found[0].left_out.update(left_out)
    return found


def open_rows(path: Path, warnings: Counter[str]) -> Rows:
    """The rows of a local file, whatever it is. Raises FileNotFoundError or BadFileError."""
    if path.is_file() and tabular.is_parquet(path):
        yield from tabular.parquet_rows(path, warnings)
        return
    with screen.open_unpacked(path) as stream:
        if delimited.is_delimited(path.name) and not delimited.is_json(stream):
            yield from delimited.delimited_rows(path, stream, warnings)
        else:
            yield from wrapped.stream_rows(path, stream, warnings)


def _of_folder(folder: Path, left_out: Counter[str]) -> list[Part]:
    manifests.check_folder(folder)
    root, found = folder.resolve(), []
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    for name, path in sorted(files.items()):
        if _is_left_out(name, left_out):
            continue
        if not path.resolve().is_relative_to(root):
            raise BadFileError(path, "archive_unsafe", "a link out of its folder; put the file itself there")
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadFileError(path, "wrong_format", "no plain file; remove it")
        wrapped.check_foreign(path)
        if _says_nothing(name, path.stat().st_size, path.read_bytes, left_out):
            continue
        if archives.kind(path):
            raise BadFileError(path, "archive_unsafe", "an archive inside a folder; name it as a source of its own")
        found.append(Part(name, str(path), partial(open_rows, path)))
    return found


def _of_archive(path: Path, kind: str, left_out: Counter[str]) -> list[Part]:
    archive = archives.Archive(path, kind)
    if "xl/workbook.xml" in archive.names:
        raise BadFileError(path, "wrong_format", wrapped.WORKBOOK)
    names = []
    for name in archive.names:
        if _is_left_out(name, left_out):
            continue
        if not _says_nothing(name, archive.size(name), partial(archive.head, name, _SMALL), left_out):
            names.append(name)
    return [Part(name, f"{path}!{name}", partial(archive.rows, name)) for name in names]


def _says_nothing(name: str, size: int, content: Callable[[], bytes], left_out: Counter[str]) -> bool:
    """Whether a data file by its name holds no row: no byte, or one JSON object that describes something; counted."""
    if size == 0:
        left_out["empty_file"] += 1
    elif name.casefold().endswith(".json") and size <= _SMALL and wrapped.is_description(content()):
        left_out["metadata_file"] += 1
    else:
        return False
    return True


def _is_left_out(name: str, left_out: Counter[str]) -> bool:
    """Hidden files, and what stands beside data in a published dataset; each is counted."""
    path = PurePosixPath(name)
    low = path.name.casefold()
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        left_out["hidden_file"] += 1
    elif low in _METADATA or path.suffix.casefold() in _NO_DATA or low.partition(".")[0] in _NO_DATA_NAMES:
        left_out["metadata_file"] += 1
    else:
        return False
    return True
