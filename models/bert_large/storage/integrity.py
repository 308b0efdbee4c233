"""Sizes and CRC-32C of files: whether they still hold the bytes that were written.

`checksums.json` lists all files of a folder and is written last, so that any damage to them is detected. A CRC finds
the errors that disks and networks make. It does not protect against deliberate changes.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from bert_large.errors import DamageError
from bert_large.storage.atomic import crc32c_of, read_json, write_json

CHECKSUMS_FILE = "checksums.json"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """The size of a file and the CRC-32C of its bytes, as eight hexadecimal digits."""

    bytes: int
    crc32c: str

    def __post_init__(self) -> None:
        if type(self.bytes) is not int or not isinstance(self.crc32c, str):  # they are read from files
            raise ValueError(f"invalid size {self.bytes!r} or CRC-32C {self.crc32c!r}")

    def __str__(self) -> str:
        return f"{self.bytes} bytes with CRC-32C {self.crc32c}"


def facts_of(path: Path) -> FileFacts:
    """Read a file and return its size and checksum."""
    return FileFacts(path.stat().st_size, crc32c_of(path))


def write_checksums(folder: Path) -> None:
    """Write `checksums.json` for all files of a folder but hidden ones."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    files = {path.name: asdict(facts_of(path)) for path in paths if path.name != CHECKSUMS_FILE}
    write_json(folder / CHECKSUMS_FILE, {"files": files})


def check_checksums(folder: Path, required: Collection[str] = ()) -> None:
    """Read every file that `checksums.json` lists, and compare it; the `required` files must be among them.

    Raises `DamageError` for the first file that differs, is missing or cannot be read.
    """
    manifest = folder / CHECKSUMS_FILE
    try:
        recorded = read_json(manifest)["files"].items()
        expected = {_check_name(name): FileFacts(facts["bytes"], facts["crc32c"]) for name, facts in recorded}
        if missing := sorted(set(required) - set(expected)):
            raise ValueError(f"it does not list {missing[0]}")
    except FileNotFoundError:
        raise DamageError(f"{folder} has no {CHECKSUMS_FILE}, which is written last") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamageError(f"{manifest} is damaged: {error}") from None
    for name, facts in expected.items():
        path = folder / name
        try:
            found = facts_of(path)
        except FileNotFoundError:
            raise DamageError(f"{path} is missing") from None
        except OSError as error:
            raise DamageError(f"{path} cannot be read: {error.strerror}") from None
        if found != facts:
            raise DamageError(f"{path} is damaged: found {found}, expected {facts}")


def _check_name(name: str) -> str:
    """Return a file name as it is; raise `ValueError` if it is not one, or leads out of the folder."""
    if Path(name).name != name or b"\0" in os.fsencode(name):
        raise ValueError(f"{name!r} is not the name of a file in this folder")
    return name
