"""`bert-large prepare` on the fixtures' texts, and the record files that it makes."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from bert_large.storage.lock import LOCK_FILE


class Prepare(Protocol):
    """Runs the command with more options and returns its exit code; without `output_dir` it writes to `out`."""

    def __call__(self, *options: str, output_dir: Path | None = None) -> int: ...


def names(folder: Path) -> list[str]:
    """Return the names of the record files."""
    return sorted(path.name for path in folder.iterdir() if path.name not in ("manifest.json", LOCK_FILE))


def stamps(folder: Path) -> dict[str, int]:
    """Return when each record file was made."""
    return {name: (folder / name).stat().st_mtime_ns for name in names(folder)}
