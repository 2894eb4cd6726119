"""Compressed files as streams: gzip, bzip2, xz and zstd, stopped where they unpack to far more than they are."""

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import IO, Any

from tasks.preferences.errors import BadFileError

MAX_RATIO = 200  # of unpacked to packed bytes; text reaches about 10, a gzip bomb 1,000
RATIO_FROM = 16 << 20  # unpacked bytes below which the ratio says nothing
_CHUNK = 1 << 16


def _zstd(raw: Any) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, mode="r"), "zstd")


_OPENERS: dict[bytes, Any] = {
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _zstd,
}
PACKED = tuple(_OPENERS)  # first bytes
SUFFIX = r"(\.(gz|bz2|xz|zst|zstd))?$"  # what may follow the end of a name, for those who go by names


def open_unpacked(path: Path) -> io.BufferedReader:
    """Open a file for reading, through its compression where its first bytes tell of one.

    Raises FileNotFoundError; BadFileError for an empty file, and on reading for a bomb or a torn file.
    """
    if not path.is_file():
        what = "is a folder; name a file in it" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {what}")
    raw = path.open("rb")
    if not raw.peek(1):
        raw.close()
        raise BadFileError(path, "empty_file", "holds no byte; remove it from the sources or fill it")
    return unpacked(path, raw)


def unpacked(where: object, raw: "io.BufferedReader[Any]") -> "io.BufferedReader[Any]":
    """A stream, through its compression where its first bytes tell of one. It closes with what is returned."""
    head = raw.peek(8)
    for magic, opener in _OPENERS.items():
        if head.startswith(magic):
            return io.BufferedReader(_Unpacked(where, raw, opener), _CHUNK)
    return raw


class _Counted:
    """Counts what is read. pyarrow asks for the rest of a file; who opened it closes it."""

    closed = False

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self.count = raw, 0

    def close(self) -> None:
        pass

    def read(self, size: int = -1) -> bytes:
        content = self._raw.read(size)
        self.count += len(content)
        return content


class _Unpacked(io.RawIOBase):
    """Compressed bytes that stop at a bomb and speak of a torn file in one line."""

    def __init__(self, where: object, raw: "io.BufferedReader[Any]", opener: Any) -> None:
        self._where, self._raw, self._unpacked = where, raw, 0
        self._packed = _Counted(raw)
        self._file = opener(self._packed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            content = self._file.read(len(buffer))
        except (EOFError, zlib.error, OSError, lzma.LZMAError) as error:
            message = f"torn compression ({' '.join(str(error).split())[:80]}); fetch it again"
            raise BadFileError(self._where, "archive_corrupt", message) from None
        buffer[: len(content)] = content
        self._unpacked += len(content)
        if self._unpacked > max(RATIO_FROM, MAX_RATIO * self._packed.count):
            message = f"unpacks to more than {MAX_RATIO} times its size; unpack it by hand if it is trusted"
            raise BadFileError(self._where, "archive_unsafe", message)
        return len(content)

    def close(self) -> None:
        self._file.close()
        self._raw.close()
        super().close()
