"""DVC's graph as a flow sees it: what has to run, and what dvc.lock says of what ran.

dvc.yaml and dvc.lock are read in this process, without Prefect.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.files import parse_yaml

LOCK = "dvc.lock"
SHARDS = "data/shards/rows"


@dataclass(frozen=True)
class Step:
    """A stage of dvc.yaml and what the flow has to know of it."""

    name: str  # DVC's address: `align`, or `reward@0` for a member
    upstream: tuple[str, ...]
    changed: bool  # it, or something upstream of it, differs from dvc.lock
    forced: bool  # run it although nothing changed
    training: bool  # it takes the one training slot, and with it every core
    deadline: float | None  # seconds


def plan(root: Path, *, from_stage: str | None = None, force: bool = False) -> list[Step]:
    """Every stage in an order that respects the graph, marked where it has to run.

    `from_stage` runs that stage by force (and what follows from it); `force` runs everything by force, or
    everything from `from_stage` on. Raises ValueError for an unknown stage or a broken dvc.yaml.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        # DVC writes the address of a stage relative to the current folder: be where plain names are right.
        with chdir(root), Repo() as repo:
            graph = repo.index.graph
            _restore_sources(repo)
            status = repo.status()
            stages = {node.addressing: node for node in graph.nodes if node.cmd}
            upstream = {
                name: tuple(sorted(up.addressing for up in graph.successors(node) if up.cmd))
                for name, node in stages.items()
            }
            meta = {name: dict(node.meta or {}) for name, node in stages.items()}
    except DvcException as error:
        raise ValueError(f"dvc.yaml: {_one_line(error)}") from None
    if from_stage is not None and from_stage not in stages:
        raise ValueError(f"--from-stage {from_stage}: no such stage; dvc.yaml has {', '.join(sorted(stages))}")
    forced = _forced(upstream, from_stage, force)
    steps: list[Step] = []
    stale: set[str] = set()
    for name in _ordered(upstream):
        if name in status or name in forced or stale.intersection(upstream[name]):
            stale.add(name)
        steps.append(
            Step(
                name=name,
                upstream=upstream[name],
                changed=name in stale,
                forced=name in forced,
                training=bool(meta[name].get("training")),
                deadline=meta[name].get("deadline"),
            )
        )
    return steps


def version_shards(root: Path) -> None:
    """Put accepted shards under DVC's care: data/shards/rows.dvc names them, `dvc push` carries them."""
    from dvc.repo import Repo

    if (root / SHARDS).is_dir():
        with Repo(str(root)) as repo:
            record = root / f"{SHARDS}.dvc"
            if not record.is_file() or repo.status(targets=[str(record)]):
                repo.add([str(root / SHARDS)])


def cached_files(root: Path, md5: str) -> list[Path] | None:
    """The files of a folder that DVC once saved under this hash, in its cache; None where one of them is not there."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        place = repo.cache.local.oid_to_path
        listing = Path(place(md5 if md5.endswith(".dir") else f"{md5}.dir"))
        if not listing.is_file():
            return None
        files = [Path(place(entry["md5"])) for entry in json.loads(listing.read_text(encoding="utf-8"))]
    return files if all(file.is_file() for file in files) else None


def cached_shards(root: Path) -> list[Path]:
    """The accepted shards, as they were versioned last, in DVC's cache."""
    record = root / f"{SHARDS}.dvc"
    if not record.is_file():
        return []
    (out,) = parse_yaml(record.read_text(encoding="utf-8"))["outs"]
    return cached_files(root, out["md5"]) or []


