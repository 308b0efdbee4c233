"""Windows of a data set: groups of whole shards whose records are shuffled with each other in the first epoch.

The windows are a function of the shards' names and sizes and of the seed. They can be computed without reading any
record, so training can start when the shards of the first window have been indexed. A window of 1 GB holds about a
million records of 128 tokens. The shards are taken in a random order, because consecutive files often have similar
content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bert_large.data.hashing import splitmix64
from bert_large.data.order import permute
from bert_large.errors import DataError


@dataclass(frozen=True)
class WindowSettings:
    """How to divide a data set into windows."""

    size_bytes: int
    """Size from which a window is complete; 0 for one window."""
    seed: int | None
    """Seed of the order of the shards; None for the order of the files."""
    start_seconds: float = 0.0
    """Time in which further windows are indexed at the start."""


def divide(paths: Sequence[Path], settings: WindowSettings | None) -> tuple[list[Path], list[int]]:
    """Return the shards in the order of the windows, and the number of shards up to the end of each window.

    Without settings, and for data that are not larger than one window, there is one window, in file order.
    """
    try:
        sizes = np.array([path.stat().st_size for path in paths], dtype=np.int64)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be opened: {error.strerror}") from None
    if settings is None or settings.size_bytes == 0 or sizes.sum() <= settings.size_bytes:
        return list(paths), [len(paths)]
    order = np.arange(len(paths), dtype=np.int64)
    if settings.seed is not None:
        order = permute(order, len(paths), splitmix64(settings.seed))
    ends, filled = [], 0
    for position, size in enumerate(sizes[order].tolist(), start=1):
        filled += size
        if filled >= settings.size_bytes:
            ends.append(position)
            filled = 0
    # What is left over is a window, unless it is too small to be shuffled well.
    if filled >= settings.size_bytes / 2:
        ends.append(len(paths))
    ends[-1] = len(paths)
    return [paths[number] for number in order.tolist()], ends
