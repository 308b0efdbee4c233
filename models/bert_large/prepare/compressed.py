"""Files that may be compressed, read as if they were not."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from bert_large.errors import InputError

COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz")
_BLOCK_BYTES = 1 << 20
_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\0"
_BZIP2 = re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")
"""The header and the start of a block or of the end; text may begin with BZh."""


@contextlib.contextmanager
def open_decompressed(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading; gzip, bzip2 and xz are recognized by the first bytes, whatever the file's name.

    An error in opening, reading or decompressing within the block becomes an `InputError` that names the file.
    """
    try:
        with path.open("rb") as file, contextlib.closing(_decompressed(file)) as decompressed:
            yield decompressed
    except EOFError:
        raise InputError(f"{path}: the compressed data is truncated; get the file again") from None
    except (OSError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {reason}; repair the file, or move it away") from None


def _decompressed(file: io.BufferedReader) -> BinaryIO:
    head = file.peek(16)
    if head.startswith(_GZIP):
        return cast(BinaryIO, gzip.open(file))
    is_xz = head.startswith(_XZ)
    if is_xz or _BZIP2.match(head):
        return cast(BinaryIO, io.BufferedReader(_Streams(file, is_xz=is_xz), _BLOCK_BYTES))
    return file


class _Streams(io.RawIOBase):
    """The data of a bzip2 or xz file with any number of streams.

    `bz2.open` and `lzma.open` ignore everything after a stream whose successor is damaged; here that is an error.
    """

    def __init__(self, file: BinaryIO, *, is_xz: bool) -> None:
        self._file, self._is_xz = file, is_xz
        self._new: Any = lzma.LZMADecompressor if is_xz else bz2.BZ2Decompressor
        self._stream = self._new()

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
            data = data.lstrip(b"\0") if self._is_xz else data
            if data:
                return data
            data = self._file.read(_BLOCK_BYTES)
            if not data:
                return b""
