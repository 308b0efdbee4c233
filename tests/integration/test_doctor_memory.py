"""The memory that `bert-large doctor` predicts, compared with the peak of a training process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from bert_large.config.model import ModelConfig
from bert_large.engines.precision import PRODUCT_FLAGS, read_cpu_flags
from bert_large.train.memory import predict_memory

from tests.support.runs import process_environment

TOLERANCE = 0.15
SHAPE: dict[str, Any] = {
    "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": 4, "vocab_size": 8192,
}  # fmt: skip
TOKENS, LENGTH = 2048, 128


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_prediction(precision: str) -> None:
    if precision == "bf16" and not read_cpu_flags() & set(PRODUCT_FLAGS["bf16"]):
        pytest.skip("bf16 is emulated on this CPU")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.peak_memory", json.dumps(SHAPE), precision, str(TOKENS), str(LENGTH)],
        env=process_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    need = predict_memory(ModelConfig(**SHAPE), precision=precision, micro_batch_tokens=TOKENS)
    assert need.total == pytest.approx(int(done.stdout), rel=TOLERANCE)
