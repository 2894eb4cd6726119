"""ingest: every source, screened row by row, as canonical records.

reads   the sources of params (the simulated world, data/inputs, the hub), data/shards
writes  data/raw/{demonstrations,preferences,safety,prompts,solutions,feedback}, data/quarantine
"""

import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks import world, world_steps
from tasks.adapters import stage
from tasks.adapters.telemetry import FileTracker
from tasks.evaluation import refusals
from tasks.hashes import content_hash
from tasks.preferences import hub, kept, rejudged, shards, tables
from tasks.preferences.containers import Part, Rows, parts
from tasks.preferences.duplicates import Index
from tasks.preferences.folds import Shares
from tasks.preferences.formats import FORMATS
from tasks.preferences.held_out import hold_out
from tasks.preferences.kept import Reading
from tasks.preferences.rules import FILES, Rules, RulesOptions
from tasks.preferences.settle import Settler
from tasks.preferences.sources import Source, read
from tasks.preferences.staging import REQUEUE, Staging, Tally, publish
from tasks.records import DATASETS, Preference, Record
from tasks.shelf import code_version


class WorldSource(BaseModel):
    """The simulated world of `params.world`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["world"]


class StepsSource(world_steps.StepsParams):
    """Sums worked out step by step, with a label for every step: simulated, too (tasks/world_steps.py)."""

    kind: Literal["world_steps"]


class FileSource(BaseModel):
    """A file of data/inputs (JSON Lines, a JSON array, CSV, parquet), a folder of such files, or an archive of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["file"]
    path: str  # relative to data/inputs
    format: str = "auto"  # or a name of tasks/preferences/formats.py
    demonstrations: Literal["none", "chosen"] = "none"  # chosen: imitate the preferred replies

    @field_validator("format")
    @classmethod
    def _known(cls, value: str) -> str:
        if value != "auto" and value not in FORMATS:
            raise ValueError(f"unknown; give auto or one of {', '.join(FORMATS)}")
        return value


class HubSource(FileSource):
    """A dataset of the Hugging Face hub at a pinned revision, or a local folder in the same layout."""

    kind: Literal["hub"]  # type: ignore[assignment]
    path: str  # "owner/name"
    revision: Annotated[str, Field(min_length=1)]  # a commit, in full; of a local folder the content itself counts
    split: str = "train"
    config: str | None = None

    @model_validator(mode="after")
    def _pinned(self) -> Self:
        if not _COMMIT.fullmatch(self.revision) and not Path(self.path).is_dir():
            raise ValueError(
                f"revision = {self.revision!r}: not a full commit hash (40 hex digits): a branch or a tag moves, and "
                f"the data with it; `huggingface_hub.dataset_info({self.path!r}, revision={self.revision!r}).sha` says "
                "it, and so does `Files and versions` on the dataset's page"
            )
        return self


_COMMIT = re.compile("[0-9a-f]{40}")
AnySource = WorldSource | StepsSource | FileSource | HubSource
CODE = ("ingest", "evaluation/refusals", "preferences", "records", "world", "world_steps")  # what judges and makes rows


class Params(stage.Params):
    seed: stage.Seed
    world: world.WorldParams
    folds: Shares = Shares(judge=0.25, dev=0.05, test=0.18, sealed=0.0)
    sources: Annotated[
        tuple[Annotated[AnySource, Field(discriminator="kind")], ...],
        Field(min_length=1),
    ]
    max_quarantine_rate: Annotated[float, Field(ge=0, le=1)]
    rules: RulesOptions = RulesOptions()
    near_jaccard: Annotated[float, Field(gt=0, le=1)] = 0.8  # of two texts' shingles, from which they are near
    held_out: tuple[str, ...] = ()  # files of data/inputs that no row may be near to, or hold much of


