"""Inputs of a run: configuration and vocabulary from a file, a checkpoint or both; data folders of the ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bert_large.distributed.collectives import Ranks
from bert_large.errors import InputError
from bert_large.model.pretrained import save_model
from bert_large.train.datasets import open_dataset
from bert_large.train.initial_model import describe_origin, resolve_model_config, resolve_vocab

from tests.support.models import DISTILBERT, MASKED_LM_ONLY, tiny_config, tiny_model, write_config
from tests.support.records import make_records, write_folder, write_vocab


@pytest.fixture
def model_save(tmp_path: Path) -> Path:
    save_model(tmp_path / "model_save", tiny_model(), tiny_config(), None)
    return tmp_path / "model_save"


def test_from_a_file(tmp_path: Path) -> None:
    assert resolve_model_config(str(write_config(tmp_path / "c.json")), None, None) == tiny_config()


def test_the_form_of_gelu_can_be_chosen(tmp_path: Path, model_save: Path) -> None:
    """Instead of the one in the file or the checkpoint."""
    assert resolve_model_config(str(write_config(tmp_path / "c.json")), None, "erf").hidden_act == "gelu"
    assert resolve_model_config(None, model_save, "erf").hidden_act == "gelu"


def test_from_a_checkpoint(model_save: Path) -> None:
    """Phase 2 needs no configuration file."""
    assert resolve_model_config(None, model_save, None) == tiny_config()


def test_a_fine_tuned_model_is_refused(model_save: Path) -> None:
    config_file = model_save / "config.json"
    values = json.loads(config_file.read_text()) | {"architectures": ["BertForSequenceClassification"]}
    config_file.write_text(json.dumps(values))
    with pytest.raises(InputError, match=f"{model_save} .*BertForSequenceClassification.*BertForPreTraining"):
        resolve_model_config(None, model_save, None)


def test_both_must_agree(tmp_path: Path, model_save: Path) -> None:
    """Except for dropout, which does not change the weights: the value in the file is used."""
    config = resolve_model_config(str(write_config(tmp_path / "c.json", hidden_dropout_prob=0.3)), model_save, None)
    assert config == tiny_config(hidden_dropout_prob=0.3)
    other = write_config(tmp_path / "other.json", num_hidden_layers=3, vocab_size=120)
    with pytest.raises(InputError) as caught:
        resolve_model_config(str(other), model_save, None)
    for named in (f"CHECKPOINT_DIR {model_save}", "vocab_size is 100", "num_hidden_layers is 2", f"{other} 3"):
        assert named in str(caught.value)


def test_another_form_of_gelu_is_another_model(tmp_path: Path, model_save: Path) -> None:
    """Unless --gelu sets the form for both."""
    erf = str(write_config(tmp_path / "c.json", model_type="bert"))
    with pytest.raises(InputError, match=r"hidden_act is gelu_pytorch_tanh.* gelu"):
        resolve_model_config(erf, model_save, None)
    assert resolve_model_config(erf, model_save, "erf").hidden_act == "gelu"


def test_neither_is_refused() -> None:
    with pytest.raises(InputError, match=r"CONFIG_FILE \(--config-file\)"):
        resolve_model_config(None, None, None)


def test_a_preset_takes_its_size_from_the_vocabulary(tmp_path: Path) -> None:
    """Cased vocabularies are smaller. A configuration file has a size of its own."""
    vocab = write_vocab(tmp_path / "vocab.txt", 90)
    config = resolve_model_config("distilbert-base", None, "tanh", vocab_file=vocab)
    assert (config.vocab_size, config.hidden_size, config.hidden_act) == (90, 768, "gelu_pytorch_tanh")
    assert describe_origin("distilbert-base", None, config) == (
        "configuration distilbert-base with vocab_size 90 from the vocabulary instead of 30522"
    )
    named = resolve_model_config("bert-tiny", None, None)
    assert (named.vocab_size, describe_origin("bert-tiny", None, named)) == (30522, "configuration bert-tiny")
    path = str(write_config(tmp_path / "c.json"))
    assert resolve_model_config(path, None, None, vocab_file=vocab).vocab_size == 100
    assert describe_origin(path, None, tiny_config()) == f"configuration {path}"


def test_a_preset_takes_its_size_from_the_checkpoint(tmp_path: Path) -> None:
    model = tiny_model(hidden_size=128, intermediate_size=512)
    save_model(tmp_path, model, model.config, None)
    vocab = write_vocab(tmp_path / "other.txt", 90)
    config = resolve_model_config("bert-tiny", tmp_path, None, vocab_file=vocab)
    assert config == model.config
    assert "vocab_size 100 from the checkpoint" in describe_origin("bert-tiny", tmp_path, config)
    with pytest.raises(InputError, match=r"num_hidden_layers is 2.* bert-mini 4"):
        resolve_model_config("bert-mini", tmp_path, None)


def test_the_heads_are_those_of_the_checkpoint(tmp_path: Path, model_save: Path) -> None:
    """A configuration file does not determine them: published files name many classes."""
    file = tmp_path / "c.json"
    file.write_text(json.dumps(tiny_config(**MASKED_LM_ONLY).to_hugging_face()))
    assert resolve_model_config(str(file), None, None) == tiny_config()
    assert resolve_model_config(str(file), model_save, None) == tiny_config()
    assert resolve_model_config(None, model_save, None, masked_lm_only=True) == tiny_config(**MASKED_LM_ONLY)
    without = tiny_model(**MASKED_LM_ONLY)
    save_model(tmp_path / "without", without, without.config, None)
    for config_file in (None, str(write_config(tmp_path / "google.json"))):
        assert resolve_model_config(config_file, tmp_path / "without", None) == without.config


def test_another_family_is_another_model(tmp_path: Path, model_save: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps(tiny_config(**DISTILBERT).to_hugging_face()))
    assert resolve_model_config(str(file), None, None, masked_lm_only=True) == tiny_config(**DISTILBERT)
    with pytest.raises(InputError, match=r"architecture is BertForPreTr.*type_vocab_size is 2"):
        resolve_model_config(str(file), model_save, None)


def test_a_vocabulary_must_fit_the_model(tmp_path: Path) -> None:
    """It may be smaller: configurations are often padded to round sizes."""
    for size in (99, 100):
        path = write_vocab(tmp_path / "vocab.txt", size)
        assert resolve_vocab(path, None, tiny_config()) == path
    with pytest.raises(InputError, match=r"VOCAB_FILE .*vocab.txt .*101 .*100"):
        resolve_vocab(write_vocab(tmp_path / "vocab.txt", 101), None, tiny_config())
    with pytest.raises(InputError, match=r"nowhere.txt"):
        resolve_vocab(tmp_path / "nowhere.txt", None, tiny_config())


def test_a_checkpoint_has_its_vocabulary(tmp_path: Path, model_save: Path) -> None:
    assert resolve_vocab(None, model_save, tiny_config()) is None
    beside = write_vocab(model_save / "vocab.txt", 50)
    assert resolve_vocab(None, model_save, tiny_config()) == beside
    named = write_vocab(tmp_path / "vocab.txt", 50)
    assert resolve_vocab(named, model_save, tiny_config()) == named


@pytest.mark.parametrize(
    ("local_ranks", "differing", "refused"),
    [
        ([0, 1], 1, True),
        ([0, 1, 0, 1], 3, True),
        ([0, 0], 1, False),  # another machine may have the data elsewhere
        ([0, 1, 0], 2, False),
    ],
)
def test_ranks_of_a_machine_must_read_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ranks: list[int], differing: int, refused: bool
) -> None:
    """Only one of them makes the indexes. Without this check another rank would report that its data have changed."""
    write_folder(tmp_path / "data", make_records(3))
    own = {"data folder": str(tmp_path / "data"), "index folder": str(tmp_path / "index")}
    gathered = [[local, own] for local in local_ranks]
    gathered[differing][1] = own | {"data folder": "/other"}
    names = [f"rank {rank}" for rank in range(len(local_ranks))]
    ranks = Ranks(0, 1, 0, names=names)
    replies = iter([gathered])
    monkeypatch.setattr(Ranks, "gather", lambda self, value: next(replies, [None]))
    object.__setattr__(ranks, "rank", differing)
    object.__setattr__(ranks, "local_rank", local_ranks[differing])
    if refused:
        with pytest.raises(InputError, match=rf"rank {differing}: data folder is /other, .*{tmp_path}/data"):
            open_dataset(tmp_path / "data", tmp_path / "index", tiny_config(), ranks)
    else:
        assert len(open_dataset(tmp_path / "data", tmp_path / "index", tiny_config(), ranks)) == 3
