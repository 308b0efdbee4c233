"""The data of a task: the files in the folder that `--data-dir` names, or a data set of Hugging Face's hub."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert_large.errors import DataError, InputError
from bert_large.prepare.text_files import decode_lines

if TYPE_CHECKING:
    from datasets import DatasetDict


def find_files(folder: Path, names: Mapping[str, Sequence[str]], optional: Collection[str] = ()) -> dict[str, Path]:
    """Return the file of each split, which has one of the split's names; `optional` splits may have none.

    Raises `InputError` if a file is missing, if one split has several, or if no split has any.
    """
    here = list_folder(folder)
    found: dict[str, Path] = {}
    for split, possible in names.items():
        paths = [folder / name for name in possible if (folder / name).is_file()]
        if len(paths) > 1:
            raise InputError(
                f"--data-dir {folder} has {' and '.join(path.name for path in paths)}, of which only one can be the "
                f"{split} split; delete the others"
            )
        if paths:
            found[split] = paths[0]
        elif split not in optional:
            raise InputError(f"--data-dir {folder} has no {' or '.join(possible)}; found {here}")
    if not found:
        expected = " or ".join(name for possible in names.values() for name in possible)
        raise InputError(f"--data-dir {folder} has no {expected}; found {here}")
    return found


def list_folder(folder: Path) -> str:
    """Return the first names in a folder, for messages; raise `InputError` if it cannot be read."""
    try:
        return ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
    except OSError as error:
        raise InputError(
            f"--data-dir {folder} is not a folder that can be read ({error.strerror}); give the folder of the task's "
            "files"
        ) from None


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that `decode_lines` reads and their numbers, from 1, without line ends.

    Other white space stays, as a no-break space can be a word.
    """
    return enumerate((line.rstrip("\r\n") for line in decode_lines(path)), start=1)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, with or without a byte order mark; raise `DataError` if it has none."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, cut short, or nested without end
        raise DataError(f"{path} is not JSON: {error}") from error


def load_from_hub(name: str, configuration: str | None = None, revision: str | None = None) -> DatasetDict:
    """Return the splits of a data set of the hub, or of its cache; raise `InputError` if neither has it."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    described = name if configuration is None else f"{name} ({configuration})"
    try:
        return load_dataset(name, configuration, revision=revision)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:  # network errors are OSErrors
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise InputError(
            f"{described} could not be loaded from Hugging Face's hub: {reason}; give its files with "
            "--data-dir, or provide a network (HTTPS_PROXY) or a cache (HF_HOME) that has it"
        ) from error
