"""`checksums.json` of a folder: size and CRC-32C of its files, written last, so that damage to any of them is found.

A CRC finds the damage that disks and networks do; it is no protection against someone who means to deceive.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bert_large.errors import DamageError
from bert_large.files import crc32c_of, write_atomically

CHECKSUMS_FILE = "checksums.json"


def write_checksums(folder: Path) -> None:
    """Write the checksums of all visible files of a folder."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    files = {name: _facts(folder / name) for name in names if name != CHECKSUMS_FILE}
    with write_atomically(folder / CHECKSUMS_FILE) as file:
        file.write((json.dumps({"files": files}, indent=1) + "\n").encode())


def check_checksums(folder: Path) -> None:
    """Read every file that `checksums.json` names; raise `DamageError` on the first that is not as it was written."""
    manifest = folder / CHECKSUMS_FILE
    try:
        files = json.loads(manifest.read_bytes())["files"]
        expected = {name: (int(facts["bytes"]), str(facts["crc32c"])) for name, facts in files.items()}
        for name in files:
            if Path(name).name != name:
                raise ValueError(f"{name!r} is no name of a file in this folder")
    except FileNotFoundError:
        raise DamageError(f"{folder} has no {CHECKSUMS_FILE}, which is written last") from None
    except OSError as error:
        raise DamageError(f"{manifest} cannot be read: {error.strerror}") from None
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


def _facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "crc32c": crc32c_of(path)}
