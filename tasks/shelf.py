"""Results kept under a hash of all that led to them: whole or absent, and taken only as they were left.

All of it can be deleted: what asks for it makes the same bytes again, only later. Files that are handed out are links:
whoever rewrites one makes a new file.
"""

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Collection
from functools import cache
from importlib import metadata
from pathlib import Path

import tasks
from tasks.hashes import content_hash

_CODE = Path(tasks.__file__).parent
_NOTE = "kept.json"


class Shelf:
    """Folders by key.

    `basis`: what all that is kept depends on, as the version of the code that makes it.
    """

    def __init__(self, folder: Path, basis: str = "") -> None:
        self.folder, self.basis = folder, basis
        self._asked: set[str] = set()
        self._hash_of = cache(content_hash)

    def key(self, *parts: str | Path) -> str:
        """A hash of the basis, of texts and of what files hold; no file may change meanwhile."""
        told = [self._hash_of(part) if isinstance(part, Path) else part for part in parts]
        key = hashlib.sha256(json.dumps([self.basis, *told]).encode()).hexdigest()
        self._asked.add(key)
        return key

    def find(self, key: str) -> Path | None:
        """The folder under a key, where all its files are those that were put there."""
        self._asked.add(key)
        place = self.folder / key
        try:
            files = json.loads((place / _NOTE).read_text(encoding="utf-8"))["files"]
            whole = all(_stamp(place / name) == stamp for name, stamp in files.items())
        except (OSError, ValueError, KeyError):
            return None
        return place if whole else None

    def put(self, key: str, fill: Callable[[Path], None]) -> Path:
        """A new folder under a key, in place of any old one, with what `fill` writes into it."""
        self._asked.add(key)
        place = self.folder / key
        unfinished = place.with_name(f"{key}.unfinished")
        for old in (unfinished, place):
            shutil.rmtree(old, ignore_errors=True)
        unfinished.mkdir(parents=True)
        fill(unfinished)
        paths = [path for path in unfinished.rglob("*") if path.is_file()]
        files = {path.relative_to(unfinished).as_posix(): _stamp(path) for path in paths}
        (unfinished / _NOTE).write_text(json.dumps({"files": files}), encoding="utf-8")
        unfinished.replace(place)
        return place

    def get(self, key: str, fill: Callable[[Path], None]) -> Path:
        return self.find(key) or self.put(key, fill)

    def keep_latest(self, number: int) -> None:
        """Delete all but so many folders, those that were filled last."""
        kept = sorted(self.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for path in kept[:-number]:
            shutil.rmtree(path)

    def forget(self, wanted: Collection[str] | None = None) -> None:
        """Delete all but the folders under these keys, or else all that nobody asked for."""
        wanted = self._asked if wanted is None else wanted
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name not in wanted:
                shutil.rmtree(path)


def share(path: Path, target: Path) -> None:
    """The same file under another name, which must be free; a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except FileExistsError:
        raise  # a copy would write into what may be a link to something else
    except OSError:
        shutil.copyfile(path, target)


def code_version(*packages: str, libraries: Collection[str] = ("pyarrow", "orjson")) -> str:
    """A hash of modules and packages of `tasks`, of Python's version and of those of the libraries that make rows."""
    versions = (*(f"{name} {metadata.version(name)}" for name in libraries), platform.python_version())
    digest = hashlib.sha256("\n".join(versions).encode())
    for name in packages:
        for path in sorted((_CODE / name).rglob("*.py")) or [_CODE / f"{name}.py"]:
            digest.update(f"{path.relative_to(_CODE).as_posix()}\0{content_hash(path)}\n".encode())
    return digest.hexdigest()


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]
