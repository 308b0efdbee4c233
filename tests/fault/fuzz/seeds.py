"""What the fuzzer starts from: good inputs of each target."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from bert_large.data.formats.tfrecord import encode_record
from safetensors.numpy import save

from tests.fault.fuzz.targets import RECORDS, SHAPE

_STATE = {
    "step": 1, "samples": 8, "evaluation_due": False, "loss_scale": {"scale": 2.0, "good_steps": 0},
    "skipped": {"total": 0, "in_a_row": 0}, "loss_trend": {"steps": 1, "mean": 2.0, "lowest": None}, "identity": {},
}  # fmt: skip
_CONFIG = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip


def seeds(target: str) -> list[bytes]:
    """Return a target's good inputs."""
    if target == "example":
        return [encode_record(record, SHAPE) for record in RECORDS]
    if target == "checkpoint":
        contents = json.dumps(_STATE).encode(), save({"weight": np.ones(4, np.float32)}), json.dumps(_CONFIG).encode()
        return [bytes([number]) + content for number, content in enumerate(contents)]
    return [bytes([variant]) for variant in range(3)]


def write_seeds(target: str, folder: Path) -> None:
    """Write a target's good inputs to a folder."""
    folder.mkdir()
    for number, seed in enumerate(seeds(target)):
        (folder / str(number)).write_bytes(seed)
