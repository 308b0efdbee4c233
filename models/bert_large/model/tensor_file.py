"""Safetensors files: written one tensor at a time, and read with clear errors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from bert_large.errors import InputError
from bert_large.storage.atomic import explain_write_errors, flush_descriptor


def save_tensors(path: Path, shapes: Mapping[str, Sequence[int]], tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Write float32 tensors of the given shapes, in any order, as a safetensors file, and flush it to disk.

    Each tensor is written as soon as it arrives. The safetensors library needs all of them in memory at once, which
    would double the memory of a model whose optimizer state is spread over ranks. The file is the header's length as
    a little-endian u64, the header in JSON, and the tensors' bytes.
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
        start = 8 + len(encoded)
        for name, tensor in tensors:
            assert tensor.dtype == torch.float32 and list(tensor.shape) == header[name]["shape"], name
            file.seek(start + offsets.pop(name))
            file.write(tensor.detach().contiguous().numpy().data)
        assert not offsets, f"{next(iter(offsets))} was not given"
        file.flush()
        flush_descriptor(file.fileno())


def read_tensors(path: Path, names: list[str]) -> dict[str, torch.Tensor]:
    """Read tensors by name from a safetensors file; raises `InputError` if one is missing or the file is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            missing = sorted(set(names) - set(file.keys()))
            if missing:
                raise InputError(
                    f"{path} lacks tensors ({len(missing)}), such as {missing[0]}; it belongs to another model"
                )
            return {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except SafetensorError as error:
        raise InputError(f"{path} is damaged or not a safetensors file: {error}") from None
