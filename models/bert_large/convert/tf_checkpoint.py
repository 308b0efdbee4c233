"""TensorFlow checkpoints read and written by TensorFlow itself; only this module imports it, and only when called."""

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
from bert_large.extras import missing_extra
from bert_large.storage.atomic import remove_tree, sync_folder

_INDEX, _DATA = ".index", ".data-00000-of-00001"


def import_tensorflow() -> Any:
    """Return the module; raise `InputError` that says how to install it."""
    # Else its greetings, of an error's size each, hide what the command prints; nothing is computed here.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        import tensorflow
    except ImportError as error:
        raise missing_extra("convert", "tensorflow", error) from None
    return tensorflow


class TensorFlowCheckpoint:
    """A checkpoint opened for reading, variable by variable; `prefix` is its path without `.index`."""

    def __init__(self, prefix: Path) -> None:
        if not Path(f"{prefix}{_INDEX}").is_file() and not prefix.is_file():  # a file itself: the format before 2017
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
        """Return a variable's values, in an array of their own."""
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
    """Return the files of a checkpoint that `write_checkpoint` writes; without the last, there is no checkpoint."""
    return [Path(f"{prefix}{ending}") for ending in (_DATA, _INDEX)]


def write_checkpoint(prefix: Path, variables: Mapping[str, NDArray[Any]]) -> None:
    """Write variables as a checkpoint in TensorFlow's second format, whole or not at all, replacing an older one.

    What TensorFlow says of the disk is raised as an `OSError`.
    """
    tensorflow = import_tensorflow()
    for leftover in prefix.parent.glob(f".{glob.escape(prefix.name)}.*.partial"):  # of conversions that were killed
        remove_tree(leftover)
    partial = prefix.with_name(f".{prefix.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        tensorflow.raw_ops.SaveV2(
            prefix=str(partial / prefix.name),
            tensor_names=list(variables),
            shape_and_slices=[""] * len(variables),
            tensors=list(variables.values()),
        )
        written, places = checkpoint_files(partial / prefix.name), checkpoint_files(prefix)
        for path in written:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        places[-1].unlink(missing_ok=True)  # so that no index is ever beside the data of another checkpoint
        for path, place in zip(written, places, strict=True):
            path.replace(place)
    except tensorflow.errors.OpError as error:  # it wraps the system's errors, such as a full disk
        raise OSError(errno.EIO, str(error).splitlines()[0]) from error
    finally:
        remove_tree(partial, ignore_errors=True)
    sync_folder(prefix.parent)
