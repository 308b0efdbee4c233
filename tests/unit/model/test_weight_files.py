"""Weights of model folders in the forms in which BERT is published, and weights that are refused by name."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bert_large.errors import InputError
from bert_large.model.bert import BertForPreTraining
from bert_large.model.pretrained import check_model_folder, find_config_file, load_model, load_to_train, save_model
from bert_large.model.weight_files import WeightFiles
from safetensors.torch import load_file, save_file

from tests.support.models import DISTILBERT, randomize, tiny_model

Weights = dict[str, torch.Tensor]
WORDS, KEY = "bert.embeddings.word_embeddings.weight", "bert.encoder.layer.1.attention.self.key.weight"


@pytest.fixture(scope="module")
def model() -> BertForPreTraining:
    model = tiny_model()
    randomize(model)
    return model


@pytest.fixture
def folder(model: BertForPreTraining, tmp_path: Path) -> Path:
    """A model folder without checksums, as others write it."""
    save_model(tmp_path / "model", model, model.config, None)
    (tmp_path / "model" / "checksums.json").unlink()
    return tmp_path / "model"


def change_names(folder: Path, change: Callable[[str], str]) -> None:
    path = folder / "model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(path).items()}, path)


def change_weights(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    """Add or replace tensors, or remove those that are None."""
    path = folder / "model.safetensors"
    weights: dict[str, torch.Tensor | None] = {**load_file(path), **changes}
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, path)


def with_old_names(folder: Path) -> None:
    """As the hub's bert-base-uncased, with the decoder and positions of its time."""
    change_names(
        folder, lambda name: name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")
    )  # fmt: skip
    weights = load_file(folder / "model.safetensors")
    change_weights(
        folder,
        {
            "bert.embeddings.position_ids": torch.arange(512)[None],
            "cls.predictions.decoder.weight": weights[WORDS].clone(),
            "cls.predictions.decoder.bias": weights["cls.predictions.bias"].clone(),
        },
    )


def in_pytorch_file(folder: Path, old: bool = False) -> None:
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not old)
    (folder / "model.safetensors").unlink()


