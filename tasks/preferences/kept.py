"""What became of each source, kept from run to run, so that fresh data costs what it costs and not its history.

A verdict depends on what came before; so the results of a source are kept under a hash of everything that led to
them: code, parameters, this source and all before it. With the last of them lies the index over all. Files are links
to those that were published.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from tasks.files import write_json
from tasks.preferences.duplicates import Index
from tasks.preferences.staging import Staging, Tally
from tasks.shelf import Shelf


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
    shelf = Shelf(folder)
    done = _done(shelf, keys)
    shelf.forget(keys)  # first: a file of the index is shared, and what is kept beyond `done` is lost now
    if done:
        index.restore(folder / keys[done - 1] / "index")
    else:
        begin()
    tallies: dict[str, Tally] = {}
    for number, (reading, key) in enumerate(zip(readings, keys, strict=True)):
        if number < done:
            staging.adopt(folder / key)
            tallies[reading.name] = _tally(folder / key)
        else:
            tallies[reading.name] = reading.take(staging, index)
            shelf.put(key, partial(_fill, staging, reading.name, tallies[reading.name]))
    if done < len(keys):
        _save(index, folder / keys[-1] / "index")
    for number, key in enumerate(keys, 1):
        if number not in (done, len(keys)):  # the newest, and the one before it, to which one may go back
            shutil.rmtree(folder / key / "index", ignore_errors=True)
    return tallies


def _done(shelf: Shelf, keys: Sequence[str]) -> int:
    """How many sources, from the first on, are kept up to one that has an index over them."""
    done = 0
    for number, key in enumerate(keys, 1):
        place = shelf.find(key)
        if place is None:
            break
        done = number if (place / "index").is_dir() else done
    return done


def _chained(before: str, this: str) -> str:
    return hashlib.sha256(f"{before}\0{this}".encode()).hexdigest()


def _tally(place: Path) -> Tally:
    found = json.loads((place / "tally.json").read_text(encoding="utf-8"))
    counters: Any = {key: Counter(value) if isinstance(value, dict) else value for key, value in found.items()}
    return Tally(**counters)


def _fill(staging: Staging, name: str, tally: Tally, folder: Path) -> None:
    staging.keep(name, folder)
    write_json(folder / "tally.json", vars(tally))


def _save(index: Index, folder: Path) -> None:
    unfinished = folder.with_suffix(".unfinished")
    unfinished.mkdir()
    index.save(unfinished)
    unfinished.replace(folder)
