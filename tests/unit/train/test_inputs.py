"""The model's configuration and vocabulary, from a file, a checkpoint, or both."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.errors import InputError
from bert_large.train.checkpoint import save_model
from bert_large.train.inputs import resolve_model_config, resolve_vocab

from tests.support.models import tiny_config, tiny_model, write_config

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_vocab(path: Path, size: int) -> Path:
    path.write_text("".join(f"{token}\n" for token in [*SPECIAL, *(f"w{index}" for index in range(size - 5))]))
    return path


@pytest.fixture
def model_save(tmp_path: Path) -> str:
    save_model(tmp_path / "model_save", tiny_model(), tiny_config(), None)
    return str(tmp_path / "model_save")


def test_from_a_file(tmp_path: Path) -> None:
    assert resolve_model_config(str(write_config(tmp_path / "c.json")), None, None) == tiny_config()


def test_the_form_of_gelu_can_be_chosen(tmp_path: Path, model_save: str) -> None:
    """Over what the file, or the checkpoint, says."""
    assert resolve_model_config(str(write_config(tmp_path / "c.json")), None, "erf").hidden_act == "gelu"
    assert resolve_model_config(None, model_save, "erf").hidden_act == "gelu"


def test_from_a_checkpoint(model_save: str) -> None:
    """Phase 2 needs no configuration file."""
    assert resolve_model_config(None, model_save, None) == tiny_config()


def test_both_must_agree(tmp_path: Path, model_save: str) -> None:
    """But for dropout, which is no part of the weights' shape: the file's counts."""
    config = resolve_model_config(str(write_config(tmp_path / "c.json", hidden_dropout_prob=0.3)), model_save, None)
    assert config == tiny_config(hidden_dropout_prob=0.3)
    other = write_config(tmp_path / "other.json", num_hidden_layers=3, vocab_size=120)
    with pytest.raises(InputError) as caught:
        resolve_model_config(str(other), model_save, None)
    assert str(caught.value).startswith(f"CHECKPOINT_DIR {model_save} is of another shape: ")
    assert "vocab_size is 100 there, 120 in" in str(caught.value)
    assert "num_hidden_layers is 2 there, 3 in" in str(caught.value)


def test_another_form_of_gelu_is_another_model(tmp_path: Path, model_save: str) -> None:
    """Unless --gelu says which both mean."""
    erf = str(write_config(tmp_path / "c.json", model_type="bert"))
    with pytest.raises(InputError, match=r"hidden_act is gelu_pytorch_tanh there, gelu in"):
        resolve_model_config(erf, model_save, None)
    assert resolve_model_config(erf, model_save, "erf").hidden_act == "gelu"


def test_neither_is_refused() -> None:
    with pytest.raises(InputError, match=r"CONFIG_FILE \(--config-file\) is not set; expected a bert_config.json"):
        resolve_model_config(None, None, None)


def test_vocabulary_must_fit(tmp_path: Path) -> None:
    """A smaller one is fine: configurations are padded to round sizes."""
    for size in (99, 100):
        path = write_vocab(tmp_path / "vocab.txt", size)
        assert resolve_vocab(str(path), None, tiny_config()) == path
    with pytest.raises(InputError, match=r"VOCAB_FILE .*vocab.txt has 101 tokens, .* vocab_size is 100"):
        resolve_vocab(str(write_vocab(tmp_path / "vocab.txt", 101)), None, tiny_config())
    with pytest.raises(InputError, match=r"nowhere.txt"):
        resolve_vocab(str(tmp_path / "nowhere.txt"), None, tiny_config())


def test_vocabulary_comes_along_with_a_checkpoint(tmp_path: Path, model_save: str) -> None:
    assert resolve_vocab(None, model_save, tiny_config()) is None
    beside = write_vocab(Path(model_save) / "vocab.txt", 50)
    assert resolve_vocab(None, model_save, tiny_config()) == beside
    named = write_vocab(tmp_path / "vocab.txt", 50)
    assert resolve_vocab(str(named), model_save, tiny_config()) == named
