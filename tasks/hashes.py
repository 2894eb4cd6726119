"""sha256 of files and folders, and what is remembered of them so that a fresh shard hashes itself and no history.

Parts of a history are files that nobody touches: a stage that has hashed one need not read it again, nor need the next
stage. As DVC does, a file is known by device, inode, size and time of change.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.files import write_json

_NOTE = "hashes.json"
_SETTLED_NS = 2 * 10**9  # what changed later than this ago may change again without its clock saying so
_known: dict[str, str] | None = None  # {stamp: sha256} while something is remembered
_asked: dict[str, str] = {}


def content_hash(path: Path) -> str:
    """sha256 of a file, or of a folder's sorted relative paths and file hashes."""
    if path.is_file():
        return _of_file(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: missing; run the stage that writes it (`dvc repro`)")
    digest = hashlib.sha256()
    for file_path in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file_path.relative_to(path).as_posix()}\0{_of_file(file_path)}\n".encode())
    return digest.hexdigest()


@contextmanager
def remembered(runs: Path, name: str, *, writes: bool = True) -> Iterator[None]:
    """Within it, files that some stage of these runs has hashed are not read again unless they have changed.

    With `writes`, what was asked for is noted under `name`. Notes can be deleted at any time; one that cannot be read
    says nothing.
    """
    global _known
    _known = {}
    _asked.clear()
    for path in sorted(runs.glob(f"*/{_NOTE}")):
        try:
            _known.update(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue
    try:
        yield
        if writes:
            write_json(runs / name / _NOTE, _asked)
    finally:
        _known = None


def _of_file(path: Path) -> str:
    if _known is None:
        return _read(path)
    found = path.stat()
    # The inode's own time tells when somebody sets that of its content back. But it moves with every link, too, and
    # what has several is a part that lies on a shelf, of which nobody rewrites a byte.
    times = [found.st_mtime_ns, *([found.st_ctime_ns] if found.st_nlink == 1 else [])]
    stamp = "/".join(map(str, (found.st_dev, found.st_ino, found.st_size, *times)))
    sha256 = _known.get(stamp) or _read(path)
    if time.time_ns() - max(times) > _SETTLED_NS:
        _known[stamp] = _asked[stamp] = sha256
    return sha256


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
