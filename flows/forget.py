"""forget: a rater, the owner of prompts, or a prompt opts out: `python -m flows.forget SUBJECT`.

Adds a salted hash of the subject to data/opt_outs.json, so that every later run refuses their rows; takes the rows out
of accepted and held shards; removes what was made of the data and can be made again, in every workspace, DVC's cache
and the local MLflow artifacts; says which of the people's own files and which registered versions have them. It trains
nothing.
"""

import argparse
import os
import secrets
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks import register
from tasks.adapters import git, graph, workspace
from tasks.adapters.commands import complaining
from tasks.adapters.tracking import Store, reachable
from tasks.adapters.workspace import Workspace
from tasks.files import write_json
from tasks.preferences import forget
from tasks.preferences.rules.opt_outs import FILE, OptOuts
from tasks.preferences.traces import Traces
from tasks.records import DATASETS

TO_DO = """what remains to be done:
- `make run` (and every recipe in use): what was removed is made again; rows that come from data/inputs are refused as
  `opted_out`; the files named above are yours to clean
- versions named above keep what they learned: retire them, or release one that was trained without these rows
- `dvc gc --workspace --cloud` after that run, where there is a remote; clean a remote MLflow store by hand
- commit data/opt_outs.json and data/shards; earlier commits and branches `retrain/*` name data that is gone"""
NONE = "none of their rows"
LEARNED = ("models", "tokenizer", "champion")  # weights and vocabularies: versions, not rows
GIVEN = ("inputs", "inbox")  # by people
APART = (*LEARNED, *GIVEN, "shards", "held", "workspaces", ".lock")  # of data/; not to be swept
KEPT = ("prepared", "sealed", "runs/ingest/kept", "runs/prepare/kept")  # of data/: tables made of data/raw
UNKNOWN = (
    ": nobody is known here by this name. Give a rater's e-mail address as it is (rows keep its hash); one of Label "
    "Studio is known by it wherever an export has it, else by an id"
)
# beside what dvc.yaml names
MADE = (
    *(f"runs/{name}" for name in ("ingest", "mine", "prepare", "validate", "shards")),
    "runs/align/reference",
    "checkpoints",
)


def run(subject: str, look_only: bool = False) -> Iterator[str]:
    """Opt a subject out, and say what that reaches, in lines. Raises ValueError for an empty subject."""
    if not subject.strip():
        raise ValueError("SUBJECT is empty; give a rater, the owner of prompts, or the id of a prompt")
    subject = subject.strip()
    home = workspace.existing_workspace(Path())
    if not look_only:
        yield _add(home.data / FILE, OptOuts.read(home.data), subject)
    cloned = sorted(path.parent.name for path in (home.data / "workspaces").glob("*/dvc.yaml"))
    spaces = [workspace.existing_workspace(home.root, name) for name in (None, *cloned)]
    traces = Traces(subject)
    for space in spaces:
        with space.held():
            traces.learn(forget.rows_of(space.data))
            yield from _of_space(space, subject, traces, look_only)
    # Now that it is known what they wrote anywhere: workspaces share a cache.
    current = {path for space in spaces for path in graph.cached_shards(space.root)}
    for space in spaces:
        with space.held():
            yield from _given(space, traces)
            if not look_only:
                yield from _remove(space, traces, current)
    if not look_only:
        yield TO_DO


def _add(path: Path, known: OptOuts, subject: str) -> str:
    if known.salt and known.holds(subject):
        return f"{path.name}: was listed before"
    listed = OptOuts(known.salt or secrets.token_hex(16), known.hashes)
    write_json(path, {"salt": listed.salt, "hashes": sorted({*listed.hashes, listed.hash(subject)})})
    return f"{path.name}: listed, as a salted hash"


def _of_space(space: Workspace, subject: str, traces: Traces, look_only: bool) -> Iterator[str]:
    counted: Counter[str] = Counter(dict.fromkeys(("raw", *KEPT, "quarantine", "shards", "held"), 0))
    for dataset in DATASETS:
        for source, rows in forget.count(sorted((space.data / "raw" / dataset).glob("*.parquet")), subject).items():
            counted["raw"] += rows
            yield f"{space.name}: {rows} rows in data/raw/{dataset}, source {source}"
    for name, rows in _made(space.data, subject, traces):
        counted[name] += rows
        yield f"{space.name}: {rows} rows in data/{name}"
    held = forget.in_shards(space.data, subject)
    if held and not look_only:
        forget.drop_from_shards(space.data, subject)
        graph.version_shards(space.root)
    waiting = forget.in_held_shards(space.data, subject)
    if waiting and not look_only:
        forget.drop_from_held(space.data, subject)
    for name, kind, found in (("shards", "shard", held), ("held", "held shard", waiting)):
        for sha256, rows in found.items():
            counted[name] += rows
            yield f"{space.name}: {rows} rows in {kind} {sha256[:12]}" + ("" if look_only else ", taken out")
    if nowhere := [f"data/{name}" for name, rows in counted.items() if not rows]:
        yield f"{space.name}: no row of theirs in {', '.join(nowhere)}" + ("" if counted.total() else UNKNOWN)
    yield from _versions(space, subject, look_only)


