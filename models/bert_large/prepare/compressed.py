"""Files that may be compressed: gzip, bzip2, xz and Zstandard, recognized by their first bytes."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from bert_large.errors import InputError
from bert_large.extras import missing_extra

try:
    from backports import zstd  # the module of Python 3.14 for earlier versions; it takes milliseconds to import
except ImportError:
    zstd = None  # type: ignore[assignment]

_ZstdError: type[Exception] = zstd.ZstdError if zstd else OSError
COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
_BLOCK_BYTES = 1 << 20
_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\0"
_BZIP2 = re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")
"""The header and the start of a block or of the end; text may begin with BZh."""
_ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")
"""The start of a frame, or of one to skip, which parallel compressors write first."""


def plain_name(path: Path) -> str:
    """Return a file's name without the suffix of its compression."""
    return path.stem if path.suffix in COMPRESSED_SUFFIXES else path.name


@contextlib.contextmanager
def open_decompressed(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; its compression is recognized by the first bytes, whatever the file's name.

    An error in opening, reading or decompressing within the block becomes an `InputError` that names the file.
    """
    place = 0
    try:
        with path.open("rb") as file:
            try:
                with contextlib.closing(_decompressed(file, path)) as decompressed:
                    yield decompressed
            finally:
                place = file.seek(0, io.SEEK_CUR) if not file.closed and file.seekable() else 0
    except EOFError:
        raise InputError(f"{path}: byte {place}: the compressed data is truncated; get the file again") from None
    except (OSError, zlib.error, lzma.LZMAError, _ZstdError) as error:
        reason = getattr(error, "strerror", None) or f"{error} before byte {place}"
        raise InputError(f"{path} cannot be read: {reason}; repair the file, or delete it") from None


def _decompressed(file: io.BufferedReader, path: Path) -> BinaryIO:
    head = file.peek(16)
    if head.startswith(_GZIP):
        return cast(BinaryIO, gzip.open(file))
    new: Callable[[], Any] | None = None
    if head.startswith(_XZ):
        new = lzma.LZMADecompressor
    elif _BZIP2.match(head):
        new = bz2.BZ2Decompressor
    elif _ZSTD.match(head):
        new = _zstd_decompressor(path)
    return cast(BinaryIO, io.BufferedReader(_Streams(file, new), _BLOCK_BYTES)) if new else file


def _zstd_decompressor(path: Path) -> Callable[[], Any]:
    if zstd is None:
        raise missing_extra(f"{path}: Zstandard", "text", "No module named 'backports.zstd'")
    return cast(Callable[[], Any], zstd.ZstdDecompressor)


class _Streams(io.RawIOBase):
    """The data of a bzip2, xz or Zstandard file with any number of streams.

    `bz2.open` and `lzma.open` ignore everything after a stream whose successor is damaged; here that is an error.
    """

    def __init__(self, file: BinaryIO, new: Callable[[], Any]) -> None:
        self._file, self._new = file, new
        self._may_be_padded = new is lzma.LZMADecompressor
        self._stream = new()

    def readable(self) -> bool:
        """Return True, as `io.BufferedReader` requires."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with the next bytes and return how many there are; 0 at the end."""
        compressed = b""
        while True:
            if self._stream.eof:
                compressed = self._start_of_next_stream()
                if not compressed:
                    return 0
                self._stream = self._new()
            elif self._stream.needs_input and not compressed:
                compressed = self._file.read(_BLOCK_BYTES)
                if not compressed:
                    raise EOFError
            data = self._stream.decompress(compressed, len(buffer))
            compressed = b""
            if data:
                buffer[: len(data)] = data
                return len(data)

    def _start_of_next_stream(self) -> bytes:
        """Return the first bytes after a stream, empty at the end of the file; zero bytes may pad xz streams."""
        data: bytes = self._stream.unused_data
        while True:
            data = data.lstrip(b"\0") if self._may_be_padded else data
            if data:
                return data
            data = self._file.read(_BLOCK_BYTES)
            if not data:
                return b""
