"""The models that `bert-large finetune` starts from: published folders, other architectures, and damaged ones."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DistilBertConfig, DistilBertModel

from tests.support.finetune import finetune, write_model
from tests.support.training import flip_a_bit


def published(model: Path, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> Path:
    """Copy a model folder in the form of others: without checksums, with a tokenizer, and with these weights."""
    shutil.copytree(model, folder)
    (folder / "checksums.json").unlink()
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    if weights is not None:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_damaged_model_is_refused(
    arguments: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_model(tmp_path / "model_save")
    flip_a_bit(folder / "model.safetensors")
    assert finetune(tmp_path / "out", **arguments | {"checkpoint_dir": folder}) == 2
    assert str(folder / "model.safetensors") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"no weights"),
        ("config.json", b'{"vocab_size": 100}'),
        ("config.json", b'{"vocab_size": 100, "max_position_embeddings": 512, "model_type": "none such"}'),
    ],
)
def test_a_malformed_folder_is_one_line(
    name: str,
    content: bytes,
    arguments: dict[str, Any],
    tiny_bert: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = published(tiny_bert, tmp_path / "model_save")
    (start / name).write_bytes(content)
    assert finetune(tmp_path / "out", **arguments | {"checkpoint_dir": start}) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(start) in line


@pytest.mark.parametrize("wrong", ["missing", "unknown", "not finite"])
def test_wrong_weights_are_named(
    wrong: str,
    arguments: dict[str, Any],
    tiny_bert: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Weights that are missing would be drawn at random, unknown ones dropped, and NaN would be trained on."""
    key = "bert.encoder.layer.0.attention.self.key.weight"
    weights = load_file(tiny_bert / "model.safetensors")
    if wrong == "missing":
        weights[key.replace("key", "kye")] = weights.pop(key)
    elif wrong == "unknown":
        key = "bert.encoder.layer.0.attention.self.distance_embedding.weight"
        weights[key] = torch.zeros(1023, 16)
    else:
        weights[key][3, 3] = math.nan
    start = published(tiny_bert, tmp_path / "model_save", weights)
    assert finetune(tmp_path / "out", **arguments | {"checkpoint_dir": start}) == 2
    assert key in capsys.readouterr().err


def test_old_names_and_half_precision_train_in_float32(
    arguments: dict[str, Any], tiny_bert: Path, tmp_path: Path
) -> None:
    """The hub's own form, with names as of 2018: the same run as from today's, up to the rounding of the start."""
    arguments["epochs"] = 1
    assert finetune(tmp_path / "expected", **arguments) == 0
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    weights = {}
    for name, tensor in load_file(tiny_bert / "model.safetensors").items():
        for new_name, old_name in old.items():
            name = name.replace(new_name, old_name)
        weights[f"module.{name}"] = tensor
    start = published(tiny_bert, tmp_path / "old", weights)
    assert finetune(tmp_path / "out", **arguments | {"checkpoint_dir": start}) == 0
    found, expected = (
        load_file(folder / "model_save" / "model.safetensors") for folder in (tmp_path / "out", tmp_path / "expected")
    )
    assert found.keys() == expected.keys()
    assert all(found[name].equal(value) for name, value in expected.items())

    half = published(tiny_bert, tmp_path / "half", {name: tensor.bfloat16() for name, tensor in weights.items()})
    config = json.loads((half / "config.json").read_text()) | {"dtype": "bfloat16", "torch_dtype": "bfloat16"}
    (half / "config.json").write_text(json.dumps(config))
    assert finetune(tmp_path / "out2", **arguments | {"checkpoint_dir": half}) == 0
    found = load_file(tmp_path / "out2" / "model_save" / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert any((tensor != tensor.bfloat16().float()).any() for name, tensor in found.items() if "LayerNorm" in name)
    assert "float32" in json.loads((tmp_path / "out2" / "model_save" / "config.json").read_text()).values()


def test_the_head_of_another_task_is_replaced(arguments: dict[str, Any], tiny_bert: Path, tmp_path: Path) -> None:
    """As for RTE from a model that was trained on MNLI, which has three classes."""
    start = shutil.copytree(tiny_bert, tmp_path / "mnli")
    (start / "checksums.json").unlink()
    AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=3).save_pretrained(start)
    for task, labels in (("rte", 2), ("stsb", 1)):
        changes = {"task": task, "checkpoint_dir": start, "epochs": 1}
        assert finetune(tmp_path / task, **arguments | changes) == 0
        weights = load_file(tmp_path / task / "model_save" / "model.safetensors")
        assert weights["classifier.weight"].shape == (labels, 32)


def test_a_distilbert_folder(arguments: dict[str, Any], tiny_bert: Path, tmp_path: Path) -> None:
    """It has neither segments nor a pooler."""
    folder = tmp_path / "distilled"
    DistilBertModel(DistilBertConfig(vocab_size=78, dim=32, n_layers=2, n_heads=2, hidden_dim=64)).save_pretrained(
        folder
    )
    changes = {"task": "rte", "checkpoint_dir": folder, "vocab_file": tiny_bert.parent / "vocab.txt", "epochs": 1}
    assert finetune(tmp_path / "out", **arguments | changes) == 0
    assert "accuracy" in json.loads((tmp_path / "out" / "results.json").read_text())["summary"]["validation"]
    config = json.loads((tmp_path / "out" / "model_save" / "config.json").read_text())
    assert config["architectures"] == ["DistilBertForSequenceClassification"]