def run(params: Params, data: Path, tracker: FileTracker) -> dict[str, Any]:
    runs = data / "runs" / "ingest"
    for folder in ("staged", "index"):
        shutil.rmtree(runs / folder, ignore_errors=True)
    rules = Rules.read(params.rules, data, refusals.declines)
    for note in rules.report()["notes"]:
        sys.stderr.write(f"ingest: WARNING: {note}\n")
    settler = Settler(runs / "index", params.folds.model_dump(), params.near_jaccard)
    index, staging = Index(settler), Staging(runs / "staged")
    with tracker.phase("read"), closing(settler), closing(staging):
        readings, basis = _readings(params, data, rules), _basis(params, data, rules)
        tallies = kept.take(
            readings, basis, staging, index, runs / "kept", partial(_hold_out, params, data, index, settler)
        )
    with tracker.phase("publish"):
        num_requeued = publish(staging, index.contradicted, tallies, data / "raw", data / "quarantine")
    for folder in ("staged", "index"):
        shutil.rmtree(runs / folder)
    if said := _dated_ahead(data / "raw"):
        sys.stderr.write(f"ingest: WARNING: {said}\n")
    if num_requeued:
        sys.stderr.write(f"ingest: {num_requeued} pairs are to be voted on again: {data / 'quarantine' / REQUEUE}\n")
    identities = {each.name: each.identity for each in readings}
    if said := rejudged.report(runs, data / "quarantine", rules.key, identities):
        sys.stderr.write(f"ingest: {said}\n")
    return _metrics(tallies) | {
        "requeued": num_requeued,
        "rules": rules.report(),
        "held_out": index.held_out,
        "clusters": settler.report(),
        "consistency": settler.consistency(),
    }


def _hold_out(params: Params, data: Path, index: Index, settler: Settler) -> None:
    index.held_out = {name: hold_out(_input(name, data), settler) for name in params.held_out}


def _dated_ahead(raw: Path) -> str | None:
    """What to say where rows are dated in the future. The clock decides no verdict: it may speak here."""
    latest = tables.greatest(sorted(raw.glob("*/*.parquet")), "created_at")
    if latest is None or latest[:10] <= (datetime.now(UTC) + timedelta(days=1)).isoformat()[:10]:
        return None
    return f"rows are dated up to {latest}; where that is wrong, set ingest.rules.latest in params.yaml to refuse them"


def rules_of(root: Path) -> Rules:
    """The rules that params.yaml asks for. Raises ValueError where it asks for what cannot be."""
    options = stage.read_part(RulesOptions, "ingest.rules", root / stage.PARAMS)
    return Rules.read(options, root / "data", refusals.declines)


def _basis(params: Params, data: Path, rules: Rules) -> str:
    """What the verdicts on every source depend on."""
    held_out = [content_hash(_input(name, data)) for name in params.held_out]
    own = params.model_dump(mode="json", exclude={"sources"})
    return json.dumps([code_version(*CODE), own, rules.key, held_out])


def _readings(params: Params, data: Path, rules: Rules) -> list[Reading]:
    readings = [each for source in params.sources for each in _of_source(source, params, data, rules)]
    for path, entry in shards.accepted(data):
        opened = partial(shards.source, path, entry, rules)
        readings.append(Reading(shards.name_of(entry), json.dumps(entry, sort_keys=True), partial(_read, opened)))
        for number, (lost_path, lost) in enumerate(shards.refused_files(data, entry)):
            name = f"{shards.name_of(entry)}-refused" + (f"-{number + 1}" if number else "")
            opened = partial(shards.refused_source, lost_path, lost, name, rules)
            readings.append(Reading(name, json.dumps(lost, sort_keys=True), partial(_read, opened)))
    names = Counter(each.name for each in readings)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"ingest.sources: two sources are called `{twice[0]}`; rename one of the files")
    return readings


def _of_source(source: AnySource, params: Params, data: Path, rules: Rules) -> list[Reading]:
    if isinstance(source, WorldSource):
        simulated = partial(_with_rubric, rules.rubric, partial(world.generate, params.world, params.seed))
        return [Reading(world.SOURCE, "", partial(_simulate, world.SOURCE, simulated))]
    if isinstance(source, StepsSource):
        made = partial(world_steps.generate, source, params.seed)
        return [Reading(world_steps.NAME, source.model_dump_json(), partial(_simulate, world_steps.NAME, made))]
    if isinstance(source, HubSource):
        local = Path(source.path)
        content = content_hash(local) if local.is_dir() else source.revision
        rows = partial(_hub_rows, source)
        return [_reading(source, content, Part("", source.path, rows), _slug(source.path), params, rules)]
    path = _input(source.path, data)
    found = parts(path)
    # A file of a folder is read again only where it has changed, or one before it.
    whole = "" if path.is_dir() else content_hash(path)
    contents = [whole + part.name if whole else content_hash(path / part.name) for part in found]
    base = _slug(path.name if path.is_dir() else path.name.partition(".")[0])
    return [_reading(source, content, part, base, params, rules) for content, part in zip(contents, found, strict=True)]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "input"


