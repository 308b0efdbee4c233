"""BERT without next sentences, and DistilBERT, against `transformers`: the same results and the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bert_large.config.model import ModelConfig
from bert_large.data.batch import make_batch
from bert_large.engines import available_engines, resolve_engine
from bert_large.engines.eager import EagerEngine
from bert_large.model.bert import BertForPreTraining
from bert_large.model.pretrained import load_model, save_model
from torch.nn import functional

from tests.support.hugging_face import RECORDS, assert_close, padded
from tests.support.models import DISTILBERT, MASKED_LM_ONLY, randomize, tiny_model

transformers = pytest.importorskip("transformers", reason="needs Hugging Face's transformers to compare with")
pytestmark = [
    pytest.mark.slow,  # importing it takes ten seconds
    pytest.mark.parametrize("changes", [MASKED_LM_ONLY, DISTILBERT], ids=["BERT", "DistilBERT"]),
]
NO_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def make_model(changes: dict[str, Any]) -> BertForPreTraining:
    model = tiny_model(**changes, **NO_DROPOUT)
    randomize(model, spread=0.2)
    return model


def inputs_of(config: ModelConfig) -> dict[str, torch.Tensor]:
    return {name: rows for name, rows in padded(RECORDS).items() if name in config.traits.inputs}


@pytest.fixture
def folder(changes: dict[str, Any], tmp_path: Path) -> Path:
    """A model folder with a vocabulary."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", *(f"word{number}" for number in range(93))]
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens))
    model = make_model(changes)
    save_model(tmp_path / "model_save", model, model.config, tmp_path / "vocab.txt")
    return tmp_path / "model_save"


@pytest.mark.parametrize(
    ("engine", "dtype"),
    [("eager", torch.float64), *((name, torch.float32) for name in available_engines())],
    ids=["eager double", *(f"{name} single" for name in available_engines())],
)
def test_loss_and_gradients(changes: dict[str, Any], folder: Path, engine: str, dtype: torch.dtype) -> None:
    """On random weights and ragged inputs, the weights handed over by the folder."""
    model = make_model(changes)
    load_model(folder, model)
    model.to(dtype).engine = resolve_engine(engine)[0]
    theirs = getattr(transformers, model.config.architecture).from_pretrained(folder, attn_implementation="eager")
    theirs.to(dtype).train()

    batch = make_batch(RECORDS, range(len(RECORDS)))
    sums = model(batch, None)
    logits = theirs(**inputs_of(model.config)).logits
    masked = logits[batch.sequence_ids[batch.masked_positions], batch.position_ids[batch.masked_positions]]
    loss = functional.cross_entropy(masked, batch.masked_labels, reduction="sum")
    assert_close(sums.masked_lm_loss, loss, "masked-LM loss")
    assert int(sums.masked_lm_correct) == int((masked.argmax(dim=1) == batch.masked_labels).sum())
    assert float(sums.next_sentence_loss) == 0.0 and int(sums.next_sentence_correct) == 0

    (sums.masked_lm_loss + sums.next_sentence_loss).backward()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    names = {name: model.config.traits.weight_name(name) for name, _ in model.named_parameters()}
    assert sorted(gradients) == sorted(names.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        if name.endswith("key.bias"):  # it changes all scores of a query alike: its exact gradient is 0
            assert float(parameter.grad.abs().max()) < 1e-3
        else:
            assert_close(parameter.grad, gradients[names[name]], name)


def test_folders_of_both_load_in_the_other(changes: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    """Without a missing, unexpected or mismatched key, and back again, bit for bit."""
    model = make_model(changes)
    theirs, report = transformers.AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert type(theirs).__name__ == model.config.architecture
    assert not any(report.values()), report
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [model.config.architecture]
    assert {name: getattr(theirs.config, name) for name in config if name not in ("torch_dtype", "architectures")} == {
        name: value for name, value in config.items() if name not in ("torch_dtype", "architectures")
    }
    theirs.save_pretrained(tmp_path / "theirs")
    assert ModelConfig.from_json(tmp_path / "theirs" / "config.json") == model.config
    loaded = BertForPreTraining(model.config, EagerEngine())
    load_model(tmp_path / "theirs", loaded)
    for (name, parameter), expected in zip(loaded.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(parameter, expected), name


def test_fill_mask(changes: dict[str, Any], folder: Path) -> None:
    """The tokenizer returns only inputs that the model takes."""
    fill = transformers.pipeline("fill-mask", model=str(folder), tokenizer=str(folder))
    assert set(fill.tokenizer("the cat")) == set(make_model(changes).config.traits.inputs)
    assert len(fill("the [MASK] .")) == 5
