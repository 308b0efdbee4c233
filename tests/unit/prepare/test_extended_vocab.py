"""`bert-large vocab --extend-vocab`: tokens of a text after those of a model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from bert_large.prepare.extended_vocab import choose_tokens, count_tokens
from bert_large.prepare.vocab import SPECIAL_TOKENS, extend, read_vocab, write_vocab

from tests.support.runs import options, run_here

LETTERS = "abcdefghijklmnopqrstuvwxyz."
BASE = [*SPECIAL_TOKENS, *LETTERS, *(f"##{letter}" for letter in LETTERS), "the", "patient"]
TEXT = "The patient has nephritis.\nNephritis is rare.\n\nThe nephrologist knows nephritis.\n\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    write_vocab(folder / "vocab.txt", BASE)
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "part").write_text(TEXT * 3)
    return folder


def test_new_tokens_follow_the_old_and_shorten_the_text(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "vocab.txt"
    given = options(input_dir=text, tokenizer=model, output_file=output, extend_vocab=3)
    assert run_here("vocab", *given) == 0
    vocabulary, base = read_vocab(output), read_vocab(model / "vocab.txt")
    assert list(vocabulary.tokens[: len(BASE)]) == BASE and len(vocabulary.tokens) == len(BASE) + 3
    assert "nephritis" in vocabulary.tokens
    assert json.loads((output.parent / "tokenizer_config.json").read_text())["do_lower_case"] is True
    words = Counter({"nephritis": 9, "the": 6})
    assert count_tokens(vocabulary, words) == 15 and count_tokens(base, words) == 87
    assert "3 of at most 3" in capsys.readouterr().out
    first = output.read_bytes()
    assert run_here("vocab", *given) == 2
    assert run_here("vocab", *given, "--overwrite") == 0 and output.read_bytes() == first


def test_the_candidates_that_save_most_are_chosen(model: Path) -> None:
    base = read_vocab(model / "vocab.txt")
    words = {"nephritis": 2, "rare": 9, "the": 99}
    assert choose_tokens(base, words, ["nephritis", "rare", "##zzz"], 5) == ["rare", "nephritis"]  # 27 and 16 saved
    assert choose_tokens(base, words, ["nephritis", "rare"], 1) == ["rare"]


def test_a_character_that_the_model_lacks_is_added(model: Path) -> None:
    base = read_vocab(model / "vocab.txt")
    found = choose_tokens(base, {"µ": 4}, ["µ"], 5)
    assert found == ["µ"] and extend(base, found).tokens[-1] == "µ"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tokenizer": None}, "--tokenizer"),
        ({"extend_vocab": None}, "--extend-vocab"),
        ({"vocab_size": 100}, "--vocab-size"),
        ({"extend_vocab": 0}, "--extend-vocab"),
        ({"output_file": "other.txt"}, "other.txt"),
        ({"tokenizer": "missing"}, "missing"),
    ],
)
def test_wrong_options(
    changes: dict[str, object], named: str, model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, object] = {"input_dir": text, "tokenizer": model, "extend_vocab": 3,
                                "output_file": tmp_path / "new" / "vocab.txt"}  # fmt: skip
    assert run_here("vocab", *options(**given | changes)) == 2
    assert named in capsys.readouterr().err
