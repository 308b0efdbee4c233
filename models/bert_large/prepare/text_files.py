"""Text files: listed in a folder, and read line by line whether they are compressed or not."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from bert_large.errors import InputError
from bert_large.prepare.compressed import COMPRESSED_SUFFIXES, open_decompressed
from bert_large.storage.lock import LOCK_FILE

MANIFEST_NAME = "manifest.json"
"""File that `prepare` and `corpus` write beside their output files."""
MAX_LINE_BYTES = 64 << 20
"""Longest line: a file without line feeds must not fill the memory."""
_MAX_NAME_BYTES = 255
_BOM = b"\xef\xbb\xbf"


def print_status(text: str) -> None:
    """Print a line to standard error, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def list_files(folder: Path, *, recursive: bool, log: Callable[[str], object] = print_status) -> list[Path]:
    """Return the files of `folder`, sorted by path; raise `InputError` if there are none or one cannot be read.

    With `recursive`, folders inside are included, and links to folders are followed; every folder is read once, so that
    links cannot form a loop. Names that start with a dot are left out, which `log` receives; so is `manifest.json`.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(f"--input-dir {folder}: found {found}, expected a folder of files")
    listing = _Listing(recursive, log)
    listing.read(folder)
    if not listing.files:
        where = (
            "it or in folders inside" if recursive else "it; folders inside are not read, name the one with the files"
        )
        raise InputError(f"--input-dir {folder}: found no files in {where}")
    if listing.left_out:
        log(f"hidden files or folders inside left out: {len(listing.left_out)}, such as {listing.left_out[0]}")
    return sorted(listing.files)


class _Listing:
    """The files of a folder."""

    def __init__(self, recursive: bool, log: Callable[[str], object]) -> None:
        self.files: list[Path] = []
        self.left_out: list[Path] = []
        self._recursive, self._log = recursive, log
        self._folders: dict[tuple[int, int], Path] = {}
        """Folders that were read, by device and inode."""

    def read(self, folder: Path) -> None:
        """Add the files of a folder, and of folders inside it."""
        path = folder
        try:
            facts = folder.stat()
            earlier = self._folders.setdefault((facts.st_dev, facts.st_ino), folder)
            if earlier != folder:
                self._log(f"{folder} is the same folder as {earlier}: read once")
                return
            for path in sorted(folder.iterdir()):
                self._add(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}; make it readable, or move it away") from None

    def _add(self, path: Path) -> None:
        if path.name in (MANIFEST_NAME, LOCK_FILE):
            return
        is_folder = path.is_dir()
        if path.name.startswith(".") or (is_folder and not self._recursive):
            self.left_out.append(path)
        elif is_folder:
            self.read(path)
        elif path.is_file():
            self.files.append(path)
        else:
            found = "a broken link" if path.is_symlink() else "not a regular file"
            raise InputError(f"{path} is {found}; remove it, or move it out of the input folder")


def check_outputs(outputs: Sequence[Path], *, input_dir: Path, overwrite: bool) -> None:
    """Raise `InputError` if an output exists already, cannot be made or would lie among the inputs."""
    for folder in {output.parent for output in outputs}:
        if folder.resolve() == input_dir.resolve():
            raise InputError(f"the output folder {folder} is the input folder; choose another folder for the output")
        parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not parent.is_dir():
            raise InputError(f"the output folder {folder} cannot be made: {parent} is a file; choose another folder")
    for output in outputs:
        if len(os.fsencode(output.name)) > _MAX_NAME_BYTES:
            raise InputError(f"the output file name {output.name} is longer than {_MAX_NAME_BYTES} bytes; shorten it")
    existing = [output for output in outputs if output.exists()]
    if folders := [output for output in existing if output.is_dir()]:
        raise InputError(f"the output file {folders[0]} is a folder; give the path of a file")
    if existing and not overwrite:
        raise InputError(
            f"{len(existing)} of {len(outputs)} output files exist already, the first is {existing[0]}; "
            "give --overwrite to replace them, or choose another folder"
        )


def plain_name(path: Path) -> str:
    """Return a file's name without the suffix of its compression."""
    return path.stem if path.suffix in COMPRESSED_SUFFIXES else path.name


def read_head(path: Path, size: int) -> bytes:
    """Return the first bytes of a file, decompressed; raise `InputError` if it cannot be read."""
    with open_decompressed(path) as file:
        return file.read(size)


def read_raw_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file with their line feeds, decompressed and without a byte order mark.

    gzip, bzip2 and xz are recognized by their first bytes, whatever the file's name. Raises `InputError` for a file
    that cannot be read, is truncated or damaged, or has a line longer than `MAX_LINE_BYTES`.
    """
    number = 0
    with open_decompressed(path) as file:
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                raise InputError(f"{path}: line {number} is longer than {MAX_LINE_BYTES >> 20} MiB; is it a text file?")
            yield line.removeprefix(_BOM) if number == 1 else line


def decode_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file with their line feeds; raise `InputError` at the first byte that is not UTF-8.

    Only a line feed ends a line, as in MLCommons' script: other line ends that Python knows occur inside sentences.
    """
    for number, line in enumerate(read_raw_lines(path), start=1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: line {number}: byte {error.start + 1} is {line[error.start]:#04x}, which is not UTF-8 "
                f"({error.reason}); convert the file, for example with `iconv -f LATIN1 -t UTF-8`"
            ) from None


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file without surrounding white space."""
    return map(str.strip, decode_lines(path))
