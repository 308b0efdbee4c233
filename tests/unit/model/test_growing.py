"""Tables of a published model with more rows: positions copied, words from their pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bert_large.errors import InputError
from bert_large.model.growing import grow_positions, grow_words, new_pieces
from bert_large.model.pretrained import load_model, load_to_train, save_model
from bert_large.prepare.vocab import SPECIAL_TOKENS, Vocabulary, extend, read_vocab, write_vocab

from tests.support.models import DISTILBERT, randomize, tiny_model
from tests.support.records import VOCAB_SIZE

TOKENS = [*SPECIAL_TOKENS, "ab", "##c", "##cd", "a", "##b"]
WORDS = "bert.embeddings.word_embeddings.weight"
POSITIONS = "bert.embeddings.position_embeddings.weight"


def vocabulary(path: Path, tokens: list[str]) -> Vocabulary:
    write_vocab(path, tokens)
    return read_vocab(path)


def test_positions_are_repeated() -> None:
    table = torch.randn(3, 5)
    assert torch.equal(grow_positions(table, 7), torch.cat([table, table, table[:1]]))


@pytest.mark.parametrize("shape", [(4, 3), (4,)])
def test_words_are_means_of_their_pieces(shape: tuple[int, ...]) -> None:
    table = torch.randn(shape)
    grown = grow_words(table, 7, {3: [0], 4: [1, 2], 5: []})
    assert torch.equal(grown[:3], table[:3]) and torch.equal(grown[3], table[0])
    torch.testing.assert_close(grown[4], (table[1] + table[2]) / 2)
    torch.testing.assert_close(grown[5:], table.mean(0).expand_as(grown[5:]))


def test_pieces_are_the_longest_from_the_start(tmp_path: Path) -> None:
    old = vocabulary(tmp_path / "vocab.txt", TOKENS)
    new = extend(old, ["abcd", "##ccd", "ax", "aab", "##bb"])
    assert new_pieces(old, new) == {10: [5, 7], 11: [6, 7], 12: [], 13: [], 14: [9, 9]}


@pytest.mark.parametrize("kind", [{}, DISTILBERT], ids=["bert", "distilbert"])
def test_a_model_with_more_positions_and_words(
    kind: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The folder has rows for more tokens than its vocabulary, as padded ones have: new tokens take them first."""
    small = tiny_model(max_position_embeddings=8, **kind)
    randomize(small)
    full, folder = tmp_path / "full.txt", tmp_path / "model"
    filler = [f"word{number}" for number in range(VOCAB_SIZE - len(TOKENS) - 1)]
    base = [*TOKENS, *filler]
    write_vocab(tmp_path / "vocab.txt", base)
    save_model(folder, small, small.config, tmp_path / "vocab.txt")
    write_vocab(full, [*base, "abcd", "##ccd"])

    large = tiny_model(seed=9, max_position_embeddings=12, vocab_size=VOCAB_SIZE + 3, **kind)
    with caplog.at_level("INFO", logger="bert_large"):
        load_to_train(folder, large, 1, full)
    expected, found = dict(small.named_parameters()), dict(large.named_parameters())
    for name, parameter in found.items():
        if name not in (WORDS, POSITIONS, "cls.predictions.bias"):
            assert torch.equal(parameter, expected[name]), name
    assert torch.equal(found[POSITIONS], torch.cat([expected[POSITIONS], expected[POSITIONS][:4]]))
    for name in (WORDS, "cls.predictions.bias"):
        table = expected[name]
        assert torch.equal(found[name][: VOCAB_SIZE - 1], table[:-1])
        torch.testing.assert_close(found[name][VOCAB_SIZE - 1], (table[5] + table[7]) / 2)
        torch.testing.assert_close(found[name][VOCAB_SIZE], (table[6] + table[7]) / 2)
        torch.testing.assert_close(found[name][-1], table.mean(0))
    assert "12" in caplog.text and str(VOCAB_SIZE + 3) in caplog.text
    with pytest.raises(InputError, match="_embeddings"):
        load_model(folder, large)


def test_rows_that_the_configuration_promises_are_not_made_up(tmp_path: Path) -> None:
    """A file with fewer rows than its own config.json says is refused, also for training."""
    small = tiny_model(max_position_embeddings=8)
    save_model(tmp_path, small, tiny_model(max_position_embeddings=16).config, None)
    with pytest.raises(InputError, match="position_embeddings"):
        load_to_train(tmp_path, tiny_model(max_position_embeddings=16), 1)
