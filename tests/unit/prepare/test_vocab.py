from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.errors import InputError
from bert_large.prepare import vocab
from bert_large.prepare.vocab import SPECIAL_TOKENS, read_vocab, train_vocab, write_vocab

BASE = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"
TEXT = "Low lower lowest, new newer newest; wide wider widest!\n" * 3


def train(folder: Path, text: str, *, vocab_size: int = 60, min_frequency: int = 2, lower: bool = True) -> list[str]:
    path = folder / "text"
    path.write_text(text, encoding="utf-8")
    return train_vocab([path], vocab_size=vocab_size, min_frequency=min_frequency, do_lower_case=lower)


def test_ids_are_line_numbers(tmp_path: Path) -> None:
    (tmp_path / "vocab").write_text("[PAD]\n[MASK]\na\n[SEP]\n[CLS]\r\n[UNK]\n##\u00e9")
    read = read_vocab(tmp_path / "vocab")
    assert read.tokens == ("[PAD]", "[MASK]", "a", "[SEP]", "[CLS]", "[UNK]", "##é")
    assert (read.mask_id, read.sep_id, read.cls_id, read.unk_id) == (1, 3, 4, 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BASE + "a\nb\na\n", "line 8 repeats 'a' of line 6"),
        (BASE + "a\n\nb\n", "line 7 is blank"),
        ("a\n[PAD]\n[UNK]\n[SEP]\n", r"4 tokens without \[CLS\] \[MASK\]"),
        ("", r"0 tokens without \[PAD\]"),
    ],
)
def test_wrong_vocabulary_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "vocab").write_text(content)
    with pytest.raises(InputError, match=message):
        read_vocab(tmp_path / "vocab")


def test_unreadable_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: No such file"):
        read_vocab(tmp_path / "none")
    with pytest.raises(InputError, match="Is a directory"):
        read_vocab(tmp_path)
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    with pytest.raises(InputError, match="byte 3: 0xe9 is not UTF-8"):
        read_vocab(tmp_path / "latin")


def test_trained_tokens_are_special_ones_characters_and_merges(tmp_path: Path) -> None:
    tokens = train(tmp_path, TEXT)
    assert tuple(tokens[:5]) == SPECIAL_TOKENS
    assert tokens[5:18] == [*"!,;deilnorstw"]
    assert tokens[18:27] == [f"##{letter}" for letter in "deiorstw"] + ["##we"]
    assert {"low", "new", "wide"} <= set(tokens)
    assert len(tokens) == len(set(tokens)) <= 60
    assert not any(token[2:] in ("!", ";") for token in tokens)  # punctuation is a word of its own
    write_vocab(tmp_path / "vocab", tokens)
    assert read_vocab(tmp_path / "vocab").tokens == tuple(tokens)
    assert (tmp_path / "vocab").read_bytes().startswith(b"[PAD]\n[UNK]\n")


def test_training_is_deterministic(tmp_path: Path) -> None:
    """Many ties between pairs, which hash tables of the trainer would break differently each time."""
    text = "\n".join(f"{a}{b}{c} {c}{a}{b}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx")
    trainings = [train(tmp_path, text, vocab_size=120, min_frequency=1) for _ in range(5)]
    assert len(trainings[0]) == 120
    assert all(tokens == trainings[0] for tokens in trainings)


def test_settings_of_training_matter(tmp_path: Path) -> None:
    assert "low" not in train(tmp_path, TEXT, min_frequency=100)
    assert "L" in train(tmp_path, TEXT, lower=False)
    assert "L" not in train(tmp_path, TEXT)


def test_rare_characters_leave_their_words_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocab, "MAX_ALPHABET", 2)
    tokens = train(tmp_path, "ab ab ab ax xb\n" * 3, vocab_size=20)
    assert tokens == [*SPECIAL_TOKENS, "a", "b", "##b", "ab"]


def test_smallest_vocabulary_is_the_alphabet(tmp_path: Path) -> None:
    assert train(tmp_path, "ab ab ab", vocab_size=8) == [*SPECIAL_TOKENS, "a", "b", "##b"]
    with pytest.raises(InputError, match="--vocab-size is 7, but the text's characters alone need 8"):
        train(tmp_path, "ab ab ab", vocab_size=7)


def test_training_needs_words_and_sense(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="have no words"):
        train(tmp_path, "\n \u200b\n")
    with pytest.raises(InputError, match="--min-frequency is 0"):
        train(tmp_path, TEXT, min_frequency=0)
