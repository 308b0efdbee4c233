"""Tensors by name in a safetensors file: written one at a time, and read again with clear errors."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from bert_large.errors import InputError
from bert_large.storage.atomic import explain_write_errors


def save_tensors(path: Path, shapes: Mapping[str, Sequence[int]], tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Write float32 tensors of these shapes, in any order, as a safetensors file, and flush it to disk.

    Each goes to the file as it comes, so that they need not be in memory together as the format's library wants them.
    The format: length of the header as u64, the header in JSON, the tensors' bytes.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offsets, end = {}, 0
    for name, shape in shapes.items():
        offsets[name], end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offsets[name], end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with explain_write_errors(path, end), path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        start = file.tell()
        for name, tensor in tensors:
            assert tensor.dtype == torch.float32 and list(tensor.shape) == header[name]["shape"], name
            file.seek(start + offsets.pop(name))
            file.write(tensor.detach().contiguous().numpy().data)
        assert not offsets, f"{next(iter(offsets))} was not given"
        file.flush()
        os.fsync(file.fileno())


def read_tensors(path: Path, names: list[str]) -> dict[str, torch.Tensor]:
    """Read the tensors of these names from a safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            missing = sorted(set(names) - set(file.keys()))
            if missing:
                raise InputError(
                    f"{path} lacks {len(missing)} tensors, {missing[0]} among them; it is of another model"
                )
            return {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected a checkpoint's {path.name} there") from None
    except SafetensorError as error:
        raise InputError(f"{path} is damaged or no safetensors file: {error}") from None
