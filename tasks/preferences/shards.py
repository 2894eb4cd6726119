"""Shards: fresh data taken into the versioned data one file at a time.

A shard is screened outside `data/shards`; one that is refused leaves no trace and cannot block a later run. One that is
held (tasks/preferences/holds.py) waits in `data/held/<sha256>/` until a person releases it, and blocks nothing either.
"""

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tasks.files import sync, write_json
from tasks.hashes import content_hash
from tasks.preferences import blocks, canonical, refused, shard_index
from tasks.preferences.containers import Rows, open_rows, parts
from tasks.preferences.duplicates import Index
from tasks.preferences.rules import Rules
from tasks.preferences.screen import BadFileError, HeldError
from tasks.preferences.sources import Source, read, recognised
from tasks.preferences.staging import Staging, Tally
from tasks.records import DATASETS

NAME = "fresh"  # the source of rows that name none, whatever their file was called: same rows, same hash


@dataclass(frozen=True)
class Accepted:
    dataset: str
    sha256: str  # of data/shards/rows/<sha256>.jsonl
    rows: int
    is_new: bool  # False where the same content was accepted before: nothing has changed
    warnings: list[str] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)  # rows of the file by reason; they are kept, too


# (dataset, folder with its rows as parquet) -> (holds as lines, warnings, all that was measured)
Judge = Callable[[str, Path], tuple[list[str], list[str], dict[str, Any]]]


def accept(
    path: Path,
    data: Path,
    max_quarantine_rate: float = 0.05,
    rules: Rules | None = None,
    judge: Judge | None = None,
) -> Accepted:
    """Screen a file of any known format, by `rules` too, compare it with what was accepted, and take in what passes.

    Raises ValueError or FileNotFoundError, with one clear line, where the file is refused; HeldError where it is held.
    """
    warnings: list[str] = []
    taken = _first_taken(path, data)
    work = data / "runs" / "shards"
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        judged_by = rules and rules.until(datetime.fromisoformat(taken["at"]))
        dataset, tally, canonical_file = _convert(path, Path(folder) / "staged", max_quarantine_rate, judged_by)
        sha256 = content_hash(canonical_file)
        entry: dict[str, Any] = {"dataset": dataset, "rows": tally.records[dataset], "sha256": sha256}
        if tally.quarantined["time"]:  # perhaps by the clock: the same file is to fare the same another day
            entry["taken"] = taken
        if lost := _refused(path, Path(folder) / "staged", tally, judged_by, _places(data, sha256)):
            entry["refused"] = [lost | ({"taken": taken["at"]} if "taken" in entry else {})]
        if judge is not None and not _is_known(data, sha256):
            holds, warnings, measured = judge(dataset, Path(folder) / "staged" / dataset)
            if blocks.NOTE in measured:
                entry[blocks.NOTE] = measured[blocks.NOTE]
            if holds:
                _hold(canonical_file.parent, data, entry, holds, measured)
                raise HeldError(f"{path}: held: {'; '.join(holds)}; {_remedy(data, sha256)}")
        _keep(canonical_file.parent, data, entry)
    is_new = _index(data / "shards" / "index.json", entry)
    return Accepted(dataset, sha256, entry["rows"], is_new, warnings, dict(tally.quarantined))


