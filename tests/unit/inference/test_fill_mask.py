"""`bert-large fill-mask`: probabilities, output and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertModel

from tests.support.finetune import write_model
from tests.support.runs import options, run_here

FIRST, SECOND = "the [MASK] was [MASK]", "never a good film [MASK]"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("fill") / "model_save", initializer_range=0.2)


def fill_mask(*texts: str, **values: Any) -> int:
    return run_here("fill-mask", *texts, *options(**values))


@pytest.mark.parametrize("engine", ["native", "eager"])
def test_probabilities(engine: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bert_large.finetune.tokenizer import load_tokenizer

    assert fill_mask(FIRST, SECOND, checkpoint_dir=model, engine=engine, top_k=3, json=True) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    theirs, tokenizer = AutoModelForMaskedLM.from_pretrained(model).eval(), load_tokenizer(model)
    for row, text in zip(found, (FIRST, SECOND), strict=True):
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            logits = theirs(**inputs).logits[inputs["input_ids"] == tokenizer.mask_token_id]
        expected = logits.softmax(-1).topk(3)
        assert row["text"] == text and len(row["masks"]) == text.count("[MASK]")
        for candidates, values, ids in zip(row["masks"], *expected, strict=True):
            assert [candidate["token"] for candidate in candidates] == tokenizer.convert_ids_to_tokens(ids.tolist())
            assert [candidate["probability"] for candidate in candidates] == pytest.approx(values.tolist(), rel=1e-4)


def test_table_and_files(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fill_mask(SECOND, checkpoint_dir=model, top_k=100000) == 2
    (tmp_path / "a.jsonl").write_text(json.dumps({"body": SECOND}))
    assert fill_mask(checkpoint_dir=model, input_file=tmp_path / "a.jsonl", field="body", top_k=1000) == 0
    text, *rows = capsys.readouterr().out.splitlines()
    assert text == SECOND
    assert len(rows) == len((model / "vocab.txt").read_text().splitlines())  # no more than there are tokens
    assert sum(float(row.split()[2]) for row in rows) == pytest.approx(1, abs=0.01)


def test_refusals(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = tmp_path / "encoder"
    BertModel.from_pretrained(model).save_pretrained(encoder)
    shutil.copy(model / "vocab.txt", encoder)
    for texts, values, named in (
        (("the film",), {}, "[MASK]"),
        ((FIRST, "the film"), {}, "text 2"),
        (("[MASK] " * 1000,), {}, "text 1"),
        ((), {}, "--input-file"),
        ((FIRST,), {"input_file": "-"}, "--input-file"),
        ((FIRST,), {"field": "body"}, "--field is 'body'"),
        ((FIRST,), {"checkpoint_dir": encoder}, "cls.predictions.bias"),
    ):
        assert fill_mask(*texts, **{"checkpoint_dir": model, **values}) == 2
        captured = capsys.readouterr()
        assert named in captured.err and captured.out == ""
