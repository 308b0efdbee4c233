"""Where records lie: the folders of a dataset, and the shards of a folder."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from bert_large.data.formats import FORMATS, format_of
from bert_large.errors import DamageError, InputError
from bert_large.storage.atomic import read_json

EVAL_FOLDERS = ("eval", "eval_set_uncompressed")
_TRAINING_FOLDERS = ("seq_{0}", "hdf5_seq_{0}", "2048_shards_uncompressed_{0}")
# Manifests and notes lie beside shards. A list of suffixes to skip, because MLCommons' shards have no suffix at all.
NOT_SHARDS = (".json", ".txt", ".md", ".md5", ".yaml", ".log")
MANIFEST_NAME = "manifest.json"
"""File that `prepare` and `corpus` write beside their output files."""
PART_FOLDERS = ".part-*-of-*"
"""Folders that `prepare --part` keeps beside its output files until all parts are complete."""
MANIFEST_TOOL = "bert-large"
"""First word of the tool that a manifest names, if it is one of this package."""


def find_training_folder(dataset_dir: Path, max_seq_length: int) -> Path:
    """Return the folder of shards for a sequence length: a known subfolder of `dataset_dir`, or itself."""
    if not _is_folder(dataset_dir):
        raise InputError(f"DATASET_DIR {dataset_dir} does not exist or is not a folder")
    names = [name.format(max_seq_length) for name in _TRAINING_FOLDERS]
    for name in names:
        if _is_folder(dataset_dir / name):
            return dataset_dir / name
    if any(not path.is_dir() for path in _list_visible(dataset_dir)):
        return dataset_dir
    raise InputError(
        f"DATASET_DIR {dataset_dir} holds no data for {max_seq_length} tokens; expected {' or '.join(names)} in it, "
        "or the shards themselves"
    )


def find_eval_folder(dataset_dir: Path) -> Path | None:
    """Return the evaluation folder inside a dataset folder, or None if there is none."""
    return next((dataset_dir / name for name in EVAL_FOLDERS if _is_folder(dataset_dir / name)), None)


def list_shards(folder: Path) -> list[Path]:
    """Return the shards of a folder in file order: its visible files, sorted by name; links are followed.

    Raises `InputError` if there are none, if `prepare` has not made all of them, and for anything that looks like a
    shard but cannot be read as a file, such as a broken link, rather than silently training on fewer records.
    """
    if not _is_folder(folder):
        raise InputError(f"data folder {folder} does not exist or is not a folder")
    shards = []
    for path in _list_visible(folder):
        if not is_shard_name(path.name) or path.is_dir():
            continue
        if not path.is_file():
            raise InputError(f"{path} is neither a file nor a folder; expected shards: delete it")
        shards.append(path)
    if not shards:
        nested = list_subfolders(folder)
        skipped = [path for path in _list_visible(folder) if path.suffix == ".txt" and path.is_file()]
        raise InputError(
            f"data folder {folder} holds no shards; expected {' or '.join(FORMATS)} files"
            + (f", found only folders such as {nested[0].name}" if nested else "")
            + (f"; {skipped[0].name} is taken for a note, not for a shard, as its name ends in .txt" if skipped else "")
        )
    _require_complete(folder, shards)
    return shards


def _require_complete(folder: Path, shards: Sequence[Path]) -> None:
    """Raise `InputError` if files that `prepare` makes, or has made, are missing in its output folder.

    Its manifest names the texts, and the files that are complete. Other folders have none, or one of another program.
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = read_json(path)
    except FileNotFoundError:
        if part := next(folder.glob(PART_FOLDERS), None):
            raise InputError(
                f"{folder} is incomplete: it has {part.name} of `bert-large prepare --part`, and no {MANIFEST_NAME}, "
                f"which the last part writes; run all parts, or the command without --part, or delete {part} to use "
                "the files that are there"
            ) from None
        return
    except DamageError:  # only `prepare` depends on it
        return
    inputs, outputs = manifest.get("inputs"), manifest.get("outputs")
    is_own = str(manifest.get("tool")).partition(" ")[0] == MANIFEST_TOOL
    if not (is_own and isinstance(inputs, dict) and isinstance(outputs, dict)):
        return
    remedy = f"repeat `bert-large prepare` with the same options, or delete {path} to use the files that are there"
    made = [str(output.get("input")) for output in outputs.values() if isinstance(output, dict)]
    if waiting := sorted(inputs.keys() - made):
        raise InputError(
            f"{folder} is incomplete: records of {len(waiting)} of {len(inputs)} texts are missing, such as those of "
            f"{waiting[0]}; {remedy}"
        )
    if missing := sorted(outputs.keys() - {shard.name for shard in shards}):
        raise InputError(
            f"{folder} is incomplete: {len(missing)} of {len(outputs)} files that its manifest lists are not among its "
            f"shards, such as {missing[0]}; {remedy}"
        )


def is_shard_name(name: str, shard_format: str | None = None) -> bool:
    """Return whether a file of this name is taken for a shard, in the format of this name if it is given."""
    if name.startswith((".", "_")) or Path(name).suffix in NOT_SHARDS:
        return False
    return shard_format in (None, format_of(Path(name)).name)


def list_subfolders(folder: Path) -> list[Path]:
    """Return the folders inside a folder of shards whose files are not read, except those known by name."""
    known = known_subfolders(folder)
    return [path for path in _list_visible(folder) if path.is_dir() and path not in known]


def known_subfolders(dataset_dir: Path) -> list[Path]:
    """Return the folders in a dataset folder whose files are taken for shards, whether or not they exist."""
    training = (name.format(length) for name in _TRAINING_FOLDERS for length in (128, 512))
    return [dataset_dir / name for name in (*EVAL_FOLDERS, *training)]


def _list_visible(folder: Path) -> list[Path]:
    """Return the entries of a folder whose names do not begin with a dot, sorted; a broken link is an error."""
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"data folder {folder} cannot be read: {error.strerror}") from None
    for path in entries:
        _is_folder(path)
    return entries


def _is_folder(path: Path) -> bool:
    """Return whether a path is a folder; unlike `Path.is_dir`, raise for a broken link or a place without access.

    There the data may be, but is not seen: without an error a run would use other records, or skip its evaluation.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise InputError(f"{path} is a broken link: its target {path.readlink()} does not exist") from None
        return False
    except OSError as error:  # no access, a loop of links, a failing disk
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