def _reading(source: FileSource, content: str, part: Part, base: str, params: Params, rules: Rules) -> Reading:
    """One data file: a source of its own, whose rows name the folder or archive it comes from."""
    name = f"{base}-{_slug(part.name)}" if part.name else base
    opened = partial(_open, name, base, source, part, params.max_quarantine_rate, rules)
    return Reading(name, source.model_dump_json() + content, partial(_read, opened))


def _hub_rows(source: HubSource, warnings: Counter[str]) -> Rows:
    return hub.hub_rows(source.path, source.revision, source.split, source.config, warnings)


def _read(opened: Callable[[], Source], staging: Staging, index: Index) -> Tally:
    return read(opened(), staging, index)


def _with_rubric(rubric: str | None, made: Callable[[], dict[str, list[Record]]]) -> dict[str, list[Record]]:
    """Simulated raters, too, judge by data/rubric.md as it is."""
    records = made()
    votes = (record for record in records["preferences"] if isinstance(record, Preference))
    return {**records, "preferences": [replace(vote, rubric=rubric) for vote in votes]}


def _simulate(name: str, made: Callable[[], dict[str, list[Record]]], staging: Staging, index: Index) -> Tally:
    tally = Tally("simulated")
    for dataset, records in made().items():
        tally.input += len(records)
        tally.accepted += len(records)
        tally.records[dataset] += len(records)
        for record in index.trust(records, name):
            staging.add(name, dataset, record)
    staging.finish(name)
    return tally


def _open(name: str, base: str, source: FileSource, part: Part, max_quarantine_rate: float, rules: Rules) -> Source:
    warnings = Counter(part.left_out)
    return Source(
        name=name,
        where=part.where,
        rows=part.open(warnings),
        warnings=warnings,
        format=source.format,
        imitate_chosen=source.demonstrations == "chosen",
        rows_source=base,
        max_quarantine_rate=max_quarantine_rate,
        rules=rules,
    )


def _input(name: str, data: Path) -> Path:
    folder = data / "inputs"
    path = folder / name
    if Path(name).is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"ingest.sources: path {name!r} lies outside {folder}; copy the file there and give its path "
            f"relative to it (`make run DATA={name}` does that)"
        )
    if not path.exists() or path.resolve() == folder.resolve():
        remedy = "name a file in it" if path.is_dir() else f"copy it to {folder} (`make run DATA=<file>` does that)"
        raise FileNotFoundError(f"ingest.sources: {path} is not a file; {remedy}")
    return path


def _metrics(tallies: dict[str, Tally]) -> dict[str, Any]:
    quarantined: Counter[str] = sum((tally.quarantined for tally in tallies.values()), Counter())
    warnings: Counter[str] = sum((tally.warnings for tally in tallies.values()), Counter())
    return {
        "rows": {name: sum(tally.records[name] for tally in tallies.values()) for name in DATASETS},
        "input": sum(tally.input for tally in tallies.values()),
        "accepted": sum(tally.accepted for tally in tallies.values()),
        "quarantined": {"total": quarantined.total(), **quarantined},
        "warnings": dict(warnings),
        "sources": {
            name: {
                "format": tally.format,
                "input": tally.input,
                "accepted": tally.accepted,
                "quarantined": tally.quarantined.total(),
                "rows": dict(tally.records),
                "unknown_fields": dict(tally.unknown_fields),
            }
            for name, tally in tallies.items()
        },
    }


STAGE = stage.Stage(
    "ingest",
    Params,
    run,
    reads=("inputs", "shards/index.json", *FILES),
    writes=(*(f"raw/{name}" for name in DATASETS), "quarantine"),
)

if __name__ == "__main__":
    stage.main(STAGE)
