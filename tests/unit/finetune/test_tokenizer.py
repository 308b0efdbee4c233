"""The tokenizer of a model folder: its vocabulary, case and inputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bert_large.errors import InputError
from bert_large.finetune.tokenizer import load_tokenizer

from tests.support.finetune import write_model


def test_the_folders_vocabulary(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_model(tmp_path / "model"))
    assert tokenizer.tokenize("The GOOD café!") == ["the", "good", "[UNK]", "[UNK]"]  # é is a token: accents are kept
    assert tokenizer("good", "bad")["token_type_ids"] == [0, 0, 0, 1, 1]
    assert tokenizer.model_max_length == 512


def test_case_is_that_of_the_folder_or_the_option(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    assert load_tokenizer(folder, do_lower_case=False).tokenize("Good good") == ["[UNK]", "good"]
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"do_lower_case": False}))
    assert load_tokenizer(folder).tokenize("Good good") == ["[UNK]", "good"]
    assert load_tokenizer(folder, folder / "vocab.txt").tokenize("Good good") == ["[UNK]", "good"]
    assert load_tokenizer(folder, tmp_path / "vocab.txt").tokenize("Good") == ["good"]


def test_tokenizer_json_is_used_unchanged(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    load_tokenizer(folder, do_lower_case=False).save_pretrained(folder)
    assert load_tokenizer(folder).tokenize("Good good") == ["[UNK]", "good"]


def test_a_tokenizer_without_a_length_gets_that_of_the_model(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    load_tokenizer(folder).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["model_max_length"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(folder).model_max_length == 512


def test_a_model_without_segments(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["type_vocab_size"]
    (folder / "config.json").write_text(json.dumps(config))
    assert set(load_tokenizer(folder)("good", "bad")) == {"input_ids", "attention_mask"}


def test_a_missing_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", keep_vocab=False)
    with pytest.raises(InputError, match=f"{folder}.*--vocab-file"):
        load_tokenizer(folder)
    assert load_tokenizer(folder, tmp_path / "vocab.txt").tokenize("good") == ["good"]


def test_a_vocabulary_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    with (tmp_path / "vocab.txt").open("a") as file:
        file.write("another\n")
    with pytest.raises(InputError, match=r"vocab\.txt has 79 .* 78"):
        load_tokenizer(folder, tmp_path / "vocab.txt")