def cache_folder(root: Path) -> Path:
    """Where DVC keeps the files of all versions, by their hashes."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return Path(repo.cache.local.path)


def made_of_data(root: Path) -> list[str]:
    """Outputs and plots that dvc.yaml names, relative to data/; those of members are weights and curves."""
    document = parse_yaml((root / "dvc.yaml").read_text(encoding="utf-8"))
    entries = [
        each for stage in document["stages"].values() for each in (*stage.get("outs", []), *stage.get("plots", []))
    ]
    paths = [next(iter(each)) if isinstance(each, dict) else each for each in entries]
    return [path.removeprefix("data/") for path in paths if path.startswith("data/") and "${" not in path]


def restore(root: Path, path: str) -> None:
    """Bring back an output that dvc.lock names and that is missing here, where DVC's cache has it."""
    from dvc.exceptions import CheckoutError
    from dvc.repo import Repo

    known = {out["path"] for stage in read_lock(root)["stages"].values() for out in stage.get("outs") or []}
    if path in known and not (root / path).exists():
        with chdir(root), Repo() as repo, suppress(CheckoutError):
            repo.checkout(targets=[path])


def _ordered(upstream: dict[str, tuple[str, ...]]) -> list[str]:
    """Topological, and stable: of the stages that are ready, dvc.yaml's names in order."""
    done: list[str] = []
    while len(done) < len(upstream):
        ready = [name for name in upstream if name not in done and set(upstream[name]) <= set(done)]
        done.extend(sorted(ready))
    return done


def _forced(upstream: dict[str, tuple[str, ...]], from_stage: str | None, force: bool) -> set[str]:
    if from_stage is None:
        return set(upstream) if force else set()
    forced = {from_stage}
    if force:
        for name in _ordered(upstream):
            if forced.intersection(upstream[name]):
                forced.add(name)
    return forced


def _restore_sources(repo: Any) -> None:
    """Bring back what is versioned as data (*.dvc files) and missing here; changed data is an error."""
    for source in (node for node in repo.index.graph.nodes if not node.cmd):
        state = repo.status(targets=[source.addressing])
        problems = {problem for change in state.values() for problem in _leaves(change)}
        if "deleted" in problems:
            from dvc.exceptions import CheckoutError

            try:
                repo.checkout(targets=[source.addressing], force=True)
            except CheckoutError:
                raise ValueError(
                    f"{source.addressing}: its data is neither here nor in the DVC cache; fetch it with "
                    f"`dvc pull {source.addressing}`"
                ) from None
        elif problems:
            raise ValueError(
                f"{source.addressing}: its data was changed after it was versioned; take the change in with "
                f"`dvc commit {source.addressing}` or undo it with `dvc checkout --force {source.addressing}`"
            )


def _leaves(change: Any) -> Iterator[str]:
    if isinstance(change, str):
        yield change
    elif isinstance(change, dict):
        for part in change.values():
            yield from _leaves(part)
    elif isinstance(change, list):
        for part in change:
            yield from _leaves(part)


def input_hash(root: Path, name: str) -> str:
    """sha256 over what a stage is about to compute from: command, parameters, hashes of its dependencies.

    Two executions with the same value compute the same thing, so one may go on where the other was stopped.
    """
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        with at_rest(root):
            found = next(each for each in repo.index.stages if getattr(each, "name", None) == name)
        found.save_deps(allow_missing=True)
        described = [found.cmd, [[dep.def_path, dep.hash_info.value] for dep in found.deps]]
    text = json.dumps(described, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def at_rest(root: Path) -> Iterator[None]:
    """Hold DVC's own lock: inside, no `dvc` is half-way through rewriting dvc.lock, which it does in place."""
    path = root / ".dvc/tmp/lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # waits; a waiting `dvc` (--wait-for-lock) has its turn afterwards
        yield


def read_lock(root: Path) -> dict[str, Any]:
    """dvc.lock as a mapping; empty stages where nothing has run yet. Raises ValueError for a torn file."""
    path = root / LOCK
    with at_rest(root):
        text = path.read_text(encoding="utf-8") if path.is_file() else "stages: {}"
    try:
        document = parse_yaml(text)
    except yaml.YAMLError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("stages"), dict):
        raise ValueError(f"{path}: torn or empty; delete it, and what is in DVC's cache will be found again")
    return document


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
