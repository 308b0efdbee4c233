"""The benchmark of Hugging Face's model: its batches, its ratios, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import hugging_face
import pytest
from bert_large.errors import InputError
from bert_large.observe.timing import Timing

from tests.support.finetune import write_model

TINY = ("--hidden-size", "32", "--layers", "1", "--vocab-size", "50", "--attention-heads", "2", "--rounds", "3")


def test_batches_have_the_lengths_of_sentences() -> None:
    options = hugging_face.HuggingFaceOptions(batch_size=200, steps=3)
    first, *_ = batches = hugging_face.make_batches(options)
    lengths = [int(length) for batch in batches for length in batch["attention_mask"].sum(1)]
    assert len(lengths) == 600 and sum(lengths) / 600 == pytest.approx(25, abs=2)
    assert max(lengths) > 2 * 25 > 25 > min(lengths) >= 4
    assert first["input_ids"].shape[1] == first["attention_mask"].sum(1).max()
    assert ((first["input_ids"] > 0) == first["attention_mask"].bool()).all()


def test_ratios_are_taken_round_by_round() -> None:
    found = hugging_face._speedups({"eager": Timing([2.0, 4.0, 9.0]), "accelerate": Timing([1.0, 2.0, 3.0])})
    assert found == {"eager": {"median": 2.0, "quartiles": [2.0, 2.5]}}


def test_fine_tuning(capsys: pytest.CaptureFixture[str]) -> None:
    assert hugging_face.main([*TINY, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["sequences"] == 32 and results["tokens"] < results["positions"]["in batches"]
    compared = results["comparisons"]["training"]
    assert set(compared["seconds"]) == {"eager", "sdpa", "accelerate"} and set(compared["speedup"]) == {"eager", "sdpa"}
    assert len(hugging_face.render(results).splitlines()) == 6


@pytest.mark.slow
def test_inference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "model_save")
    (tmp_path / "texts.txt").write_text("the film was good\n\nbad\n")
    words = ("--model-dir", str(model), "--texts", str(tmp_path / "texts.txt"), "--rounds", "2", "--json")
    assert hugging_face.main(words) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["sequences"] == 2
    assert results["positions"] == {"file order": 12, "sorted by length": 12}
    for order in results["positions"]:
        compared = results["comparisons"][f"encoder, {order}"]
        assert {"eager", "sdpa", "accelerate", "onnxruntime"} == set(compared["seconds"])
    assert "embed" in results["comparisons"]["text to embeddings"]["seconds"]


def test_inference_needs_texts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--texts"):
        hugging_face.main(["--model-dir", str(tmp_path)])