def _made(data: Path, subject: str, traces: Traces) -> Iterator[tuple[str, int]]:
    """(folder, rows of the subject in it) of what stages made of data/raw, where there are any."""
    ids = forget.ids(sorted((data / "raw").glob("*/*.parquet")), subject)
    for name in KEPT:
        if rows := sum(forget.count(sorted((data / name).rglob("*.parquet")), subject, ids).values()):
            yield name, rows
    refused = [path.read_text(encoding="utf-8").splitlines() for path in sorted((data / "quarantine").rglob("*.jsonl"))]
    if rows := sum(traces.in_text(line) for lines in refused for line in lines):
        yield "quarantine", rows


def _given(space: Workspace, traces: Traces) -> Iterator[str]:
    for path in _files(space.data / name for name in GIVEN):
        if path.name != "README.md" and traces.in_input(path):
            yield f"{space.name}: data/{path.relative_to(space.data)} names or quotes them: yours to clean"


def _remove(space: Workspace, traces: Traces, current: set[Path]) -> Iterator[str]:
    """What holds rows goes whether it tells of the subject or not (tokens and hashes tell nothing); the rest, if so.

    `current`: files of the cache that are the accepted shards as they are now.
    """
    made = {space.data / name for name in (*MADE, *graph.made_of_data(space.root))}
    for path in made:
        if not path.is_relative_to(space.data) or path.relative_to(space.data).parts[0] in APART:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    yield f"{space.name}: what was made of the data is removed; `make run` makes it again"
    kept = {space.root / name for name in git.tracked(space.root)} | current
    places = {
        "data": (path for path in space.data.iterdir() if path.name not in APART),
        "the DVC cache": [graph.cache_folder(space.root), space.root / ".dvc/tmp"],  # experiments work in the latter
        "mlartifacts": [space.home / "mlartifacts"],
    }
    for name, folders in places.items():
        files = (path for path in _files(folders) if path not in kept and not _is_of_a_model(path))
        # Beside data/ lie tokenizers: a name in quotes may be a word of theirs; but not in what stages keep.
        found = [path for path in files if traces.in_file(path, quoted=name == "data" or "kept" in path.parts)]
        for path in found:
            path.unlink()
        if found:
            kinds = ", ".join(f"{kind or 'no suffix'} {n}" for kind, n in Counter(p.suffix for p in found).items())
            yield f"{space.name}: {len(found)} files removed from {name} ({kinds})"


def _is_of_a_model(path: Path) -> bool:
    return any((folder / "MLmodel").is_file() for folder in path.parents[:8])


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        found = [folder] if folder.is_file() else sorted(folder.rglob("*"))
        yield from (path for path in found if path.is_file() and not path.is_symlink())


def _versions(space: Workspace, subject: str, look_only: bool) -> Iterator[str]:
    """The registered versions, each with what the data that it learned from holds of the subject."""
    if not (space.home / "mlflow.db").is_file() and "MLFLOW_TRACKING_URI" not in os.environ:
        return
    store = Store.of(space.home)
    counted: dict[str, str] = {}  # by the md5 of a dataset
    tag = f"opted_out.{OptOuts.read(space.home / 'data').hash(subject)[:12]}"
    with reachable(store.uri):
        client = store.client()
        for model in register.names(space):
            for version in client.search_model_versions(f"name='{model}'"):
                # Said before: what the cache had of it may be gone since.
                learned = version.tags.get(tag) or _learned(space.root, version.tags, subject, counted)
                if not look_only and tag not in version.tags and "rows" in learned and learned != NONE:
                    client.set_model_version_tag(model, version.version, tag, learned)
                yield f"{model} version {version.version}: {learned}"


def _learned(root: Path, tags: dict[str, Any], subject: str, counted: dict[str, str]) -> str:
    said = []
    for dataset in DATASETS:
        md5 = tags.get(f"data.{dataset}.md5")
        if md5 and md5 not in counted:
            tables = graph.cached_files(root, md5)
            rows = None if tables is None else sum(forget.count(tables, subject).values())
            counted[md5] = "" if rows == 0 else "not in the DVC cache, unknown" if rows is None else f"{rows} rows"
        if md5 and counted[md5]:
            said.append(f"{dataset}: {counted[md5]}")
    return "; ".join(said) or NONE


@complaining
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.forget", description=__doc__)
    parser.add_argument("subject", help="a rater, the owner of prompts, or the id of a prompt (data/raw/prompts)")
    parser.add_argument("--look", action="store_true", help="say where the rows are, change nothing")
    options = parser.parse_args(argv)
    for line in run(options.subject, options.look):
        sys.stdout.write(f"{line}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
