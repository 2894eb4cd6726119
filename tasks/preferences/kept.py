"""What became of each source, kept from run to run, so that fresh data costs what it costs and not its history.

A verdict depends on what came before; so the results of a source are kept under a hash of everything that led to
them: code, parameters, this source and all before it. With the last of them lies the index over all. Files are links
to those that were published. All of it can be deleted: the same bytes come out without it, only later.
"""

import hashlib
import json
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

import tasks
from tasks.preferences.duplicates import Index
from tasks.preferences.staging import Staging, Tally
from tasks.records import content_hash

_CODE = Path(tasks.__file__).parent


@dataclass(frozen=True)
class Reading:
    """One source to read."""

    name: str
    identity: str  # of its content and of how it is read
    take: Callable[[Staging, Index], Tally]  # stages its records


def take(
    readings: Sequence[Reading],
    basis: str,
    staging: Staging,
    index: Index,
    folder: Path,
    begin: Callable[[], None] = lambda: None,
) -> dict[str, Tally]:
    """Stage every source in turn, from what is kept in `folder` as far as that goes.

    `basis`: whatever else verdicts depend on. `begin` tells a new index what comes before all sources.
    """
    keys = list(accumulate((f"{each.name}\0{each.identity}" for each in readings), _chained, initial=basis))[1:]
    places = [folder / key for key in keys]
    done = max((n for n, place in _intact(places) if (place / "index").is_dir()), default=0)
    _forget(folder, places)  # first: a file of the index is shared, and what is kept beyond `done` is lost now
    if done:
        index.restore(places[done - 1] / "index")
    else:
        begin()
    tallies: dict[str, Tally] = {}
    for number, (reading, place) in enumerate(zip(readings, places, strict=True)):
        if number < done:
            staging.adopt(place)
            tallies[reading.name] = _tally(place)
        else:
            tallies[reading.name] = reading.take(staging, index)
            _keep(staging, reading.name, tallies[reading.name], place)
    if done < len(places):
        _save(index, places[-1] / "index")
    for number, place in enumerate(places, 1):
        if number not in (done, len(places)):  # the newest, and the one before it, to which one may go back
            shutil.rmtree(place / "index", ignore_errors=True)
    return tallies


def code_version(*packages: str) -> str:
    """A hash of modules and packages of `tasks`, and of the libraries that judge and write rows."""
    versions = (pa.__version__, orjson.__version__, platform.python_version())
    digest = hashlib.sha256("\n".join(versions).encode())
    for name in packages:
        for path in sorted((_CODE / name).rglob("*.py")) or [_CODE / f"{name}.py"]:
            digest.update(f"{path.relative_to(_CODE).as_posix()}\0{content_hash(path)}\n".encode())
    return digest.hexdigest()


def _chained(before: str, this: str) -> str:
    return hashlib.sha256(f"{before}\0{this}".encode()).hexdigest()


def _intact(places: Sequence[Path]) -> Iterator[tuple[int, Path]]:
    """(how many sources, the place of the last of them) for each beginning whose files are those that were kept."""
    for number, place in enumerate(places, 1):
        try:
            files = json.loads((place / "kept.json").read_text(encoding="utf-8"))["files"]
            if any(_stamp(place / name) != stamp for name, stamp in files.items()):
                return
        except (OSError, ValueError, KeyError):
            return
        yield number, place


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _tally(place: Path) -> Tally:
    found = json.loads((place / "kept.json").read_text(encoding="utf-8"))["tally"]
    counters: Any = {key: Counter(value) if isinstance(value, dict) else value for key, value in found.items()}
    return Tally(**counters)


def _keep(staging: Staging, name: str, tally: Tally, place: Path) -> None:
    unfinished = place.with_suffix(".unfinished")
    for old in (unfinished, place):
        shutil.rmtree(old, ignore_errors=True)
    unfinished.mkdir(parents=True)
    staging.keep(name, unfinished)
    files = {path.relative_to(unfinished).as_posix(): _stamp(path) for path in unfinished.rglob("*") if path.is_file()}
    (unfinished / "kept.json").write_text(json.dumps({"files": files, "tally": vars(tally)}), encoding="utf-8")
    unfinished.replace(place)


def _save(index: Index, folder: Path) -> None:
    unfinished = folder.with_suffix(".unfinished")
    unfinished.mkdir()
    index.save(unfinished)
    unfinished.replace(folder)


def _forget(folder: Path, places: Sequence[Path]) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path not in places:
            shutil.rmtree(path)
