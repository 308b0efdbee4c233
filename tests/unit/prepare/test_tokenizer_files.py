"""Vocabularies of model folders in the forms in which they are published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bert_large.errors import InputError
from bert_large.prepare.casing import resolve_casing
from bert_large.prepare.tokenizer import WordPieceTokenizer
from bert_large.prepare.tokenizer_files import find_vocab
from bert_large.prepare.vocab import SPECIAL_TOKENS, read_vocab, write_vocab
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

TOKENS = [*SPECIAL_TOKENS, "the", "drug", "##s", "d", "##r", "[", "]", "help", "covid"]
ADDED = {"[DRUG]": 14, "covid-19": 15}


def library_tokenizer(**letters: Any) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece({token: number for number, token in enumerate(TOKENS)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(**letters)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ADDED])
    return tokenizer


def with_tokenizer_json(folder: Path) -> None:
    library_tokenizer().save(str(folder / "tokenizer.json"))


def with_both(folder: Path) -> None:
    write_vocab(folder / "vocab.txt", TOKENS)
    with_tokenizer_json(folder)


def with_added_tokens_json(folder: Path) -> None:
    write_vocab(folder / "vocab.txt", TOKENS)
    (folder / "added_tokens.json").write_text(json.dumps(ADDED))


def with_decoder(folder: Path) -> None:
    write_vocab(folder / "vocab.txt", TOKENS)
    decoder = {str(number): {"content": token} for token, number in {"[PAD]": 0, **ADDED}.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))


@pytest.mark.parametrize("write", [with_tokenizer_json, with_both, with_added_tokens_json, with_decoder])
def test_every_form_gives_the_tokens_and_ids_of_the_model(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    path = find_vocab(tmp_path)
    assert path is not None
    vocabulary = read_vocab(path)
    assert list(vocabulary.tokens) == [*TOKENS, *ADDED] and sorted(vocabulary.added) == sorted(ADDED)
    tokenizer, theirs = WordPieceTokenizer(vocabulary, do_lower_case=True), library_tokenizer()
    lines = ["The drugs help", "[DRUG]the drug[DRUG] [drug] covid-19covid", "", "[DRUG]"]
    assert tokenizer.encode(lines) == [theirs.encode(line, add_special_tokens=False).ids for line in lines]


def test_equal_tokens_have_equal_facts_in_every_form(tmp_path: Path) -> None:
    found = []
    for name, write in {"a": with_tokenizer_json, "b": with_added_tokens_json}.items():
        (tmp_path / name).mkdir()
        write(tmp_path / name)
        path = find_vocab(tmp_path / name)
        assert path is not None
        found.append(read_vocab(path).facts)
    write_vocab(tmp_path / "other.txt", TOKENS)
    assert found[0] == found[1] != read_vocab(tmp_path / "other.txt").facts


def test_ids_between_added_tokens_are_filled(tmp_path: Path) -> None:
    write_vocab(tmp_path / "vocab.txt", TOKENS)
    (tmp_path / "added_tokens.json").write_text('{"late": 16}')
    tokens = read_vocab(tmp_path / "vocab.txt").tokens
    assert tokens[16] == "late" and len(tokens) == 17 and len(set(tokens)) == 17


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("added_tokens.json", {"new": 5}, "'the'"),
        ("added_tokens.json", {"the": 20}, "'the'"),
        ("added_tokens.json", {"a": 14, "b": 14}, "14"),
        ("added_tokens.json", {"new": "14"}, "'14'"),
        ("added_tokens.json", {"new": -1}, "-1"),
        ("added_tokens.json", {"new": 10**12}, "1000000000000"),
        ("added_tokens.json", {"two\nlines": 14}, "lines"),
        ("tokenizer.json", {"added_tokens": [{"id": 14}]}, "content"),
        ("tokenizer.json", {"added_tokens": [3]}, "tokenizer.json"),
    ],
)
def test_contradictions_are_refused(name: str, content: Any, named: str, tmp_path: Path) -> None:
    write_vocab(tmp_path / "vocab.txt", TOKENS)
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        read_vocab(tmp_path / "vocab.txt")
    assert named in str(error.value) and str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize(
    "model",
    [{"type": "BPE", "vocab": {}}, {"type": "WordPiece"}, [], {"type": "WordPiece", "vocab": {"a": 0},
                                                               "continuing_subword_prefix": "@@"}],
)  # fmt: skip
def test_other_tokenizers_are_refused(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": model}))
    with pytest.raises(InputError) as error:
        read_vocab(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("letters", "config", "expected"),
    [
        ({"lowercase": False}, None, (False, False)),
        ({"lowercase": True, "strip_accents": False}, None, (True, False)),
        ({"lowercase": True}, {"model_max_length": 512}, (True, True)),
        ({"lowercase": True}, {"do_lower_case": False}, (False, False)),
    ],
)
def test_casing_of_a_published_tokenizer(
    letters: dict[str, bool], config: dict[str, Any] | None, expected: tuple[bool, bool], tmp_path: Path
) -> None:
    library_tokenizer(**letters).save(str(tmp_path / "tokenizer.json"))
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    casing = resolve_casing(tmp_path / "tokenizer.json")
    assert (casing.do_lower_case, casing.strip_accents) == expected
