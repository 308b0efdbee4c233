"""Files of embeddings that are written chunk by chunk, so that a killed command continues behind the last chunk.

While `embeddings.npy` is being computed, its rows are in a hidden folder beside it, in the format of the finished file
but for the number of rows in its header. The folder also has the settings that the rows depend on, and a checksum of
their texts: rows of other settings or texts are never continued.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from bert_large.errors import DamageError, InputError
from bert_large.storage.atomic import (
    GrowingFile,
    explain_write_errors,
    read_json,
    remove_tree,
    replace_atomically,
    sync_file,
    sync_folder,
    write_json,
)
from bert_large.storage.lock import FolderLock
from bert_large.storage.output_folder import make_folder

PARQUET = ".parquet"
SUFFIXES = (".npy", PARQUET)
CHUNK_TEXTS = 8192
"""Texts that are sorted together and written together, and the most that a kill loses."""
_STATE, _ROWS = "progress.json", "rows.npy"


class EmbeddingFile:
    """The rows computed so far, float32, and the finished file; at most one process writes it.

    It is locked from construction until the end of its `with` block.
    """

    def __init__(self, path: Path, dimension: int, settings: Mapping[str, Any], warn: Callable[[str], object]) -> None:
        """Open the rows of an interrupted command, or start without any; raise `InputError` if its settings differ."""
        self.path, self._dimension = path, dimension
        self._folder = path.with_name(f".{path.name}.partial")
        make_folder(self._folder)
        self._lock = FolderLock(self._folder, "the folder", warn)
        try:
            self._open(settings)
        except BaseException:
            self._lock.close()
            raise

    def _open(self, settings: Mapping[str, Any]) -> None:
        self._rows_file = self._folder / _ROWS
        self._state: dict[str, Any] = {"settings": dict(settings), "rows": 0, "crc32c": 0}
        state_file = self._folder / _STATE
        if not self._rows_file.exists():  # published by a command that was killed before it deleted the folder
            state_file.unlink(missing_ok=True)
        if state_file.exists():
            found = _read_state(state_file)
            self._require_same(found["settings"])
            self._state = found
        header = _npy_header(0, self._dimension)
        if self.rows == 0:
            with explain_write_errors(self.path):
                self._rows_file.write_bytes(header)
        else:  # a killed command may have written a part of the next chunk
            os.truncate(self._rows_file, len(header) + self.rows * self._dimension * 4)

    def __enter__(self) -> EmbeddingFile:
        return self

    def __exit__(self, *error: object) -> None:
        if self.rows == 0:  # nothing to continue
            remove_tree(self._folder, ignore_errors=True)
        self._lock.close()

    @property
    def rows(self) -> int:
        """Texts that are finished."""
        return int(self._state["rows"])

    def _require_same(self, found: Mapping[str, Any]) -> None:
        expected = self._state["settings"]
        changed = [name for name in expected if found.get(name) != expected[name]]
        if changed:
            listed = "; ".join(f"{name} was {found.get(name)}, is {expected[name]}" for name in changed)
            raise InputError(
                f"{self._folder} holds unfinished rows of other settings: {listed}. Continue with those settings, or "
                "delete that folder"
            )

    def skip_finished(self, texts: Iterator[str]) -> None:
        """Consume the texts whose rows are finished; raise `InputError` if they are not the texts of those rows."""
        crc32c = _extend(0, itertools.islice(texts, self.rows))
        if crc32c != self._state["crc32c"]:
            raise InputError(
                f"{self._folder} holds unfinished rows of other texts: the first {self.rows} differ. Continue with "
                "the same input, or delete that folder"
            )

    def append(self, texts: Sequence[str], embeddings: NDArray[np.float32]) -> None:
        """Write the rows of the next texts; afterwards a kill no longer loses them."""
        with contextlib.closing(GrowingFile(self._rows_file)) as file:
            file.append(np.ascontiguousarray(embeddings, np.float32).tobytes())
            file.flush_to_disk()
        self._state["rows"] += len(texts)
        self._state["crc32c"] = _extend(self._state["crc32c"], texts)
        write_json(self._folder / _STATE, self._state)

    def publish(self, texts: Callable[[], Iterator[str]]) -> None:
        """Make the finished file. One that ends in `.parquet` also gets the texts, which `texts` reads again."""
        with explain_write_errors(self.path):
            with self._rows_file.open("r+b") as file:
                file.write(_npy_header(self.rows, self._dimension))
            sync_file(self._rows_file)
            if self.path.suffix == PARQUET:
                self._write_parquet(texts())
            else:
                self._rows_file.replace(self.path)
                sync_folder(self.path.parent)
        remove_tree(self._folder)

    def _write_parquet(self, texts: Iterator[str]) -> None:
        import pyarrow
        from pyarrow import parquet

        rows = np.load(self._rows_file, mmap_mode="r")
        vectors = pyarrow.list_(pyarrow.float32(), self._dimension)
        schema = pyarrow.schema({"id": pyarrow.int64(), "text": pyarrow.string(), "embedding": vectors})
        crc32c, start = 0, 0
        with replace_atomically(self.path) as partial, parquet.ParquetWriter(partial, schema) as writer:
            for chunk in chunks(texts):
                stop = start + len(chunk)
                values = pyarrow.array(np.asarray(rows[start:stop]).reshape(-1))
                columns = [
                    pyarrow.array(range(start, stop), pyarrow.int64()),
                    pyarrow.array(chunk, pyarrow.string()),
                    pyarrow.FixedSizeListArray.from_arrays(values, self._dimension),
                ]
                writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
                crc32c, start = _extend(crc32c, chunk), stop
            if crc32c != self._state["crc32c"]:
                raise InputError(
                    f"the input changed while its embeddings were computed; delete {self._folder} and run the command "
                    "again"
                )


def _read_state(path: Path) -> dict[str, Any]:
    """Return the content of a `progress.json`; raise `DamageError` if it lacks a value."""
    state = read_json(path)
    for name, kind in (("settings", dict), ("rows", int), ("crc32c", int)):
        if not isinstance(state.get(name), kind):
            expected = "an object" if kind is dict else "a whole number"
            raise DamageError(
                f"{path} is damaged: {name} is {state.get(name)!r}, expected {expected}; delete {path.parent} to start "
                "again"
            )
    return state


def chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield lists of `CHUNK_TEXTS` texts; the last one may have fewer."""
    remaining = iter(texts)
    while chunk := list(itertools.islice(remaining, CHUNK_TEXTS)):
        yield chunk


def _extend(crc32c: int, texts: Iterable[str]) -> int:
    """Return a checksum extended by texts; texts of several lines differ from several texts."""
    for text in texts:
        data = text.encode()
        crc32c = google_crc32c.extend(crc32c, len(data).to_bytes(8, "little") + data)
    return crc32c


def _npy_header(rows: int, dimension: int) -> bytes:
    """Return the start of a `.npy` file of float32 rows. NumPy pads it, so that its size is the same for any `rows`."""
    header = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimension)}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()
