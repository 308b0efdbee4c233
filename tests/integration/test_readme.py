"""The README's commands, run as they stand, on small data in place of the folders that they name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.models import write_config
from tests.support.records import PHASE_2_SHAPE, VOCAB_SIZE, make_records, write_folder

PROJECT = Path(__file__).resolve().parents[2]
TRAIN, FROM_TEXT, AFTERWARDS = "export PRECISION", "prepare_dataset.sh", "bert-large evaluate"
BENCH = "bert-large bench"
# What other tests run: the demo by test_demo, this suite by whoever reads this, the images by tests/container.
ELSEWHERE = ("make demo", "./build.sh")


def bash_blocks() -> list[str]:
    """Return the README's blocks of shell commands."""
    return re.findall(
        r"^```bash\n(.*?)^```", (PROJECT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def block(containing: str) -> str:
    """Return the one block that has a text in it."""
    (found,) = (text for text in bash_blocks() if containing in text)
    return found


def run_block(text: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a block in the project's folder, its example folders and the environment's path replaced."""
    for theirs, ours in (
        ("/data/bert", f"{tmp_path}/data"),
        ("/runs", f"{tmp_path}/runs"),
        (".venv/bin/bert-large", f"{sys.executable} -m bert_large"),
        ("INPUT_DIR=text DATASET_DIR=records", f"INPUT_DIR={tmp_path}/text DATASET_DIR={tmp_path}/records"),
        ("report.html", f"{tmp_path}/report.html"),
        ("--png-dir curves", f"--png-dir {tmp_path}/curves"),
    ):  # fmt: skip
        text = text.replace(theirs, ours)
    variables = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(PROJECT / "models")} | environment
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=PROJECT,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def test_every_block_is_run_by_a_test() -> None:
    """A new block of commands must be added to these tests."""
    known = (TRAIN, FROM_TEXT, AFTERWARDS, BENCH, *ELSEWHERE)
    assert [text for text in bash_blocks() if not any(name in text for name in known)] == []


@pytest.mark.slow
def test_both_phases_and_what_follows(tmp_path: Path) -> None:
    """Phase 1, phase 2 from its model, an evaluation and a picture."""
    write_folder(tmp_path / "data" / "seq_128", make_records(40))
    write_folder(tmp_path / "data" / "seq_512", make_records(40, lengths=(100, 300)), shape=PHASE_2_SHAPE)
    write_folder(tmp_path / "data" / "eval", make_records(20, seed=1))
    write_config(tmp_path / "data" / "bert_config.json")
    run_block(block(TRAIN), tmp_path, RUNTIME="native", BATCH_SIZE="8", MAX_STEPS="2")
    for phase in ("phase1", "phase2"):
        config = json.loads((tmp_path / "runs" / phase / "model_save" / "config.json").read_text())
        assert config["vocab_size"] == VOCAB_SIZE
    done = run_block(block(AFTERWARDS), tmp_path)
    assert re.search(r"masked_lm_accuracy 0\.\d+", done.stdout)
    assert "on 20 samples" in done.stdout
    assert (tmp_path / "report.html").stat().st_size > 1000
    assert (tmp_path / "curves/masked_lm_loss.png").stat().st_size > 1000


def test_from_text_to_records(tmp_path: Path) -> None:
    """A vocabulary and the records of both phases from a folder of text."""
    (tmp_path / "text").mkdir()
    articles = [[f"the cat number {i} sat on the mat .", "then it ran away .", f"{i} dogs slept ."] for i in range(30)]
    text = "\n\n".join("\n".join(article) for article in articles)
    (tmp_path / "text" / "part-00000-of-00001").write_text(text, encoding="utf-8")
    run_block(block(FROM_TEXT), tmp_path)
    records = tmp_path / "records"
    for folder, name in (("seq_128", "part-00000-of-00002_128"), ("seq_512", "part-00001-of-00002")):
        visible = [path.name for path in (records / folder).iterdir() if not path.name.startswith(".")]
        assert sorted(visible) == ["manifest.json", name]
    assert (records / "vocab.txt").read_text().startswith("[PAD]\n")


def test_benchmarks(tmp_path: Path) -> None:
    """On a model of 32 hidden units: each command prints one object."""
    small = "--hidden-size 32 --rounds 1 --compare"
    done = run_block(block(BENCH).replace("--json", f"--json {small}"), tmp_path)
    figures = [json.loads(line) for line in done.stdout.splitlines()]
    assert [its["benchmark"] for its in figures] == ["step", "train"]
    assert "step_over_gemm" in figures[0] and "sequences_per_second" in figures[1]
