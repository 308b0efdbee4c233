"""Which vocabularies are of lowercased text, and of text without accents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bert_large.data.dataset import Dataset
from bert_large.errors import InputError
from bert_large.log import LOGGER
from bert_large.model.pretrained import save_model
from bert_large.prepare.casing import Casing, casing_of, resolve_casing
from bert_large.prepare.vocab import SPECIAL_TOKENS, read_vocab, write_vocab
from bert_large.train.datasets import log_vocabulary

from tests.support.models import tiny_config, tiny_model
from tests.support.records import VOCAB_SIZE, make_records, write_folder

CASES = Path(__file__).parents[4] / "shared" / "data" / "cases"


@pytest.mark.parametrize(
    ("tokens", "lower", "strip"),
    [
        (["alpha", "##beta", "中", "ς", "ß", "\u2028"], True, True),
        (["alpha", "[unused1]", "<S>", "<T>", "[MASK]"], True, True),
        (["alpha", "<S"], False, False),
        (["Alpha"], False, False),
        (["##É"], False, False),
        (["über", "strasse"], True, False),  # German, lowercased with its umlauts
        (["हिन्दी"], True, False),  # scripts without capitals keep their marks
        (["が", "ひ"], True, False),
        (["한국"], True, False),  # stripping would decompose it
        ([], True, True),
    ],
)
def test_casing_is_found_in_the_tokens(tokens: list[str], lower: bool, strip: bool) -> None:
    assert casing_of([*SPECIAL_TOKENS, *tokens]) == Casing(lower, strip)


@pytest.mark.skipif(not CASES.is_dir(), reason=f"needs {CASES}")
def test_googles_chinese_vocabulary_is_uncased() -> None:
    tokens = read_vocab(CASES / "chinese_vocab.txt").tokens
    assert (len(tokens), tokens[343], tokens[-1]) == (21128, "\u2028", "##😎")
    assert casing_of(tokens) == Casing(True, True)


@pytest.mark.parametrize(
    ("word", "beside", "given", "expected"),
    [
        ("alpha", None, (None, None), (True, True)),
        ("Alpha", None, (None, None), (False, False)),
        ("über", None, (None, None), (True, False)),
        ("über", None, (True, None), (True, True)),  # accents follow a given case, as in BERT
        ("über", None, (None, True), (True, True)),
        ("alpha", None, (False, True), (False, True)),
        ("alpha", {"do_lower_case": False}, (None, None), (False, False)),
        ("Alpha", {"do_lower_case": True}, (None, None), (True, True)),
        ("Alpha", {"do_lower_case": True, "strip_accents": None}, (None, None), (True, True)),
        ("Alpha", {"do_lower_case": True, "strip_accents": False}, (None, None), (True, False)),
        ("Alpha", {"do_lower_case": True, "strip_accents": False}, (None, True), (True, True)),
        ("alpha", {"do_lower_case": False, "strip_accents": False}, (True, None), (True, True)),
        ("alpha", {}, (None, None), (True, True)),
    ],
)
def test_given_values_win_then_the_configuration_then_the_tokens(
    tmp_path: Path,
    word: str,
    beside: dict[str, bool] | None,
    given: tuple[bool | None, bool | None],
    expected: tuple[bool, bool],
) -> None:
    write_vocab(tmp_path / "vocab.txt", [*SPECIAL_TOKENS, word])
    if beside is not None:
        (tmp_path / "tokenizer_config.json").write_text("\ufeff" + json.dumps(beside), encoding="utf-8")
    assert resolve_casing(tmp_path / "vocab.txt", *given) == Casing(*expected)


def test_a_saved_model_has_the_vocabulary_and_both_settings(tmp_path: Path) -> None:
    """`transformers` reads the vocabulary: it must not have a byte order mark, but every white-space token."""
    tokens = [*SPECIAL_TOKENS, "\u2028", "über"]
    (tmp_path / "vocab.txt").write_bytes("\ufeff".encode() + "\r\n".join(tokens).encode())
    for given, expected in (
        ((None, None), (True, False)),
        ((False, None), (False, False)),
        ((None, True), (True, True)),
    ):
        save_model(tmp_path / "model", tiny_model(), tiny_config(), tmp_path / "vocab.txt", *given)
        settings = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
        assert (settings["do_lower_case"], settings["strip_accents"]) == expected
        assert (tmp_path / "model" / "vocab.txt").read_text() == "".join(f"{token}\n" for token in tokens)
        assert resolve_casing(tmp_path / "model" / "vocab.txt") == Casing(*expected)


def test_many_unknown_tokens_in_records_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pretrain` logs it with the casing, where it knows the vocabulary of the records."""
    tokens = [*SPECIAL_TOKENS, *map(str, range(VOCAB_SIZE - len(SPECIAL_TOKENS)))]
    write_vocab(tmp_path / "vocab.txt", tokens)
    monkeypatch.setattr(LOGGER, "propagate", True)
    for share in (0.0, 0.1):
        records = make_records(50, lengths=(100, 100))
        for record in records:
            record.input_ids[:] = 7
            record.input_ids[: round(100 * share)] = 1
        folder = write_folder(tmp_path / f"{share}", records)
        dataset = Dataset.open(folder, tmp_path / "index", build=True)
        caplog.clear()
        with caplog.at_level("INFO", LOGGER.name):
            log_vocabulary(dataset, tmp_path / "vocab.txt", None, None)
            log_vocabulary(dataset, None, None, None)
        texts = [record.getMessage() for record in caplog.records]
        assert "lowercased" in texts[0] and len(texts) == (2 if share else 1)
        assert not share or "10.0%" in texts[1]


def test_an_invalid_configuration_is_named(tmp_path: Path) -> None:
    write_vocab(tmp_path / "vocab.txt", [*SPECIAL_TOKENS, "a"])
    for content in ("[]", "{", "\x00"):
        (tmp_path / "tokenizer_config.json").write_text(content)
        with pytest.raises(InputError, match=r"tokenizer_config\.json"):
            resolve_casing(tmp_path / "vocab.txt")
    assert resolve_casing(tmp_path / "vocab.txt", True) == Casing(True, True)  # not needed
