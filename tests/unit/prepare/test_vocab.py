"""Vocabularies: the file, training, and `bert-large vocab`."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large import cli
from bert_large.errors import InputError
from bert_large.prepare import vocab
from bert_large.prepare.settings import VocabularySettings
from bert_large.prepare.tokenizer import WordPieceTokenizer
from bert_large.prepare.vocab import SPECIAL_TOKENS, TrainedVocabulary, make_vocabulary, read_vocab, train_vocab

BASE = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"
TEXT = "Low lower lowest, new newer newest; wide wider widest!\n" * 3
CHINESE = [chr(0x4E00 + number) for number in range(4000)]


def train(folder: Path, text: str, **settings: int | bool) -> TrainedVocabulary:
    path = folder / "text"
    path.write_text(text, encoding="utf-8")
    return train_vocab([path], VocabularySettings(**{"vocab_size": 60, **settings}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        (
            "[PAD]\n[MASK]\na\n[SEP]\n[CLS]\r\n[UNK]\n##\u00e9",
            ["[PAD]", "[MASK]", "a", "[SEP]", "[CLS]", "[UNK]", "##é"],
        ),
        (BASE.replace("\n", "\r\n") + "a\r\nb\r\n", [*SPECIAL_TOKENS, "a", "b"]),
        ("\ufeff" + BASE + "a\n", [*SPECIAL_TOKENS, "a"]),
        (BASE + "a\n\n\n", [*SPECIAL_TOKENS, "a"]),  # empty lines at the end move no id
        (
            BASE + "\u2028\n\u3000\n \n\t\n\r\n\x85\n\x0b\n x \n\ufeff\na\n",
            [*SPECIAL_TOKENS, "\u2028", "\u3000", " ", "\t", "\r", "\x85", "\x0b", " x ", "\ufeff", "a"],
        ),
    ],
)
def test_a_token_is_a_line_as_it_is_and_its_id_the_number(tmp_path: Path, content: str, tokens: list[str]) -> None:
    (tmp_path / "vocab").write_bytes(content.encode())
    read = read_vocab(tmp_path / "vocab")
    assert list(read.tokens) == tokens
    special = [read.tokens[index] for index in (read.mask_id, read.sep_id, read.cls_id, read.unk_id)]
    assert special == ["[MASK]", "[SEP]", "[CLS]", "[UNK]"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BASE + "a\nb\na\n", "line 8 .*'a' of line 6"),
        (BASE + "a\n\nb\n", "line 7 .*not delete it"),  # that would move the ids after it
        (BASE.replace("\n", "\r\n") + "a\r\n\r\nb\r\n", "line 7 "),
        ("a\n[PAD]\n[UNK]\n[SEP]\n", r"\[CLS\] \[MASK\]"),
        ("", r"\[PAD\]"),
        (b"caf\xe9\n", "line 1: byte 4 is 0xe9"),
    ],
)
def test_an_invalid_vocabulary_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    (tmp_path / "vocab").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=f"/vocab: .*{message}"):
        read_vocab(tmp_path / "vocab")


def test_a_path_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match=f"--vocab-file {path}: .*expected"):
            read_vocab(path)


def test_trained_tokens_are_special_ones_characters_and_merges(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "text").write_text(TEXT)
    summary = make_vocabulary(tmp_path / "in", tmp_path / "vocab", VocabularySettings(vocab_size=60))
    tokens = list(read_vocab(tmp_path / "vocab").tokens)
    assert f"wrote {len(tokens)} of at most 60" in summary
    assert tuple(tokens[:5]) == SPECIAL_TOKENS
    assert tokens[5:18] == [*"!,;deilnorstw"]
    assert tokens[18:27] == [f"##{letter}" for letter in "deiorstw"] + ["##we"]
    assert {"low", "new", "wide"} <= set(tokens)
    assert len(tokens) == len(set(tokens)) <= 60
    assert not any(token[2:] in ("!", ";") for token in tokens)  # punctuation is a word of its own
    assert (tmp_path / "vocab").read_bytes().startswith(b"[PAD]\n[UNK]\n")


def test_training_is_deterministic(tmp_path: Path) -> None:
    """The text has many pairs of equal frequency, which the trainer's hash tables would rank differently each time."""
    text = "\n".join(f"{a}{b}{c} {c}{a}{b}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx")
    trainings = [train(tmp_path, text, vocab_size=120, min_frequency=1).tokens for _ in range(5)]
    assert len(trainings[0]) == 120
    assert all(tokens == trainings[0] for tokens in trainings)


