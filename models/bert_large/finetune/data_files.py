"""The files of a task in the folder that `--data-dir` names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from bert_large.errors import InputError


def find_files(folder: Path, names: Mapping[str, Sequence[str]], optional: Collection[str] = ()) -> dict[str, Path]:
    """Return the file of each split, which has one of the split's names; `optional` splits may have none.

    Raises `InputError` if a file is missing, or one split has several.
    """
    found: dict[str, Path] = {}
    for split, possible in names.items():
        paths = [folder / name for name in possible if (folder / name).is_file()]
        if len(paths) > 1:
            raise InputError(
                f"--data-dir {folder} has {' and '.join(path.name for path in paths)}, of which one alone can be the "
                f"{split} split; remove the others"
            )
        if paths:
            found[split] = paths[0]
        elif split not in optional:
            here = ", ".join(sorted(path.name for path in folder.glob("*"))[:10]) or "nothing"
            raise InputError(f"--data-dir {folder} has no {' or '.join(possible)}; found {here}")
    return found
