"""Text files: listed in a folder, and read line by line whether they are compressed or not."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from bert_large.data.folders import MANIFEST_NAME
from bert_large.errors import InputError
from bert_large.prepare.compressed import open_decompressed
from bert_large.storage.lock import LOCK_FILE

Log = Callable[[str], object]
MAX_LINE_BYTES = 64 << 20
"""Longest line: a file without line feeds must not fill the memory."""
_MAX_NAME_BYTES = 255
_BOM = b"\xef\xbb\xbf"


def print_status(text: str) -> None:
    """Print a line to standard error, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def list_files(folder: Path, *, recursive: bool, log: Log) -> list[Path]:
    """Return the files of `folder`, sorted by path; raise `InputError` if there are none or one cannot be read.

    With `recursive`, folders inside are included, and links to folders are followed; every folder is read once, so that
    links cannot form a loop. Names that start with a dot are left out, which `log` receives; so is `manifest.json`.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise InputError(f"--input-dir {folder}: found {found}, expected a folder of files")
    files: list[Path] = []
    left_out: list[Path] = []
    read_folders: dict[tuple[int, int], Path] = {}  # by device and inode

    def read(folder: Path) -> None:
        path = folder
        try:
            facts = folder.stat()
            earlier = read_folders.setdefault((facts.st_dev, facts.st_ino), folder)
            if earlier != folder:
                log(f"{folder} is the same folder as {earlier}: read once")
                return
            for path in sorted(folder.iterdir()):
                add(path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}; make it readable, or delete it") from None

    def add(path: Path) -> None:
        if path.name in (MANIFEST_NAME, LOCK_FILE):
            return
        is_folder = path.is_dir()
        if path.name.startswith(".") or (is_folder and not recursive):
            left_out.append(path)
        elif is_folder:
            read(path)
        elif path.is_file():
            files.append(path)
        else:
            found = "a broken link" if path.is_symlink() else "not a regular file"
            raise InputError(f"{path} is {found}; delete it, or move it out of the input folder")

    read(folder)
    if not files:
        more = " or in folders inside" if recursive else "; folders inside are not read, name the one with the files"
        raise InputError(f"--input-dir {folder}: found no files in it{more}")
    if left_out:
        log(f"hidden files or folders inside left out: {len(left_out)}, such as {left_out[0]}")
    return sorted(files)


def total_bytes(paths: Iterable[Path]) -> int:
    """Return the size of files together."""
    return sum(path.stat().st_size for path in paths)


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


def decode_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file with their line feeds, decompressed and without a byte order mark.

    Only a line feed ends a line, as in MLCommons' script: other line ends that Python knows occur inside sentences.
    Raises `InputError` for a file that cannot be read or is damaged, for other encodings, and for a line longer than
    `MAX_LINE_BYTES`.
    """
    with open_decompressed(path) as file:
        for number in itertools.count(1):
            line = file.readline(MAX_LINE_BYTES)
            if not line:
                return
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                raise InputError(f"{path}: line {number} is longer than {MAX_LINE_BYTES >> 20} MiB; is it a text file?")
            try:
                text = (line.removeprefix(_BOM) if number == 1 else line).decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}: line {number}: byte {error.start + 1} is {error.object[error.start]:#04x}, which is not "
                    f"UTF-8 ({error.reason}); convert the file, for example with `iconv -f LATIN1 -t UTF-8`"
                ) from None
            yield text


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file without surrounding white space."""
    return map(str.strip, decode_lines(path))