def _first_taken(path: Path, data: Path) -> dict[str, str]:
    """The hash of a given file, and the moment it was first taken in or held: now, where nothing of it depends on it.

    Raises FileNotFoundError where there is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    sha256 = content_hash(path)
    notes = [json.loads((folder / "hold.json").read_text(encoding="utf-8"))["entry"] for folder in held(data)]
    for entry in (*shard_index.read(data / "shards" / "index.json"), *notes):
        if (known := entry.get("taken")) and known["file"] == sha256:
            return dict(known)
    return {"file": sha256, "at": datetime.now(UTC).isoformat(timespec="seconds")}


def release(name: str, data: Path, by: str, reason: str) -> Accepted:
    """Accept a held shard, named by its hash or the start of it; who says so and why stands in its index entry.

    Raises ValueError where no shard, or more than one, is meant, its rows were changed, or nobody answers for it.
    """
    for key, value in (("BY", by), ("REASON", reason)):
        if not value.strip():
            raise ValueError(f"{key}: empty; a release names the person and the reason")
    known = {folder.name: folder for folder in held(data)}
    meant = [folder for sha256, folder in known.items() if name and sha256.startswith(name)]
    if len(meant) != 1:
        there = ", ".join(sha256[:12] for sha256 in known) or "none"
        raise ValueError(f"SHARD={name}: names {len(meant)} held shards; give the start of one hash (held: {there})")
    note = json.loads((meant[0] / "hold.json").read_text(encoding="utf-8"))
    entry = note["entry"]
    for name, sha256 in _files(entry).items():
        waiting = meant[0] / name
        if waiting.is_file() and content_hash(waiting) != sha256:
            raise BadFileError(waiting, "hash_mismatch", "changed since it was held; send the shard again")
    _keep(meant[0], data, entry)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    entry = entry | {"released": {"by": by.strip(), "reason": reason.strip(), "at": at, "holds": note["holds"]}}
    is_new = _index(data / "shards" / "index.json", entry)
    shutil.rmtree(meant[0])
    return Accepted(entry["dataset"], entry["sha256"], entry["rows"], is_new)


def held(data: Path) -> list[Path]:
    """The folders of held shards: `rows.jsonl`, and `hold.json` with entry, holds and what was measured."""
    return sorted(path.parent for path in (data / "held").glob("*/hold.json"))


def _hold(work: Path, data: Path, entry: dict[str, Any], holds: list[str], measured: dict[str, Any]) -> None:
    folder = data / "held" / entry["sha256"]
    folder.mkdir(parents=True, exist_ok=True)
    for name in _files(entry):
        (work / name).replace(folder / name)
    write_json(folder / "hold.json", {"entry": entry, "holds": holds, "measured": measured})


def _remedy(data: Path, sha256: str) -> str:
    return (
        f"nothing of it was taken in; look at {data / 'held' / sha256[:12]}*/rows.jsonl, then send it again mended, or "
        f"`make release-shard SHARD={sha256[:12]} BY=<name> REASON=<why>`"
    )


def _is_known(data: Path, sha256: str) -> bool:
    return any(entry["sha256"] == sha256 for entry in shard_index.read(data / "shards" / "index.json"))


def names(entry: Mapping[str, Any]) -> set[str]:
    """The files of an accepted shard in data/shards/rows."""
    return {f"{entry['sha256']}.jsonl", *map(refused_name, entry.get("refused", []))}


def _files(entry: Mapping[str, Any]) -> dict[str, str]:
    """The files of a shard before it is accepted, each with its hash."""
    return {"rows.jsonl": entry["sha256"]} | {refused_name(each): each["sha256"] for each in entry.get("refused", [])}


def refused_name(lost: Mapping[str, Any]) -> str:
    return f"{lost['sha256']}.refused.jsonl"


def _keep(work: Path, data: Path, entry: Mapping[str, Any]) -> None:
    """Move the files of a shard to the accepted ones; those that are there already stay."""
    folder = data / "shards" / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    for name in _files(entry):
        kept = folder / (f"{entry['sha256']}.jsonl" if name == "rows.jsonl" else name)
        if not kept.exists() and (work / name).exists():
            (work / name).replace(kept)
    sync(folder)


def accepted(data: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The accepted shards in order of arrival. Raises ValueError where one is missing or was changed."""
    shards = shard_index.read(data / "shards" / "index.json")
    return [(_listed(data, f"{entry['sha256']}.jsonl", entry["sha256"]), entry) for entry in shards]


def refused_files(data: Path, entry: Mapping[str, Any]) -> list[tuple[Path, dict[str, Any]]]:
    """The files with what was refused of an accepted shard (refused.py), as `accepted`."""
    return [(_listed(data, refused_name(each), each["sha256"]), each) for each in entry.get("refused", [])]


def _listed(data: Path, name: str, sha256: str) -> Path:
    """A file that the index names. Raises ValueError where it is missing or was changed."""
    path = data / "shards" / "rows" / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: listed in {data / 'shards' / 'index.json'} but missing; fetch it with `dvc pull`"
        )
    if content_hash(path) != sha256:
        raise BadFileError(path, "hash_mismatch", "changed since it was accepted; restore it with `dvc checkout`")
    return path


