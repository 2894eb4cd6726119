"""A manifest beside the data says what its files are: `SHA256SUMS`, or `manifest.json`.

`manifest.json` is {"schema_version": 1, "files": {"rows.jsonl": {"sha256": "...", "size": 123}}}; `files` may also be
a list of {"path" or "name", "sha256", "size" or "bytes"}, and each entry may lack one of the two.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.hashes import content_hash
from tasks.preferences.errors import BadFileError, check_schema_version

_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Entry:
    sha256: str | None
    size: int | None


def check_file(path: Path) -> None:
    """Raises BadFileError where a manifest in the folder of the file says something else of it."""
    entry = read(path.parent).get(path.name)
    if entry is not None:
        _check(path, entry)


def check_folder(folder: Path) -> None:
    """Raises BadFileError where a file that the folder's manifest lists is missing or another."""
    for name, entry in sorted(read(folder).items()):
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BadFileError(folder, "archive_unsafe", f"its manifest lists {name!r}, which is outside of it")
        if not path.is_file():
            raise BadFileError(path, "hash_mismatch", "listed in the manifest but missing; fetch it again")
        _check(path, entry)


def read(folder: Path) -> dict[str, Entry]:
    """What the manifests of a folder list, by path from the folder. Raises BadFileError where one cannot be read."""
    found: dict[str, Entry] = {}
    sums = folder / "SHA256SUMS"
    if sums.is_file():
        for line in sums.read_text(encoding="utf-8", errors="replace").splitlines():
            sha256, _, name = line.strip().partition(" ")
            if name.strip():
                found[name.strip().lstrip("*").removeprefix("./")] = Entry(_hash(sums, sha256), None)
    manifest = folder / "manifest.json"
    if manifest.is_file():
        found |= _listed(manifest)
    return found


def _listed(manifest: Path) -> dict[str, Entry]:
    try:
        document = json.loads(manifest.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadFileError(manifest, "wrong_format", f"no JSON ({str(error)[:80]}); write it again") from None
    if not isinstance(document, dict) or not isinstance(document.get("files"), list | dict):
        return {}  # of something else
    check_schema_version(manifest, document)
    files = document["files"]
    pairs = files.items() if isinstance(files, dict) else [(_name(entry), entry) for entry in files]
    return {name: _entry(manifest, name, entry) for name, entry in pairs}


def _name(entry: Any) -> str:
    return str(entry.get("path", entry.get("name"))) if isinstance(entry, dict) else str(entry)


def _entry(manifest: Path, name: str, entry: Any) -> Entry:
    entry = {"sha256": entry} if isinstance(entry, str) and entry != name else entry
    if not isinstance(entry, dict):
        return Entry(None, None)
    size = entry.get("size", entry.get("bytes"))
    if size is not None and (not isinstance(size, int) or isinstance(size, bool)):
        raise BadFileError(manifest, "wrong_format", f"the size of {name!r} is {size!r}; it is a number of bytes")
    sha256 = entry.get("sha256")
    return Entry(None if sha256 is None else _hash(manifest, sha256), size)


def _hash(manifest: Path, value: Any) -> str:
    text = value.lower() if isinstance(value, str) else ""
    if len(text) != 64 or not set(text) <= _HEX:
        raise BadFileError(manifest, "wrong_format", f"{str(value)[:80]!r} is no sha256; write it again")
    return text


def _check(path: Path, entry: Entry) -> None:
    size = path.stat().st_size
    if entry.size is not None and size != entry.size:
        message = f"has {size} bytes, the manifest beside it says {entry.size}"
        raise BadFileError(path, "hash_mismatch", f"{message}; fetch it again, or mend the manifest")
    if entry.sha256 is not None and (sha256 := content_hash(path)) != entry.sha256:
        message = f"its sha256 is {sha256[:12]}..., the manifest beside it says {entry.sha256[:12]}..."
        raise BadFileError(path, "hash_mismatch", f"{message}; fetch it again, or mend the manifest")
