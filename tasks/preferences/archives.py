"""zip and tar archives as streams: no member is written to disk, and what tries to do harm is refused whole.

Refused as `archive_unsafe`: names that point out of the archive, links and devices, archives inside, two members of
one name, passwords, and what unpacks to far more than it is (a bomb). A member may be gzipped.
"""

import io
import shutil
import stat
import tarfile
import tempfile
import weakref
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from tasks.preferences import delimited, packed, tabular, wrapped
from tasks.preferences.packed import MAX_RATIO, RATIO_FROM
from tasks.preferences.screen import BadFileError, Refusal, Row

MAX_MEMBERS = 10_000
MAX_TABLE_BYTES = 512 << 20  # of a parquet file inside: it is read from memory
_HEAD = 1 << 16
_COPIED = 1 << 20  # bytes at once
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


class Archive:
    """An archive looked through once, and its members by name, each read where it lies.

    A compressed tar can only be read from its beginning: it is unpacked, as the one stream it is, to a temporary file
    without a name, once and when its first member is asked for.
    Raises BadFileError where the archive is unsafe or torn.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self._path = path
        self._tar: dict[str, tarfile.TarInfo] = {}
        self._zip: zipfile.ZipFile | None = None
        self._file: IO[bytes] | None = None
        with _speaking(path):
            names = self._look_through_zip() if kind == "zip" else self._look_through_tar()
        if len(set(names)) < len(names):
            raise BadFileError(path, "archive_unsafe", "has two members of one name; pack it again")
        self.names = sorted(names)  # of the files inside

    def rows(self, name: str, warnings: Counter[str]) -> Iterator[Row | Refusal]:
        """The rows of one member."""
        with _speaking(self._path), self._member(name) as member:
            yield from _rows(f"{self._path}!{name}", member, self._path, warnings)

    def size(self, name: str) -> int:
        """Of one member, unpacked, as the archive says."""
        return self._tar[name].size if self._zip is None else self._zip.getinfo(name).file_size

    def head(self, name: str, length: int) -> bytes:
        """The first bytes of one member."""
        with _speaking(self._path), self._member(name) as member:
            return member.read(length)

    def _member(self, name: str) -> IO[bytes]:
        if self._zip is not None:
            return self._zip.open(name)
        # With a fresh TarFile no state is shared; it reads one header, and its place tells where the member is.
        with tarfile.open(fileobj=self._unpacked(), mode="r:") as archive:
            member = archive.extractfile(self._tar[name])
        assert member is not None, "only plain files were taken"
        return member

    def _look_through_zip(self) -> list[str]:
        self._zip = zipfile.ZipFile(self._path)
        members = self._zip.infolist()
        found = [_zip_name(self._path, member) for member in members if not member.is_dir()]
        _check_size(self._path, sum(member.file_size for member in members), len(found))
        return found

    def _look_through_tar(self) -> list[str]:
        found: list[str] = []
        unpacked = 0
        with packed.open_unpacked(self._path) as raw, tarfile.open(fileobj=raw, mode="r|") as stream:
            for member in stream:
                unpacked += member.size
                _check_size(self._path, unpacked, len(found))
                if not member.isdir():
                    found.append(_tar_name(self._path, member))
                    self._tar[member.name] = member
        return found

    def _unpacked(self) -> IO[bytes]:
        if self._file is None:
            stream = packed.open_unpacked(self._path)
            is_plain = isinstance(stream.raw, io.FileIO)
            file: IO[bytes] = stream if is_plain else tempfile.TemporaryFile()  # noqa: SIM115 - see the next line
            weakref.finalize(self, file.close)
            if not is_plain:
                with stream:
                    shutil.copyfileobj(stream, file, _COPIED)
            self._file = file
        self._file.seek(0)
        return self._file


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
    yield from wrapped.stream_rows(where, opened, warnings)


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