def name_of(entry: Mapping[str, Any]) -> str:
    return f"shard-{entry['sha256'][:12]}"


def source(path: Path, entry: Mapping[str, Any], rules: Rules | None = None) -> Source:
    """An accepted shard, to be read again; nothing in it can stop a run any more."""
    warnings: Counter[str] = Counter()
    return Source(
        name=name_of(entry),
        where=path,
        rows=open_rows(path, warnings),
        warnings=warnings,
        format=f"canonical_{entry['dataset']}",
        rows_source=NAME,
        rules=rules,
    )


def refused_source(path: Path, lost: Mapping[str, Any], name: str, rules: Rules | None = None) -> Source:
    """What was refused of a shard, to be judged by the rules of now; by the clock, as when it came."""
    if rules is not None and "taken" in lost:
        rules = rules.until(datetime.fromisoformat(lost["taken"]))
    return Source(
        name=name,
        where=path,
        rows=refused.rows(path),
        warnings=Counter(),
        format=lost["format"],
        rows_source=NAME,
        rules=rules,
        again=True,
    )


def _convert(path: Path, folder: Path, max_quarantine_rate: float, rules: Rules | None) -> tuple[str, Tally, Path]:
    """Screen a file; (dataset, what became of its rows, its canonical JSON Lines)."""
    warnings: Counter[str] = Counter()
    staging = Staging(folder)
    fresh = Source(
        name=NAME,
        where=path,
        rows=_rows(path, warnings),
        warnings=warnings,
        max_quarantine_rate=max_quarantine_rate,
        rules=rules,
        derive=False,
    )
    with closing(staging):
        tally = read(fresh, staging, Index())
    datasets = [dataset for dataset in DATASETS if tally.records[dataset]]
    if len(datasets) != 1:
        what = f"rows for {' and '.join(datasets)}" if datasets else "no row that is new"
        raise BadFileError(path, "wrong_format", f"a shard feeds one dataset, this one holds {what}")
    target = folder / "rows.jsonl"
    with target.open("w", encoding="utf-8") as file:
        for part in staging.parts(datasets[0]):
            with pq.ParquetFile(part) as rows:
                for batch in rows.iter_batches():
                    for row in batch.to_pylist():
                        file.write(canonical.to_json(DATASETS[datasets[0]](**row)) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return datasets[0], tally, target


def _rows(path: Path, warnings: Counter[str]) -> Rows:
    return chain.from_iterable(part.open(warnings) for part in parts(path))


def _refused(
    path: Path, work: Path, tally: Tally, rules: Rules | None, known: Collection[refused.Place]
) -> dict[str, Any] | None:
    """Keep what was refused of a file, beyond what is known, in `work`; what the index says of it."""
    if not tally.quarantined:
        return None
    _, rows = recognised(_rows(path, Counter()), path, tally.format)
    target = work / "refused.jsonl"
    number = refused.keep(rows, tally.format, work / "quarantine" / f"{NAME}.jsonl", target, rules, known)
    if not number:
        return None
    found = {"sha256": content_hash(target), "rows": number, "format": tally.format}
    target.rename(work / refused_name(found))
    return found


def _places(data: Path, sha256: str) -> set[refused.Place]:
    """Where the rows stood that were refused of a shard, if it was accepted before."""
    shards = shard_index.read(data / "shards" / "index.json")
    return {
        place
        for entry in shards
        if entry["sha256"] == sha256
        for place in refused.places(path for path, _ in refused_files(data, entry))
    }


def _index(index: Path, entry: dict[str, Any]) -> bool:
    """Add an entry, atomically; False where it is there already, to which rows refused this time are added."""
    shards = shard_index.read(index)
    known = next((known for known in shards if known["sha256"] == entry["sha256"]), None)
    if known is None:
        shards.append(entry)
    elif "refused" in entry:
        known["refused"] = [*known.get("refused", []), *entry["refused"]]
    else:
        return False
    write_json(index, {"shards": shards})
    return known is None
