"""`checksums.json` of a folder: size and CRC-32C of its files, written last, so that damage to any of them is found.

A CRC finds the damage that disks and networks do; it is no protection against someone who means to deceive.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from bert_large.errors import DamageError
from bert_large.storage.atomic import crc32c_of, read_json, write_atomically

CHECKSUMS_FILE = "checksums.json"


def write_checksums(folder: Path) -> None:
    """Write the checksums of all visible files of a folder."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    files = {name: _facts(folder / name) for name in names if name != CHECKSUMS_FILE}
    with write_atomically(folder / CHECKSUMS_FILE) as file:
        file.write((json.dumps({"files": files}, indent=1) + "\n").encode())


def check_checksums(folder: Path, required: Collection[str] = ()) -> None:
    """Read every file that `checksums.json` names, `required` ones among them.

    Raises `DamageError` on the first that is not as it was written.
    """
    manifest = folder / CHECKSUMS_FILE
    try:
        expected = {name: _noted(name, facts) for name, facts in read_json(manifest)["files"].items()}
        if missing := sorted(set(required) - set(expected)):
            raise ValueError(f"it does not name {missing[0]}")
    except FileNotFoundError:
        raise DamageError(f"{folder} has no {CHECKSUMS_FILE}, which is written last") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamageError(f"{manifest} is damaged: {error}") from None
    for name, (size, checksum) in expected.items():
        path = folder / name
        try:
            found = _facts(path)
        except FileNotFoundError:
            raise DamageError(f"{path} is missing") from None
        except OSError as error:
            raise DamageError(f"{path} cannot be read: {error.strerror}") from None
        if found != {"bytes": size, "crc32c": checksum}:
            raise DamageError(
                f"{path} is damaged: found {found['bytes']} bytes with CRC-32C {found['crc32c']}, expected {size} "
                f"bytes with CRC-32C {checksum}"
            )


def _noted(name: str, facts: dict[str, Any]) -> tuple[int, str]:
    """Return size and checksum as noted for a file; `ValueError` for a name that is none, or leads elsewhere."""
    if Path(name).name != name or b"\0" in os.fsencode(name):
        raise ValueError(f"{name!r} is no name of a file in this folder")
    size, checksum = facts["bytes"], facts["crc32c"]
    if type(size) is not int or not isinstance(checksum, str):
        raise ValueError(f"{name} has the size {size!r} and the CRC-32C {checksum!r}")
    return size, checksum


def _facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "crc32c": crc32c_of(path)}
