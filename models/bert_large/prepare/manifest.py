"""`manifest.json` of a folder: what its files were made of and with, so that a run can be taken up or refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from bert_large import __version__
from bert_large.errors import DamageError, InputError
from bert_large.prepare.files import MANIFEST_NAME
from bert_large.storage.atomic import read_json, sha256_of, write_atomically

_FORMAT = 1


class MadeOtherwiseError(InputError):
    """The files of a folder were made of something else than what is asked for: `differences` says what."""

    def __init__(self, folder: Path, differences: str) -> None:
        super().__init__(
            f"{folder} holds files that were made otherwise: {differences}; "
            "give --overwrite to make them anew, or choose another folder"
        )
        self.differences = differences


@dataclass(frozen=True, slots=True)
class FileFacts:
    """The size of a file and the SHA-256 of its bytes."""

    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if type(self.bytes) is not int or not isinstance(self.sha256, str):  # they come from files
            raise ValueError(f"the size {self.bytes!r} or the SHA-256 {self.sha256!r} is none")

    @classmethod
    def of(cls, path: Path) -> FileFacts:
        """Read a file."""
        return cls(path.stat().st_size, sha256_of(path))


@dataclass
class Manifest:
    """What the files of a folder were made of and with.

    `settings` are those that the files' bytes follow from, `inputs` the files read and `outputs` the files that are
    finished, by their names; an output also has counts (records, tokens and so on).
    """

    settings: dict[str, Any]
    inputs: dict[str, FileFacts]
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, facts: FileFacts, **counts: object) -> None:
        """Note that an output is finished."""
        self.outputs[name] = {**counts, **asdict(facts)}

    def write(self, folder: Path) -> None:
        """Write `manifest.json`, whole or not at all."""
        content = {
            "format": _FORMAT,
            "tool": f"bert-large {__version__}",
            "settings": self.settings,
            "inputs": {name: asdict(facts) for name, facts in self.inputs.items()},
            "outputs": dict(sorted(self.outputs.items())),
        }
        with write_atomically(folder / MANIFEST_NAME) as file:
            file.write(json.dumps(content, indent=1).encode() + b"\n")

    def damaged_or_missing(self, folder: Path, workers: int) -> list[str]:
        """Return the outputs that are not what the manifest says; every file is read."""
        names = list(self.outputs)

        def is_intact(name: str) -> bool:
            path, noted = folder / name, self.outputs[name]
            return path.is_file() and path.stat().st_size == noted["bytes"] and sha256_of(path) == noted["sha256"]

        with ThreadPoolExecutor(workers) as pool:
            return [name for name, intact in zip(names, pool.map(is_intact, names), strict=True) if not intact]


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a folder, if it has one; raise `DamageError` if it cannot be understood."""
    path = folder / MANIFEST_NAME
    try:
        content = read_json(path)
        if content["format"] != _FORMAT:
            raise ValueError(f"format is {content['format']}, expected {_FORMAT}")
        inputs = {name: FileFacts(**facts) for name, facts in content["inputs"].items()}
        for name, output in content["outputs"].items():
            _check_inside(name)
            FileFacts(output["bytes"], output["sha256"])
        return Manifest(dict(content["settings"].items()), inputs, content["outputs"])
    except FileNotFoundError:
        return None
    except (DamageError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamageError(
            f"{path}: not a manifest that this version wrote ({error}); "
            "delete it to make the folder's files again with --overwrite"
        ) from error


def _check_inside(name: str) -> None:
    """Raise `ValueError` for a name that leads out of its folder, or is none: a manifest may come from elsewhere."""
    path = PurePosixPath(name)
    os.fsencode(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise ValueError(f"the output {name!r} is not inside the folder")


def describe_files(
    files: Mapping[str, Path], workers: int, on_file: Callable[[int], object] = lambda size: None
) -> dict[str, FileFacts]:
    """Return the facts of files, read in `workers` threads; `on_file` gets the bytes of each one that is done."""
    found: dict[str, FileFacts] = {}
    with ThreadPoolExecutor(workers) as pool:  # hashing lets other threads run
        for name, facts in zip(files, pool.map(FileFacts.of, files.values()), strict=True):
            found[name] = facts
            on_file(facts.bytes)
    return found


def check_same_task(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `MadeOtherwiseError` when the files of `folder` were made of something else than what is asked for."""
    differences = [
        f"{name} was {_tell(before.get(name))}, now {_tell(now.get(name))}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise MadeOtherwiseError(folder, "; ".join(differences[:3]) + more)


def _tell(value: object) -> str:
    if isinstance(value, FileFacts):
        return f"{value.bytes} bytes with SHA-256 {value.sha256[:12]}…"
    return "absent" if value is None else str(value)
