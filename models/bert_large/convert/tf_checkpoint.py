"""Reading and writing of checkpoints by TensorFlow itself; only this module imports it, and only when called."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bert_large.errors import InputError
from bert_large.extras import import_extra
from bert_large.storage.atomic import remove_tree, sync_file, sync_folder

_INDEX, _DATA = ".index", ".data-00000-of-00001"
_SHORT_NAME = "checkpoint"


def import_tensorflow() -> Any:
    """Return the module; raise `InputError` with the way to install it if it is missing."""
    # Its start-up messages would hide the output of the command; nothing is computed here.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    return import_extra("convert", "tensorflow", "tensorflow")


class TensorFlowCheckpoint:
    """A checkpoint opened for reading, variable by variable; `prefix` is its path without `.index`."""

    def __init__(self, prefix: Path) -> None:
        if prefix.name.endswith((_INDEX, _DATA)):
            prefix = prefix.with_name(prefix.name.removesuffix(_INDEX).removesuffix(_DATA))
        if not Path(f"{prefix}{_INDEX}").is_file() and not prefix.is_file():  # the format before 2017 is one file
            raise InputError(
                f"--tf-checkpoint {prefix}: there is no {prefix.name}{_INDEX} in {prefix.parent}; give the path of the "
                ".index file without that ending"
            )
        self.prefix = prefix
        self._tensorflow = import_tensorflow()
        with self._damage_is_an_input_error():
            self._reader = self._tensorflow.train.load_checkpoint(str(prefix))
            shapes = self._reader.get_variable_to_shape_map()
            dtypes = self._reader.get_variable_to_dtype_map()
        self.shapes: dict[str, tuple[int, ...]] = {name: tuple(shape) for name, shape in shapes.items()}
        self.dtypes: dict[str, str] = {name: dtype.name for name, dtype in dtypes.items()}

    def read(self, name: str) -> NDArray[Any]:
        """Return a copy of a variable's values."""
        with self._damage_is_an_input_error():
            return np.array(self._reader.get_tensor(name))

    @contextmanager
    def _damage_is_an_input_error(self) -> Iterator[None]:
        try:
            yield
        except (self._tensorflow.errors.OpError, RuntimeError, ValueError, LookupError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"--tf-checkpoint {self.prefix} is damaged or incomplete: {reason}") from None


def checkpoint_files(prefix: Path) -> list[Path]:
    """Return the files that `write_checkpoint` writes; a checkpoint is there only if the last one is."""
    return [Path(f"{prefix}{ending}") for ending in (_DATA, _INDEX)]


def write_checkpoint(prefix: Path, variables: Mapping[str, NDArray[Any]]) -> None:
    """Write or replace a checkpoint in TensorFlow's second format, atomically; its file errors become `OSError`."""
    tensorflow = import_tensorflow()
    for leftover in prefix.parent.glob(f".{glob.escape(prefix.name)}.*.partial"):  # of killed conversions
        remove_tree(leftover)
    partial = prefix.with_name(f".{prefix.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        tensorflow.raw_ops.SaveV2(
            prefix=str(partial / _SHORT_NAME),  # to which TensorFlow adds up to 40 characters while it writes
            tensor_names=list(variables),
            shape_and_slices=[""] * len(variables),
            tensors=list(variables.values()),
        )
        written, places = checkpoint_files(partial / _SHORT_NAME), checkpoint_files(prefix)
        for path in written:
            sync_file(path)
        places[-1].unlink(missing_ok=True)  # so that an index is never beside the data of another checkpoint
        for path, place in zip(written, places, strict=True):
            path.replace(place)
    except tensorflow.errors.OpError as error:  # wraps errors of the system, such as a full disk
        raise OSError(errno.EIO, str(error).splitlines()[0]) from error
    finally:
        remove_tree(partial, ignore_errors=True)
    sync_folder(prefix.parent)
