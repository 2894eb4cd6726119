"""A workspace: the folder a run happens in, held by one run at a time.

Without a recipe it is the project itself. A recipe runs in a clone of its own, `data/workspaces/<recipe>/`,
with the recipe's params.yaml and a copy of the given data; it shares the project's DVC cache and MLflow store.
"""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasks.adapters import champion, recovery, stage
from tasks.adapters.git import git

DATA_MARK = "${DATA}"
_held: dict[Path, int] = {}  # the thread of this process that holds a workspace


@dataclass(frozen=True)
class Workspace:
    root: Path  # where dvc.yaml is and the stages run
    home: Path  # the project: its MLflow store and its Prefect home

    @property
    def name(self) -> str:
        """`main`, or the recipe's name."""
        return "main" if self.root == self.home else self.root.name

    @property
    def data(self) -> Path:
        return self.root / "data"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the workspace; what a killed run left behind (processes, locks, a torn dvc.lock) is cleared first.

        Inside another such block of this thread it is held already. Raises BusyError, naming the holder, when a live
        run has it.
        """
        if _held.get(self.root) == threading.get_ident():
            yield
            return
        with stage.lock(self.data / ".lock/workspace"):
            _held[self.root] = threading.get_ident()
            try:
                recovery.clear(self.root)
                champion.recover(self.data)
                yield
            finally:
                del _held[self.root]


def open_workspace(home: Path, recipe: str | None = None, data: Path | None = None) -> Workspace:
    """The workspace of the project or of a recipe. Raises ValueError or FileNotFoundError for bad input."""
    home = home.resolve()
    if not (home / "dvc.yaml").is_file():
        raise ValueError(f"{home}: no dvc.yaml here; run this from the root of the project")
    if recipe is None:
        if data is not None:
            raise ValueError(
                f"--data {data}: needs --recipe; without one, name the file in params.yaml (ingest.sources)"
            )
        return Workspace(home, home)
    params = _recipe(home, recipe)
    if data is not None and not data.exists():
        raise FileNotFoundError(f"--data {data}: no such file or folder")
    text = params.read_text(encoding="utf-8")
    if (DATA_MARK in text) != (data is not None):
        remedy = "give its data with --data PATH" if data is None else "it takes no --data"
        raise ValueError(f"--recipe {recipe}: {remedy} ({params.name})")
    root = home / "data/workspaces" / recipe
    with stage.lock(home / "data/.lock" / f"workspace-{recipe}"):
        _clone(home, root)
        _share_cache(home, root)
        if data is not None:
            text = text.replace(DATA_MARK, _bring(data, root))
        _write(root / "params.yaml", text)
    return Workspace(root, home)


def existing_workspace(home: Path, recipe: str | None = None) -> Workspace:
    """The workspace of the project, or the one a recipe has already run in; nothing is created."""
    home = home.resolve()
    if recipe is None:
        return open_workspace(home)
    root = home / "data/workspaces" / recipe
    if not (root / "dvc.yaml").is_file():
        raise ValueError(f"--recipe {recipe}: it has not run here yet (no {root})")
    return Workspace(root, home)


def _recipe(home: Path, name: str) -> Path:
    folder = home / "infra/recipes"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise ValueError(f"--recipe {name}: no such recipe; infra/recipes has {', '.join(known) or 'none'}")
    return folder / f"{name}.yaml"


def _clone(home: Path, root: Path) -> None:
    """A clone with what is tracked as it is here, committed or not. A clone that exists is brought up to date."""
    if not (root / ".git").exists():
        staging = root.with_name(f".{root.name}.{os.getpid()}")
        shutil.rmtree(staging, ignore_errors=True)
        staging.parent.mkdir(parents=True, exist_ok=True)
        git(home, "clone", "--quiet", "--local", "--no-checkout", str(home), str(staging))
        staging.replace(root)
    git(root, "fetch", "--quiet", "origin", "HEAD")
    git(root, "reset", "--quiet", "--soft", "FETCH_HEAD")
    wanted = _files(home)
    for gone in _files(root) - wanted:
        (root / gone).unlink(missing_ok=True)
    for path in sorted(wanted):
        _overlay(home / path, root / path)
    index = root / "data/shards/index.json"
    if not index.is_file():
        _write(index, '{"shards": []}\n')
    git(root, "read-tree", "HEAD")


def clone_at(space: Workspace, commit: str, name: str) -> Path:
    """A workspace with exactly what `commit` holds, beside the recipes'; data the recipe brought is copied."""
    root = space.home / "data/workspaces" / name
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    git(space.home, "clone", "--quiet", "--local", "--no-checkout", str(space.root), str(root))
    git(root, "checkout", "--quiet", "--detach", commit)
    _share_cache(space.home, root)
    shutil.copytree(space.data / "inputs", root / "data/inputs", dirs_exist_ok=True)
    return root


def _files(root: Path) -> set[str]:
    """What git tracks or would track, without what a workspace keeps as its own from run to run."""
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return {path for path in listed if path and path not in _OWN and not path.startswith("data/shards/")}


_OWN = {"params.yaml", "dvc.lock"}


def _overlay(source: Path, target: Path) -> None:
    """Copy a tracked file where it differs, so that unchanged files keep their times."""
    if not source.is_file():
        target.unlink(missing_ok=True)
        return
    if target.is_file() and target.read_bytes() == source.read_bytes():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def _share_cache(home: Path, root: Path) -> None:
    from dvc.repo import Repo

    with Repo(str(home)) as repo:
        cache = repo.cache.local_cache_dir
    _write(root / ".dvc/config.local", f"[cache]\n    dir = {cache}\n")


def _bring(data: Path, root: Path) -> str:
    """Copy the data into data/inputs/ of the workspace, where nothing else of an earlier run stays; its name there."""
    inputs = root / "data/inputs"
    for old in inputs.iterdir() if inputs.is_dir() else ():
        if old.name not in {"README.md", data.name}:
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    target = inputs / data.name
    if data.is_dir():
        shutil.copytree(data, target, dirs_exist_ok=True)
    else:
        staging = inputs / f".{data.name}.{os.getpid()}"
        inputs.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data, staging)
        staging.replace(target)
    return data.name


def _write(path: Path, text: str) -> None:
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def recipe_names(home: Path) -> list[str]:
    return sorted(path.stem for path in (home / "infra/recipes").glob("*.yaml"))
