"""The main job at full size: 24 layers, MLCommons' records, the real commands, both phases."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bert_large.observe.metrics import read_rows
from transformers import AutoModelForPreTraining, pipeline

from tests.parity.golden import SAMPLE, SHARED_DATA

PROJECT = Path(__file__).resolve().parents[2]
GIB = 1 << 30
MEMORY_LIMIT = 20 * GIB
BERT_LARGE_PARAMETERS = 336_226_108


def memory_bytes() -> int:
    """Return this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Path]:
    """A folder that is deleted after the test, as it holds 11 GB and pytest keeps its folders for a while."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def train(script: str, output_dir: Path, **variables: str) -> int:
    """Run a phase with run.sh without a container, and return its peak resident memory in bytes."""
    environment = os.environ | {"RUNTIME": "native", "PRECISION": "fp32", "PYTHON": sys.executable, "SCRIPT": script,
                                "DATASET_DIR": str(SAMPLE), "OUTPUT_DIR": str(output_dir), **variables}  # fmt: skip
    with subprocess.Popen([PROJECT / "run.sh"], env=environment, stdout=subprocess.PIPE, text=True) as process:
        log = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, log[-3000:]
    return usage.ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"MLCommons' sample records are not in {SAMPLE}")
@pytest.mark.skipif(memory_bytes() < MEMORY_LIMIT, reason="this machine has less than 20 GiB of memory")
def test_both_phases_of_bert_large(output: Path) -> None:
    """Phase 1, then phase 2 from its model, within 20 GiB; transformers loads both models and fills a mask."""
    phase_1, phase_2 = output / "phase1", output / "phase2"
    peaks = [
        train("run_bert_pretrain_phase1.sh", phase_1, BATCH_SIZE="8", MAX_STEPS="2",
              CONFIG_FILE=str(SHARED_DATA / "bert_config.json"), VOCAB_FILE=str(SHARED_DATA / "vocab.txt")),
        train("run_bert_pretrain_phase2.sh", phase_2, BATCH_SIZE="4", MAX_STEPS="1",
              CHECKPOINT_DIR=str(phase_1 / "model_save")),
    ]  # fmt: skip
    assert max(peaks) < MEMORY_LIMIT
    for folder, steps in ((phase_1, 2), (phase_2, 1)):
        rows = read_rows(folder / "metrics.jsonl", "step")
        assert [row["step"] for row in rows] == list(range(1, steps + 1))
        # An untrained model's predictions are about uniform over the vocabulary: ln 30522 = 10.3.
        assert all(9 < row["masked_lm_loss"] < 12 for row in rows)
        model, report = AutoModelForPreTraining.from_pretrained(folder / "model_save", output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        assert model.num_parameters() == BERT_LARGE_PARAMETERS
        del model
    fill_mask = pipeline("fill-mask", model=str(phase_2 / "model_save"))
    assert len(fill_mask("Paris is the [MASK] of France.")) == 5
