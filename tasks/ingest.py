"""ingest: every source, screened row by row, as canonical records.

reads   the sources of params (the simulated world, data/inputs, the hub), data/shards
writes  data/raw/{demonstrations,preferences,safety,prompts,solutions}, data/quarantine
"""

import re
import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tasks import world, world_steps
from tasks.adapters import stage
from tasks.adapters.telemetry import FileTracker
from tasks.preferences import shards, tabular
from tasks.preferences.duplicates import Index
from tasks.preferences.folds import Shares
from tasks.preferences.formats import FORMATS
from tasks.preferences.held_out import hold_out
from tasks.preferences.settle import Settler
from tasks.preferences.sources import Source, Staging, Tally, open_rows, publish, read
from tasks.records import DATASETS, Record


class WorldSource(BaseModel):
    """The simulated world of `params.world`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Literal["world"]


class StepsSource(world_steps.StepsParams):
    """Sums worked out step by step, with a label for every step: simulated, too (tasks/world_steps.py)."""

    kind: Literal["world_steps"]


class FileSource(BaseModel):
    """A file in data/inputs: JSON Lines, a JSON array (either may be gzipped) or parquet."""

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
    revision: Annotated[str, Field(min_length=1)]  # a commit: what is not pinned cannot be reproduced
    split: str = "train"
    config: str | None = None


class Params(stage.Params):
    seed: int
    world: world.WorldParams
    folds: Shares
    sources: Annotated[
        tuple[Annotated[WorldSource | StepsSource | FileSource | HubSource, Field(discriminator="kind")], ...],
        Field(min_length=1),
    ]
    max_quarantine_rate: Annotated[float, Field(ge=0, le=1)]
    near_jaccard: Annotated[float, Field(gt=0, le=1)]  # of two texts' shingles, from which they are near
    held_out: tuple[str, ...]  # files of data/inputs that no row may be near to, or hold much of


def run(params: Params, data: Path, tracker: FileTracker) -> dict[str, Any]:
    folder = data / "runs" / "ingest" / "staged"
    shutil.rmtree(folder, ignore_errors=True)
    settler = Settler(folder / "index", params.folds.model_dump(), params.near_jaccard)
    with tracker.phase("read"), closing(settler), closing(Staging(folder)) as staging:
        held_out = {name: hold_out(_input(name, data), settler) for name in params.held_out}
        index = Index(settler)
        tallies = _stage(params, data, staging, index)
    with tracker.phase("publish"):
        publish(staging, index, tallies, data / "raw", data / "quarantine")
    shutil.rmtree(folder)
    return _metrics(tallies) | {"held_out": held_out, "clusters": settler.report()}


def _stage(params: Params, data: Path, staging: Staging, index: Index) -> dict[str, Tally]:
    tallies: dict[str, Tally] = {}
    for source in params.sources:
        if isinstance(source, WorldSource):
            tallies[world.SOURCE] = _simulate(world.SOURCE, world.generate(params.world, params.seed), staging, index)
            continue
        if isinstance(source, StepsSource):
            made = world_steps.generate(source, params.seed)
            tallies[world_steps.NAME] = _simulate(world_steps.NAME, made, staging, index)
            continue
        opened = _open(source, params.max_quarantine_rate, data)
        if opened.name in tallies:
            raise ValueError(f"ingest.sources: two sources are called `{opened.name}`; rename one of the files")
        tallies[opened.name] = read(opened, staging, index)
    for path, entry in shards.accepted(data):
        opened = shards.source(path, entry)
        tallies[opened.name] = read(opened, staging, index)
    return tallies


def _simulate(name: str, made: dict[str, list[Record]], staging: Staging, index: Index) -> Tally:
    tally = Tally("simulated")
    for dataset, records in made.items():
        tally.input += len(records)
        tally.accepted += len(records)
        tally.records[dataset] += len(records)
        for record in index.trust(records, name):
            staging.add(name, dataset, record)
    return tally


def _open(source: FileSource, max_quarantine_rate: float, data: Path) -> Source:
    warnings: Counter[str] = Counter()
    if isinstance(source, HubSource):
        name, where = source.path, source.path
        rows = tabular.hub_rows(source.path, source.revision, source.split, source.config)
    else:
        path = _input(source.path, data)
        name, where = path.name.partition(".")[0], str(path)
        rows = open_rows(path, warnings)
    return Source(
        name=re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "input",
        where=where,
        rows=rows,
        warnings=warnings,
        format=source.format,
        imitate_chosen=source.demonstrations == "chosen",
        max_quarantine_rate=max_quarantine_rate,
    )


def _input(name: str, data: Path) -> Path:
    folder = data / "inputs"
    path = folder / name
    if Path(name).is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"ingest.sources: path {name!r} lies outside {folder}; copy the file there and give its path "
            f"relative to it (`make run DATA={name}` does that)"
        )
    if not path.is_file():
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
            }
            for name, tally in tallies.items()
        },
    }


STAGE = stage.Stage(
    "ingest",
    Params,
    run,
    reads=("inputs", "shards/index.json"),
    writes=(*(f"raw/{name}" for name in DATASETS), "quarantine"),
)

if __name__ == "__main__":
    stage.main(STAGE)
