"""Where the index of a data set is kept, so that all runs on the data share it.

An index is looked up beside the shards and in one more folder. It is written to INDEX_DIR if that is given; else beside
the shards, where every user of the data finds it; and if that is not possible, because the data are read-only or their
disk is full, to the user's cache.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from bert_large.data.folders import list_shards
from bert_large.data.index import BESIDE
from bert_large.errors import DataError
from bert_large.storage.atomic import free_bytes

_INDEX_SHARE = 1 / 20
"""Upper estimate of an index's size as a share of the records: 16 bytes for each, which has at least 300."""


def choose_index_dir(folder: Path, index_dir: Path | None, fallback: Path) -> Path:
    """Return where to write the index of a folder of shards; `fallback` if the user has no writable cache either."""
    if index_dir is not None:
        return index_dir
    try:
        needed_bytes = _INDEX_SHARE * sum(path.stat().st_size for path in list_shards(folder))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be opened: {error.strerror}") from None
    candidates = [folder / BESIDE]
    with contextlib.suppress(RuntimeError):  # the user has no home directory
        candidates.append(_cache_folder())
    return next((place for place in candidates if _accepts(place, needed_bytes)), fallback)


def _cache_folder() -> Path:
    """Return the folder for indexes in the user's cache, as the XDG Base Directory Specification defines the latter."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (cache if cache.is_absolute() else Path("~/.cache").expanduser()) / "bert-large" / "index"


def _accepts(place: Path, needed_bytes: float) -> bool:
    """Return whether files can be written to a folder, which is made for that, and it has enough space."""
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return free_bytes(place) >= needed_bytes
    return False
