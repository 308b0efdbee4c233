"""The demo, start to end, by its own script."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bert_large.observe.metrics import read_rows
from transformers import AutoModelForPreTraining, AutoTokenizer

from tests.integration.conftest import Demo

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_demo_learns_and_leaves_what_it_promises(demo: Demo) -> None:
    """A small BERT is trained in both phases, beats guessing plainly, and loads in transformers with its tokenizer."""
    report = demo.printed.split("== what was learned")[1]
    before, after = map(float, re.findall(r"masked-LM accuracy +([\d.]+) +([\d.]+)", report)[0])
    guess = float(re.findall(r"most frequent token +([\d.]+)", report)[0])
    assert 0.02 < guess < 0.15
    assert before < guess / 2
    assert after > 1.5 * guess
    losses = list(map(float, re.findall(r"masked-LM loss \(nats\) +([\d.]+) +([\d.]+)", report)[0]))
    assert losses[1] < losses[0] - 1
    picture = Path(re.findall(r"loss curves: (.+)", report)[0])
    assert picture.read_bytes().startswith(PNG_SIGNATURE)

    last_of_phase_1 = read_rows(demo.folder / "phase1" / "metrics.jsonl", "eval")[-1]
    first_of_phase_2 = read_rows(demo.folder / "phase2" / "metrics.jsonl", "eval")[0]
    assert first_of_phase_2["masked_lm_loss"] == pytest.approx(last_of_phase_1["masked_lm_loss"], rel=1e-5)

    model = AutoModelForPreTraining.from_pretrained(demo.folder / "phase2" / "model_save")
    tokenizer = AutoTokenizer.from_pretrained(demo.folder / "phase2" / "model_save")
    assert model.config.vocab_size == len(tokenizer)
