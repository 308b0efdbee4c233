"""The predicted memory, compared with the peak of a training process and, before training, with what is available."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bert_large.config.model import ModelConfig
from bert_large.engines.precision import PRODUCT_FLAGS, read_cpu_flags
from bert_large.train import memory
from bert_large.train.memory import predict_memory

from tests.support.runs import Task, process_environment, run_here

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
    need = predict_memory(ModelConfig(**SHAPE), precision=precision, micro_batch_tokens=TOKENS, longest=128)
    assert need.total == pytest.approx(int(done.stdout), rel=TOLERANCE)


@pytest.mark.parametrize(
    ("available", "swap", "outcome"),
    [
        (100, 0, "runs"),  # the need is about 10 units: see below
        (9.5, 0, "warns"),
        (5, 0, "fails"),
        (5, 10, "warns"),
        (None, 0, "runs"),
    ],
)
def test_before_training(
    available: float | None,
    swap: float,
    outcome: str,
    task: Task,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is started that cannot fit; free swap space counts before a run is refused, and what the ranks hold."""
    need = predict_memory(
        ModelConfig.from_json(task.config_file), precision="fp32", micro_batch_tokens=128, longest=128
    )
    unit, held = need.total / 10, need.total / 5
    monkeypatch.setattr(memory, "peak_memory_bytes", lambda: int(held))
    monkeypatch.setattr(memory, "read_available_bytes", lambda: available and int(available * unit - held))
    monkeypatch.setattr(memory, "read_free_swap_bytes", lambda: int(swap * unit))
    code = run_here(*task.arguments(tmp_path / "out", max_steps=1, eval_dir="none"))
    assert code == (2 if outcome == "fails" else 0)
    words = {"fails": "error: not enough memory", "warns": "warning: memory"}
    log = (tmp_path / "out/train.log").read_text()
    assert [name for name, text in words.items() if text in log] == [outcome] * (outcome != "runs")
    assert (tmp_path / "out/metrics.jsonl").exists() == (outcome != "fails")
