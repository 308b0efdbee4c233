"""Model folders: what is saved is loaded, and a failure while saving leaves the old model."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from bert_large.errors import DamageError, InputError, WriteError
from bert_large.model import pretrained
from bert_large.model.pretrained import (
    check_model_folder,
    load_model,
    load_weights,
    require_finite,
    save_model,
    weights_of,
)
from bert_large.model.tensor_file import save_tensors
from bert_large.model.weight_files import NonFiniteWeightsError
from bert_large.storage.integrity import check_checksums
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.support.models import tiny_config, tiny_model
from tests.support.training import flip_a_bit, names


def test_saved_model_is_a_hugging_face_folder(tmp_path: Path) -> None:
    """`tests/parity/test_hugging_face.py` loads one; this checks that it has the right files, and no others."""
    vocab = tmp_path / "words.txt"
    vocab.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\n")
    model, folder = tiny_model(), tmp_path / "model_save"
    for _ in range(2):  # a second save replaces the first
        save_model(folder, model, tiny_config(), vocab)
    assert names(folder) == ["checksums.json", "config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"]
    config = json.loads((folder / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["BertForPreTraining"], "bert")
    assert (config["hidden_size"], config["hidden_act"], config["layer_norm_eps"]) == (32, "gelu_pytorch_tanh", 1e-12)
    assert (folder / "vocab.txt").read_bytes() == vocab.read_bytes()
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert (tokenizer["do_lower_case"], tokenizer["model_max_length"]) == (True, 512)
    weights = load_file(folder / "model.safetensors")
    assert sorted(weights) == sorted(name for name, _ in model.named_parameters())
    assert all(torch.equal(weights[name], parameter) for name, parameter in model.named_parameters())


def test_a_cased_vocabulary_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nHello\n")
    save_model(tmp_path / "model", tiny_model(), tiny_config(), tmp_path / "vocab.txt")
    assert json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())["do_lower_case"] is False


def test_file_modes_follow_the_umask(tmp_path: Path) -> None:
    """Another user, or a container's, can read the model."""
    save_model(tmp_path / "model", tiny_model(), tiny_config(), None)
    (tmp_path / "plain").touch()
    expected = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    for path in (tmp_path / "model").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == expected, path.name


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "checksums.json"])
def test_a_damaged_model_is_refused(tmp_path: Path, file: str) -> None:
    """Without checksums, as in folders from other systems, files are not checked."""
    save_model(tmp_path, tiny_model(seed=1), tiny_config(), None)
    load_model(tmp_path, tiny_model())
    flip_a_bit(tmp_path / file)
    with pytest.raises(DamageError, match=rf"CHECKPOINT_DIR: {tmp_path}"):
        load_model(tmp_path, tiny_model())
    (tmp_path / "checksums.json").unlink()
    load_model(tmp_path, tiny_model())


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    """Every shape is checked before the first weight is copied."""
    save_model(tmp_path, tiny_model(hidden_size=32, intermediate_size=48), tiny_config(), None)
    model = tiny_model(seed=3)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(InputError, match=r"intermediate.dense.weight .*\[48, 32\].*\[64, 32\]"):
        load_weights(tmp_path / "model.safetensors", model)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_file({"some.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"46.*bert.embeddings.LayerNorm.bias"):
        load_weights(tmp_path / "model.safetensors", tiny_model())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path: Path, value: float) -> None:
    """The old model stays, and the model in memory is not changed."""
    save_model(tmp_path, tiny_model(seed=1), tiny_config(), None)
    before = (tmp_path / "model.safetensors").read_bytes()
    bad, good = tiny_model(seed=2), tiny_model(seed=3)
    bad.cls.predictions.bias.data[3] = value
    with pytest.raises(NonFiniteWeightsError, match=r"cls.predictions.bias"):
        save_model(tmp_path, bad, tiny_config(), None)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    path = tmp_path / "bad.safetensors"
    save_tensors(path, {name: tensor.shape for name, tensor in weights_of(bad).items()}, weights_of(bad).items())
    kept = [parameter.clone() for parameter in good.parameters()]
    with pytest.raises(NonFiniteWeightsError, match=str(path)):
        load_weights(path, good)
    assert all(torch.equal(old, new) for old, new in zip(kept, good.parameters(), strict=True))
    require_finite(weights_of(good), "a model")


def test_a_failed_save_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path, tiny_model(seed=1), tiny_config(), None)
    before = (tmp_path / "model.safetensors").read_bytes()

    def half(path: Path, *what: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrained, "save_tensors", half)
    with pytest.raises(WriteError, match=str(tmp_path)):
        save_model(tmp_path, tiny_model(seed=2), tiny_config(), None)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    check_checksums(tmp_path)
    assert names(tmp_path) == ["checksums.json", "config.json", "model.safetensors"]


def test_a_link_in_place_of_the_temporary_folder(tmp_path: Path) -> None:
    """Its target is neither deleted nor written to."""
    other, folder = tmp_path / "other", tmp_path / "model_save"
    for path in (other, folder):
        path.mkdir()
    (other / "file").write_bytes(b"keep")
    (folder / ".partial-output").symlink_to(other)
    save_model(folder, tiny_model(), tiny_config(), None)
    assert [path.name for path in other.iterdir()] == ["file"] and (other / "file").read_bytes() == b"keep"
    assert names(folder) == ["checksums.json", "config.json", "model.safetensors"]


def test_folders_that_are_not_model_folders(tmp_path: Path) -> None:
    """The message names the variable, the folder and the missing file."""
    save_model(tmp_path / "good", tiny_model(), tiny_config(), None)
    assert check_model_folder(tmp_path / "good") == tmp_path / "good" / "model.safetensors"
    for missing in ("config.json", "model.safetensors"):
        shutil.copytree(tmp_path / "good", tmp_path / missing)
        (tmp_path / missing / missing).unlink()
        with pytest.raises(InputError, match=rf"CHECKPOINT_DIR {tmp_path / missing} .*{missing}"):
            check_model_folder(tmp_path / missing)
    for no_folder in ("nowhere", "good/config.json"):
        with pytest.raises(InputError, match=rf"CHECKPOINT_DIR {tmp_path / no_folder}"):
            check_model_folder(tmp_path / no_folder)


def test_tensors_may_be_written_in_any_order(tmp_path: Path) -> None:
    """The format's own library reads them by name, also one without elements and a transposed one."""
    tensors = {
        "a": torch.randn(3, 5),
        "none": torch.zeros(0, 2),
        "b": torch.randn(4, 2).t(),
        "scalar": torch.tensor(7.0),
    }
    path = tmp_path / "tensors.safetensors"
    save_tensors(path, {name: tensor.shape for name, tensor in tensors.items()}, reversed(tensors.items()))
    found = load_file(path)
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    with pytest.raises(AssertionError, match="scalar"):
        save_tensors(path, {"scalar": (), "a": (3, 5)}, [("a", tensors["a"])])
