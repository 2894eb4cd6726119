"""zip and tar archives as streams: nothing is unpacked to disk, and what tries to do harm is refused whole.

Refused as `archive_unsafe`: names that point out of the archive, links and devices, archives inside, two members of
one name, passwords, and what unpacks to far more than it is (a bomb). A member may be gzipped.
"""

import io
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from tasks.preferences import delimited, packed, screen, tabular
from tasks.preferences.packed import MAX_RATIO, RATIO_FROM
from tasks.preferences.screen import BadFileError, Refusal, Row

MAX_MEMBERS = 10_000
MAX_TABLE_BYTES = 512 << 20  # of a parquet file inside: it is read from memory
_HEAD = 1 << 16
_TORN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError)


def kind(path: Path) -> str | None:
    """zip or tar (which may be compressed), by content; None for anything else."""
    with path.open("rb") as file:
        head = file.read(512)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    if head.startswith(packed.PACKED):
        with packed.open_unpacked(path) as stream:
            head = stream.peek(512)
    return "tar" if head[257:262] == b"ustar" else None


def names(path: Path, kind: str) -> list[str]:
    """The files inside, in name order. Raises BadFileError where the archive is unsafe or torn."""
    with _speaking(path):
        if kind == "zip":
            with zipfile.ZipFile(path) as archive:
                found = [_zip_name(path, member) for member in archive.infolist() if not member.is_dir()]
                unpacked = sum(member.file_size for member in archive.infolist())
        else:
            found, unpacked = [], 0
            with tarfile.open(path, mode="r|*") as stream:
                for member in stream:
                    unpacked += member.size
                    _check_size(path, unpacked, len(found))
                    if not member.isdir():
                        found.append(_tar_name(path, member))
    _check_size(path, unpacked, len(found))
    if len(set(found)) < len(found):
        raise BadFileError(path, "archive_unsafe", "has two members of one name; pack it again")
    return sorted(found)


def rows(path: Path, kind: str, name: str, warnings: Counter[str]) -> Iterator[Row | Refusal]:
    """The rows of one member."""
    where = f"{path}!{name}"
    with _speaking(path):
        if kind == "zip":
            with zipfile.ZipFile(path) as archive, archive.open(name) as member:
                yield from _rows(where, member, path, warnings)
            return
        with tarfile.open(path, mode="r|*") as stream:
            for entry in stream:
                if entry.name == name and (opened := stream.extractfile(entry)) is not None:
                    yield from _rows(where, opened, path, warnings)
                    return


def _rows(where: str, member: IO[bytes], path: Path, warnings: Counter[str]) -> Iterator[Row | Refusal]:
    limit = max(RATIO_FROM, MAX_RATIO * path.stat().st_size)
    stream = io.BufferedReader(_Limited(path, member, limit), _HEAD)
    head = stream.peek(_HEAD)
    if head.startswith((b"PK\x03\x04", b"7z\xbc\xaf\x27\x1c", b"Rar!")) or head[257:262] == b"ustar":
        raise BadFileError(where, "archive_unsafe", "an archive inside an archive; unpack the outer one")
    if head.startswith(b"PAR1"):
        content = stream.read(MAX_TABLE_BYTES + 1)
        if len(content) > MAX_TABLE_BYTES:
            raise BadFileError(where, "archive_unsafe", f"parquet above {MAX_TABLE_BYTES >> 20} MiB; unpack it")
        yield from tabular.parquet_rows(where, warnings, io.BytesIO(content))
        return
    opened = packed.unpacked(where, stream)
    if delimited.is_delimited(where) and not delimited.is_json(opened):
        yield from delimited.delimited_rows(where, opened, warnings)
        return
    yield from screen.stream_rows(where, opened, warnings)


class _Limited(io.RawIOBase):
    """A member's bytes, up to a limit that no honest text reaches."""

    def __init__(self, path: Path, member: IO[bytes], limit: int) -> None:
        self._path, self._member, self._left = path, member, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._member.read(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise _bomb(self._path)
        buffer[: len(content)] = content
        return len(content)


@contextmanager
def _speaking(path: Path) -> Iterator[None]:
    try:
        yield
    except _TORN as error:
        raise BadFileError(path, "archive_corrupt", f"{' '.join(str(error).split())[:120]}; fetch it again") from None


def _zip_name(path: Path, member: zipfile.ZipInfo) -> str:
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        raise BadFileError(path, "archive_unsafe", f"{member.filename[:80]!r} is a link or device; pack plain files")
    if member.flag_bits & 1:
        raise BadFileError(path, "archive_unsafe", "is encrypted; pack it without a password")
    return _checked(path, member.filename)


def _tar_name(path: Path, member: tarfile.TarInfo) -> str:
    if not member.isreg():
        raise BadFileError(path, "archive_unsafe", f"{member.name[:80]!r} is a link or device; pack plain files")
    return _checked(path, member.name)


def _checked(path: Path, name: str) -> str:
    """Nothing is written, so no name can do harm; one that tries says that the archive is hostile."""
    plain = name.replace("\\", "/")
    if plain.startswith("/") or ".." in PurePosixPath(plain).parts or plain[1:2] == ":" or "\0" in plain:
        raise BadFileError(path, "archive_unsafe", f"the member {name[:80]!r} points out of the archive; pack it again")
    return name


def _check_size(path: Path, unpacked: int, members: int) -> None:
    if members > MAX_MEMBERS:
        raise BadFileError(path, "archive_unsafe", f"has more than {MAX_MEMBERS} members; put rows into fewer files")
    if unpacked > max(RATIO_FROM, MAX_RATIO * path.stat().st_size):
        raise _bomb(path)


def _bomb(path: Path) -> BadFileError:
    message = f"unpacks to more than {MAX_RATIO} times its size; unpack it by hand if it is trusted"
    return BadFileError(path, "archive_unsafe", message)
