"""Where records lie: the folders of a dataset, and the shards of a folder."""

from __future__ import annotations

import stat
from pathlib import Path

from bert_large.data.formats import FORMATS
from bert_large.errors import InputError

EVAL_FOLDERS = ("eval", "eval_set_uncompressed")
_TRAINING_FOLDERS = ("seq_{0}", "hdf5_seq_{0}", "2048_shards_uncompressed_{0}")
# Manifests and notes lie beside shards. A list of suffixes to skip, because MLCommons' shards have no suffix at all.
NOT_SHARDS = (".json", ".txt", ".md", ".md5", ".yaml", ".log")


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

    Raises `InputError` if there are none, and for anything that looks like a shard but cannot be read as a file, such
    as a broken link, rather than silently training on fewer records.
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
    return shards


def is_shard_name(name: str) -> bool:
    """Return whether a file of this name is taken for a shard."""
    return not name.startswith((".", "_")) and Path(name).suffix not in NOT_SHARDS


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
