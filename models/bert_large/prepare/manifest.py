"""`manifest.json` of a folder: its files, and the inputs and settings that they were made from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from bert_large import __version__
from bert_large.config.differences import differences
from bert_large.data.folders import MANIFEST_NAME, MANIFEST_TOOL
from bert_large.errors import DamageError, InputError
from bert_large.observe.progress import Progress
from bert_large.prepare.text_files import Log, total_bytes
from bert_large.storage.atomic import read_json, write_json
from bert_large.storage.integrity import FileFacts, facts_of

VOCABULARY = "vocabulary"
"""Setting in the manifest of records: size and checksum of their vocabulary (`Vocabulary.facts`)."""
_FORMAT = 2
_MOST_DIFFERENCES = 3


class MadeOtherwiseError(InputError):
    """The files of a folder were made from other inputs or settings than now requested; `differences` lists them."""

    def __init__(self, folder: Path, differences: str) -> None:
        super().__init__(
            f"{folder} holds files that were made differently: {differences}; "
            "give --overwrite to make them again, or choose another folder"
        )
        self.differences = differences


@dataclass
class Manifest:
    """The inputs, settings and outputs of a folder.

    `settings` are those that determine the bytes of the outputs, `inputs` the files that were read and `outputs` the
    files that are complete, by name; an output also has counts, such as of records. `replaced` are outputs of an
    earlier task, to be deleted when those of this one are complete.
    """

    settings: dict[str, Any]
    inputs: dict[str, FileFacts]
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)

    def add(self, name: str, facts: FileFacts, **counts: object) -> None:
        """Record a complete output."""
        self.outputs[name] = {**counts, **asdict(facts)}

    def write(self, folder: Path) -> None:
        """Write `manifest.json` atomically."""
        content = {
            "format": _FORMAT,
            "tool": f"{MANIFEST_TOOL} {__version__}",
            "settings": self.settings,
            "inputs": {name: asdict(facts) for name, facts in self.inputs.items()},
            "outputs": dict(sorted(self.outputs.items())),
            **({"replaced": self.replaced} if self.replaced else {}),
        }
        write_json(folder / MANIFEST_NAME, content)

    def damaged_or_missing(self, folder: Path, workers: int) -> list[str]:
        """Return the outputs that are not as the manifest records them; every file is read."""
        names = list(self.outputs)

        def is_intact(name: str) -> bool:
            path, recorded = folder / name, self.outputs[name]
            expected = FileFacts(recorded["bytes"], recorded["crc32c"])
            return path.is_file() and path.stat().st_size == expected.bytes and facts_of(path) == expected

        with ThreadPoolExecutor(workers) as pool:
            return [name for name, intact in zip(names, pool.map(is_intact, names), strict=True) if not intact]


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a folder, None if there is none; raise `DamageError` if it is not valid."""
    path = folder / MANIFEST_NAME
    try:
        content = read_json(path)
        if content["format"] != _FORMAT:
            raise ValueError(f"format is {content['format']!r}, expected {_FORMAT}")
        inputs = {name: FileFacts(**facts) for name, facts in content["inputs"].items()}
        replaced = content.get("replaced", [])
        if not isinstance(replaced, list):
            raise ValueError(f"replaced is {replaced!r}, expected a list")
        for name in [*content["outputs"], *replaced]:
            _check_inside(name)
        for output in content["outputs"].values():
            FileFacts(output["bytes"], output["crc32c"])
        return Manifest(dict(content["settings"].items()), inputs, content["outputs"], replaced)
    except FileNotFoundError:
        return None
    except (DamageError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamageError(
            f"{path}: not a manifest that this version can read ({error}); delete it and give --overwrite to make the "
            "folder's files again"
        ) from error


def _check_inside(name: str) -> None:
    """Raise `ValueError` for a name that is invalid or leads out of its folder: a manifest may come from elsewhere."""
    path = PurePosixPath(name)
    os.fsencode(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise ValueError(f"the output {name!r} is not inside the folder")


def describe_files(files: Mapping[str, Path], workers: int, log: Log) -> dict[str, FileFacts]:
    """Return the facts of files, read in `workers` threads."""
    found: dict[str, FileFacts] = {}
    with (
        Progress(total_bytes(files.values()), "B", description="checksums", write=log) as progress,
        ThreadPoolExecutor(workers) as pool,
    ):
        for name, facts in zip(files, pool.map(facts_of, files.values()), strict=True):
            found[name] = facts
            progress.advance(facts.bytes)
    return found


def check_same_task(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `MadeOtherwiseError` if the files of `folder` were not made from the inputs and settings `now`."""
    changed = differences(before, now).items()
    if found := [f"{name} was {_describe(old)}, now {_describe(new)}" for name, (old, new) in changed]:
        more = f" (and {len(found) - _MOST_DIFFERENCES} more)" if len(found) > _MOST_DIFFERENCES else ""
        raise MadeOtherwiseError(folder, "; ".join(found[:_MOST_DIFFERENCES]) + more)


def _describe(value: object) -> str:
    return "absent" if value is None else str(value)
