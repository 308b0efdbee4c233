"""The demo, started by its own script."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bert_large.observe.metrics import read_rows
from transformers import AutoModelForPreTraining, AutoTokenizer

from tests.integration.conftest import Demo
from tests.support.runs import PROJECT

pytestmark = pytest.mark.slow
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
LAST_LINES = re.compile(r"^held-out text.*?^report: +\S.*?$", re.DOTALL | re.MULTILINE)


@pytest.mark.timeout(1500)
def test_the_demo_learns_and_writes_its_outputs(demo: Demo) -> None:
    """A small BERT is trained in both phases, clearly beats the baseline, and loads in transformers."""
    (before,) = read_rows(demo.folder / "phase1" / "metrics.jsonl", "eval")[:1]
    after = read_rows(demo.folder / "phase2" / "metrics.jsonl", "eval")[-1]
    baseline = after["most_frequent_token_accuracy"]
    assert 0.02 < baseline < 0.15
    assert before["masked_lm_accuracy"] < baseline / 2
    assert after["masked_lm_accuracy"] > 1.5 * baseline
    assert after["masked_lm_loss"] < before["masked_lm_loss"] - 1

    printed = demo.printed.split("held-out text")[1]
    assert re.search(rf"{after['masked_lm_accuracy']:.4f}", printed)
    assert re.search(rf"{baseline:.4f}", printed)
    picture = Path(re.findall(r"loss curves: (.+)", printed)[0])
    assert picture.read_bytes().startswith(PNG_SIGNATURE)

    last_of_phase_1 = read_rows(demo.folder / "phase1" / "metrics.jsonl", "eval")[-1]
    first_of_phase_2 = read_rows(demo.folder / "phase2" / "metrics.jsonl", "eval")[0]
    assert first_of_phase_2["masked_lm_loss"] == pytest.approx(last_of_phase_1["masked_lm_loss"], rel=1e-5)

    model = AutoModelForPreTraining.from_pretrained(demo.folder / "phase2" / "model_save")
    tokenizer = AutoTokenizer.from_pretrained(demo.folder / "phase2" / "model_save")
    assert model.config.vocab_size == len(tokenizer)


def test_the_readme_shows_the_output(demo: Demo) -> None:
    """The README's example has the lines that the demo prints at its end, except for values and folders."""
    shown, printed = (
        [re.split(r"  +|: ", line)[0] for line in LAST_LINES.findall(text)[0].splitlines()]
        for text in ((PROJECT / "README.md").read_text(encoding="utf-8"), demo.printed)
    )
    assert shown == printed
