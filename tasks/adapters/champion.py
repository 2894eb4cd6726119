"""data/champion/: the released version, and the history of releases, which MLflow does not keep.

The folder is exchanged as a whole: the next one is made beside it, then renamed. A crash between the two renames
is mended by `recover`, which every holder of the workspace calls.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from tasks.files import write_json
from tasks.hashes import content_hash

_NEXT, _OLD = ".champion-next", ".champion-old"


def manifest(data: Path) -> dict[str, Any]:
    """What is released; {} before the first release."""
    path = data / "champion/manifest.json"
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return document


def is_whole(data: Path) -> bool:
    """Whether the released files are the ones that the manifest names."""
    released = manifest(data)
    policy = data / "champion/policy"
    return bool(released) and policy.is_dir() and content_hash(policy) == released["policy_sha256"]


def prepare(data: Path, policy: Path, passport: dict[str, Any], release: dict[str, Any]) -> Path:
    """Make the next champion folder beside the present one; `exchange` puts it in place."""
    folder = data / _NEXT
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copytree(policy, folder / "policy")
    write_json(folder / "passport.json", passport)
    before = manifest(data)
    entry = {**release, "policy_sha256": content_hash(folder / "policy"), "released_at": _now()}
    history = [*before.get("history", []), entry]
    write_json(folder / "manifest.json", {**entry, "history": history})
    for kept in ("README.md", ".gitignore"):
        if (data / "champion" / kept).is_file():
            shutil.copyfile(data / "champion" / kept, folder / kept)
    return folder


def exchange(data: Path) -> None:
    shutil.rmtree(data / _OLD, ignore_errors=True)
    if (data / "champion").exists():
        (data / "champion").replace(data / _OLD)
    (data / _NEXT).replace(data / "champion")
    shutil.rmtree(data / _OLD, ignore_errors=True)


def discard(data: Path) -> None:
    shutil.rmtree(data / _NEXT, ignore_errors=True)


def recover(data: Path) -> None:
    """After a crash: put the folder that was about to be, or was, the champion in its place."""
    if not (data / "champion").exists() and (data / _OLD).exists():
        (data / _NEXT if (data / _NEXT / "manifest.json").is_file() else data / _OLD).replace(data / "champion")
    shutil.rmtree(data / _OLD, ignore_errors=True)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