def in_shards(folder: Path, suffix: str) -> None:
    weights = load_file(folder / "model.safetensors")
    stem = suffix.partition(".")[0]
    weight_map: dict[str, str] = {}
    for number, names in enumerate((sorted(weights)[:20], sorted(weights)[20:]), start=1):
        name = f"{stem}-{number:05d}-of-00002.{suffix.partition('.')[2]}"
        shard = {key: weights[key] for key in names}
        save_file(shard, folder / name) if name.endswith("safetensors") else torch.save(shard, folder / name)
        weight_map |= dict.fromkeys(names, name)
    (folder / f"{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "model.safetensors").unlink()


FORMS: dict[str, Callable[[Path], object]] = {
    "old names": with_old_names,
    "prefix of DataParallel": lambda folder: change_names(folder, lambda name: f"module.{name}"),
    "another wrapper": lambda folder: change_names(folder, lambda name: f"_orig_mod.model.{name}"),
    "encoder without prefix": lambda folder: change_names(folder, lambda name: name.removeprefix("bert.")),
    "pytorch_model.bin": in_pytorch_file,
    "pytorch_model.bin before PyTorch 1.6": lambda folder: in_pytorch_file(folder, old=True),
    "shards of safetensors": lambda folder: in_shards(folder, "model.safetensors"),
    "shards of pytorch_model.bin": lambda folder: in_shards(folder, "pytorch_model.bin"),
    "bert_config.json": lambda folder: (folder / "config.json").rename(folder / "bert_config.json"),
    "bias of the decoder alone": lambda folder: change_names(
        folder, lambda name: name.replace("cls.predictions.bias", "cls.predictions.decoder.bias")
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_published_forms(form: str, model: BertForPreTraining, folder: Path) -> None:
    FORMS[form](folder)
    loaded = tiny_model(seed=9)
    load_model(folder, loaded)
    assert all(torch.equal(new, old) for new, old in zip(loaded.parameters(), model.parameters(), strict=True))
    assert find_config_file(folder).is_file()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_become_float32(dtype: torch.dtype, model: BertForPreTraining, folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)
    loaded = tiny_model(seed=9)
    load_model(folder, loaded)
    for new, old in zip(loaded.parameters(), model.parameters(), strict=True):
        assert new.dtype == torch.float32 and torch.equal(new, old.to(dtype).float())


def test_distilbert_without_prefix(tmp_path: Path) -> None:
    model = tiny_model(**DISTILBERT)
    save_model(tmp_path, model, model.config, None)
    (tmp_path / "checksums.json").unlink()
    change_names(tmp_path, lambda name: name.removeprefix("distilbert."))
    loaded = tiny_model(seed=9, **DISTILBERT)
    load_model(tmp_path, loaded)
    assert all(torch.equal(new, old) for new, old in zip(loaded.parameters(), model.parameters(), strict=True))


def test_missing_heads_are_drawn_only_for_training(model: BertForPreTraining, folder: Path) -> None:
    """A whole head or the pooler may be missing, not a part of one."""
    change_names(folder, lambda name: name.removeprefix("bert."))
    heads = [name for name, _ in model.named_parameters() if not name.startswith("bert.")]
    change_weights(folder, dict.fromkeys([*heads, "pooler.dense.weight", "pooler.dense.bias"]))
    with pytest.raises(InputError, match=r"bert\.pooler\.dense\.bias"):
        load_model(folder, tiny_model())
    loaded, fresh = tiny_model(seed=9), dict(tiny_model(seed=5).named_parameters())
    load_to_train(folder, loaded, 5)
    expected = dict(model.named_parameters())
    for name, parameter in loaded.named_parameters():
        drawn = name.startswith(("cls.", "bert.pooler."))
        assert torch.equal(parameter, fresh[name] if drawn else expected[name]), name

    change_weights(folder, {"pooler.dense.weight": torch.zeros(32, 32)})
    with pytest.raises(InputError, match=r"bert\.pooler\.dense\.bias"):
        load_to_train(folder, tiny_model(), 5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({KEY: None}, KEY),
        ({KEY: torch.zeros(32, 16)}, KEY),
        ({KEY: torch.full((32, 32), math.nan)}, KEY),
        ({KEY: torch.full((32, 32), -math.inf)}, KEY),
        ({KEY: torch.zeros(32, 32, dtype=torch.int64)}, KEY),
        ({"bert.encoder.layer.0.attention.self.distance_embedding.weight": torch.zeros(3)}, "distance_embedding"),
        ({"bert.encoder.layer.0.output.adapter.weight": torch.zeros(3)}, "bert.encoder.layer.0.output.adapter.weight"),
        ({"classifier.weight": torch.zeros(3)}, "classifier.weight"),
        ({"cls.predictions.decoder.weight": torch.zeros(100, 32)}, "cls.predictions.decoder.weight"),
        ({"cls.predictions.decoder.bias": torch.zeros(100)}, "cls.predictions.decoder.bias"),
    ],
)
def test_other_models_are_refused_by_name(changes: dict[str, torch.Tensor | None], named: str, folder: Path) -> None:
    """For training too, and before a weight of the model is changed, unless a value is not finite."""
    change_weights(folder, changes)
    for seed in (None, 1):
        with pytest.raises(InputError) as error:
            load_model(folder, tiny_model()) if seed is None else load_to_train(folder, tiny_model(), seed)
        assert named in str(error.value) and str(folder) in str(error.value)


class Code:
    """Runs on unpickling."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (exec, ("raise SystemExit(99)",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "content",
    [b"", b"text", pickle.dumps({"a": Code()}), pickle.dumps({"a": 1})],
    ids=["empty", "text", "code", "number"],
)
def test_malformed_pytorch_files(content: bytes, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(InputError) as error:
        load_model(folder, tiny_model())
    assert str(folder / "pytorch_model.bin") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("index", "named"),
    [
        ("{}", "weight_map"),
        ("[", "index.json"),
        ('{"weight_map": {"a": "../other.safetensors"}}', "../other.safetensors"),
        ('{"weight_map": {"a": "none.safetensors"}}', "none.safetensors"),
        ('{"weight_map": {"not there": "part.safetensors"}}', "not there"),
    ],
)
def test_malformed_shards(index: str, named: str, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError) as error:
        WeightFiles(check_model_folder(folder))
    assert named in str(error.value)
