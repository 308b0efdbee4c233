"""A word-piece vocabulary: its file (one token a line, the line number is the id) and its training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.trainers import WordPieceTrainer

from bert_large.errors import InputError
from bert_large.prepare.documents import read_lines
from bert_large.prepare.normalizer import TextNormalizer
from bert_large.storage.atomic import write_atomically

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUATION = "##"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
# Rarer characters than this many make their words [UNK]: they would take places from word pieces.
MAX_ALPHABET = 1000


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Word pieces; a token's id is its place in `tokens`."""

    tokens: tuple[str, ...]
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int

    @property
    def is_lower_case(self) -> bool:
        """No word piece has a capital: text must be lowered, or words with capitals would all be unknown."""
        return not any(token != token.lower() and not token.startswith("[") for token in self.tokens)


def read_vocab(path: Path) -> Vocabulary:
    """Read a vocabulary file; raise `InputError` for a blank or duplicate line or a missing special token."""
    try:
        tokens = tuple(read_lines(path))
    except OSError as error:
        raise InputError(f"--vocab-file {path}: {error.strerror}; expected a file with one token a line") from error
    ids: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if not token:
            raise InputError(f"--vocab-file {path}: line {index + 1} is blank; every line is a token, delete it")
        if token in ids:
            raise InputError(
                f"--vocab-file {path}: line {index + 1} repeats {token!r} of line {ids[token] + 1}; "
                "a token has one id, take the vocabulary that the model is trained with"
            )
        ids[token] = index
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise InputError(
            f"--vocab-file {path}: {len(tokens)} tokens without {' '.join(missing)}; expected a BERT vocabulary "
            "(`bert-large vocab` makes one)"
        )
    return Vocabulary(tokens, unk_id=ids[UNK], cls_id=ids[CLS], sep_id=ids[SEP], mask_id=ids[MASK])


def lowers_text(vocab_file: Path) -> bool:
    """Tell if text is lowered for a vocabulary: what `tokenizer_config.json` beside it says, else how its words look.

    A `model_save` folder has that file. Raises `InputError` if it cannot be understood.
    """
    path = vocab_file.parent / TOKENIZER_CONFIG_FILE
    try:
        lowers = json.loads(path.read_bytes()).get("do_lower_case")
    except FileNotFoundError:
        lowers = None
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a tokenizer's configuration: {error}; mend it, or move it away") from None
    return lowers if isinstance(lowers, bool) else read_vocab(vocab_file).is_lower_case


def write_vocab(path: Path, tokens: Iterable[str]) -> None:
    """Write a vocabulary file, whole or not at all."""
    with write_atomically(path) as file:
        file.writelines(f"{token}\n".encode() for token in tokens)


def train_vocab(files: list[Path], *, vocab_size: int, min_frequency: int, do_lower_case: bool) -> list[str]:
    """Train a vocabulary on text files and return its tokens: special tokens, characters, then merged pieces.

    It has `vocab_size` tokens, or fewer when no pair of pieces is left that occurs `min_frequency` times. The same
    text gives the same tokens. Raises `InputError` if the text has no words, or more characters than `vocab_size`.
    """
    if min_frequency < 1:
        raise InputError(f"--min-frequency is {min_frequency}, expected at least 1")
    normalize = TextNormalizer(do_lower_case=do_lower_case)
    characters, continuations = _count_characters(_words(files, normalize))
    if not characters:
        raise InputError(f"the {len(files)} files of {files[0].parent} have no words; expected text")
    alphabet = frozenset(sorted(characters, key=lambda character: (-characters[character], character))[:MAX_ALPHABET])
    # Handing these over first fixes their ids. Otherwise the trainer numbers them in the order of its hash table,
    # different in every run, and breaks ties between equally frequent pairs by these numbers.
    first_tokens = [
        *SPECIAL_TOKENS,
        *sorted(alphabet),
        *(CONTINUATION + character for character in sorted(alphabet & continuations)),
    ]
    if vocab_size < len(first_tokens):
        raise InputError(f"--vocab-size is {vocab_size}, but the text's characters alone need {len(first_tokens)}")
    trainer = WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=first_tokens,
        continuing_subword_prefix=CONTINUATION,
        show_progress=False,
    )
    tokenizer = Tokenizer(WordPiece(unk_token=UNK))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    lines = (" ".join(filter(alphabet.issuperset, words)) for words in _words(files, normalize))
    tokenizer.train_from_iterator(lines, trainer=trainer)
    ids = tokenizer.get_vocab()
    return sorted(ids, key=ids.__getitem__)


def _words(files: list[Path], normalize: TextNormalizer) -> Iterator[list[str]]:
    """Yield the words of every line."""
    for path in files:
        for line in read_lines(path):
            yield normalize(line).split()


def _count_characters(lines: Iterable[list[str]]) -> tuple[Counter[str], set[str]]:
    """Return how often each character occurs, and which ones continue a word."""
    characters: Counter[str] = Counter()
    continuations: set[str] = set()
    for words in lines:
        for word in words:
            characters.update(word)
            continuations.update(word[1:])
    return characters, continuations