def test_settings_of_training_matter(tmp_path: Path) -> None:
    assert "low" not in train(tmp_path, TEXT, min_frequency=100).tokens
    assert "L" in train(tmp_path, TEXT, do_lower_case=False).tokens
    assert "L" not in train(tmp_path, TEXT).tokens
    accented = [train(tmp_path, "É é", do_lower_case=True, strip_accents=strip).tokens[5:] for strip in (True, False)]
    assert accented == [["e"], ["é"]]


def test_rare_characters_leave_their_words_unknown(tmp_path: Path) -> None:
    trained = train(tmp_path, "ab ab ab ax xb\n" * 3, vocab_size=20, limit_alphabet=2)
    assert trained.tokens == [*SPECIAL_TOKENS, "a", "b", "##b", "ab"]
    assert (trained.characters, trained.dropped, trained.unknown_share) == (3, 1, 0.4)


@pytest.mark.parametrize(
    ("vocab_size", "limit", "kept"), [(10_000, None, 4000), (30_522, None, 4000), (3000, None, 2994), (30_522, 50, 49)]
)
def test_a_script_of_thousands_of_characters_is_kept_whole(
    tmp_path: Path, vocab_size: int, limit: int | None, kept: int
) -> None:
    """As far as the vocabulary has room for it; a warning counts the characters that are left out."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "text").write_text("".join(CHINESE) * 2 + "。" * 3, encoding="utf-8")
    lines: list[str] = []
    settings = VocabularySettings(vocab_size=vocab_size, limit_alphabet=limit)
    make_vocabulary(tmp_path / "in", tmp_path / "vocab.txt", settings, log=lines.append)
    vocabulary = read_vocab(tmp_path / "vocab.txt")
    assert set(vocabulary.tokens) >= {"。", *CHINESE[:kept]} and len(set(vocabulary.tokens) & set(CHINESE)) == kept
    assert [line.split(":")[0] for line in lines] == ["warning"] * (kept < 4000)
    if kept < 4000:
        assert f" {4000 - kept} of 4001 " in lines[0] and "--limit-alphabet" in lines[0]
    (ids,) = WordPieceTokenizer(vocabulary, do_lower_case=True).encode(["".join(CHINESE)])
    assert ids.count(vocabulary.unk_id) == 4000 - kept


def test_foreign_scripts_do_not_displace_word_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocab, "_MAX_ALPHABET", 26)
    latin = "abcdefghijklmnopqrstuvwxyzßøđŧ"
    text = " ".join(f"{a}{b}" for a in latin for b in latin) + "".join(CHINESE[:10])
    trained = train(tmp_path, text, vocab_size=140, min_frequency=1)
    assert set(trained.tokens) & set(latin) == set(latin)
    assert not set(trained.tokens) & set(CHINESE) and trained.dropped == 10


def test_smallest_vocabulary_is_the_alphabet(tmp_path: Path) -> None:
    assert train(tmp_path, "ab ab ab", vocab_size=8).tokens == [*SPECIAL_TOKENS, "a", "b", "##b"]
    with pytest.raises(InputError, match=r"--vocab-size is 7, .* 8"):
        train(tmp_path, "ab ab ab", vocab_size=7)


def test_training_needs_words_and_valid_settings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the files of"):
        train(tmp_path, "\n \u200b\n")
    with pytest.raises(InputError, match=r"--min-frequency is 0.*--limit-alphabet is -1"):
        VocabularySettings(min_frequency=0, limit_alphabet=-1)


def test_the_command(tmp_path: Path, text_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text_dir / "part-0").write_text("ALPHA")
    output = tmp_path / "new" / "vocab.txt"
    command = ["vocab", f"--input-dir={text_dir}", f"--output-file={output}", "--vocab-size=60"]
    assert cli.main(command) == 0
    tokens = read_vocab(output).tokens
    assert "alpha" in tokens and "##A" not in tokens
    assert f"wrote {len(tokens)} of at most 60 tokens to {output}" in capsys.readouterr().out
    assert cli.main(command) == 2
    assert str(output) in capsys.readouterr().err
    assert cli.main([*command, "--overwrite", "--min-frequency=100000"]) == 0
    assert len(read_vocab(output).tokens) < len(tokens)
    assert cli.main([*command, "--overwrite", "--no-do-lower-case"]) == 0
    assert "##A" in read_vocab(output).tokens
    assert cli.main([*command, "--overwrite", "--vocab-size=9"]) == 2
    assert "--vocab-size is 9" in capsys.readouterr().err
