"""forget: a rater, the owner of prompts, or a prompt opts out: `python -m flows.forget SUBJECT`.

Adds a salted hash of the subject to data/opt_outs.json, so that every later run refuses their rows; takes the rows out
of accepted shards; says where else they are and which registered versions learned from them. It trains nothing.
"""

import argparse
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks import register
from tasks.adapters import graph, stage, workspace
from tasks.adapters.tracking import Store, TrackingError, reachable
from tasks.adapters.workspace import Workspace
from tasks.preferences import forget
from tasks.preferences.rules.opt_outs import FILE, OptOuts
from tasks.records import DATASETS

TO_DO = """what remains to be done:
- `make run` (and every recipe in use): rows that came from data/inputs are refused as `opted_out`, and what was made
  of them is made again; the files in data/inputs themselves are yours to clean
- versions named above keep what they learned: retire them, or release one that was trained without these rows
- `dvc gc --workspace` (`--cloud` for the remote) after that run: until then the DVC cache holds the older data
- commit data/opt_outs.json and data/shards; earlier commits and branches `retrain/*` point to the older data"""


def run(subject: str, look_only: bool = False) -> Iterator[str]:
    """Opt a subject out, and say what that reaches, in lines. Raises ValueError for an empty subject."""
    if not subject.strip():
        raise ValueError("SUBJECT is empty; give a rater, the owner of prompts, or the id of a prompt")
    home = workspace.existing_workspace(Path())
    present = [name for name in workspace.recipe_names(home.root) if (home.data / "workspaces" / name).is_dir()]
    if not look_only:
        yield _add(home.data / FILE, OptOuts.read(home.data), subject)
    for name in (None, *present):
        space = workspace.existing_workspace(home.root, name)
        with space.held():
            yield from _of_space(space, subject, look_only)
    if not look_only:
        yield TO_DO


def _add(path: Path, known: OptOuts, subject: str) -> str:
    if known.salt and known.holds(subject):
        return f"{path.name}: was listed before"
    listed = OptOuts(known.salt or secrets.token_hex(16), known.hashes)
    stage.write_json(path, {"salt": listed.salt, "hashes": sorted({*listed.hashes, listed.hash(subject)})})
    return f"{path.name}: listed, as a salted hash"


def _of_space(space: Workspace, subject: str, look_only: bool) -> Iterator[str]:
    for dataset in DATASETS:
        for source, rows in forget.count(sorted((space.data / "raw" / dataset).glob("*.parquet")), subject).items():
            yield f"{space.name}: {rows} rows in data/raw/{dataset}, source {source}"
    held = forget.in_shards(space.data, subject)
    if held and not look_only:
        forget.drop_from_shards(space.data, subject)
        graph.version_shards(space.root)
    for sha256, rows in held.items():
        yield f"{space.name}: {rows} rows in shard {sha256[:12]}" + ("" if look_only else ", taken out")
    for sha256, rows in forget.in_held_shards(space.data, subject).items():
        remedy = "" if look_only else "; refused when it is released and read; or delete its folder in data/held"
        yield f"{space.name}: {rows} rows in held shard {sha256[:12]}{remedy}"
    yield from _versions(space, subject)


def _versions(space: Workspace, subject: str) -> Iterator[str]:
    """The registered versions, each with what the data that it learned from holds of the subject."""
    if not (space.home / "mlflow.db").is_file() and "MLFLOW_TRACKING_URI" not in os.environ:
        return
    store = Store.of(space.home)
    counted: dict[str, str] = {}  # by the md5 of a dataset
    with reachable(store.uri):
        client = store.client()
        for model in register.names(space):
            for version in client.search_model_versions(f"name='{model}'"):
                yield f"{model} version {version.version}: {_learned(space.root, version.tags, subject, counted)}"


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
    return "; ".join(said) or "none of their rows"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.forget", description=__doc__)
    parser.add_argument("subject", help="a rater, the owner of prompts, or the id of a prompt (data/raw/prompts)")
    parser.add_argument("--look", action="store_true", help="say where the rows are, change nothing")
    options = parser.parse_args(argv)
    try:
        for line in run(options.subject, options.look):
            sys.stdout.write(f"{line}\n")
    except (stage.BusyError, TrackingError) as error:
        sys.stderr.write(f"error: {error}\n")
        return stage.BUSY
    except (ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"error: {error}\n")
        return stage.BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
