"""A WordPiece vocabulary: its file (one token per line, the line number is the id) and its training."""

from __future__ import annotations

import dataclasses
import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.trainers import WordPieceTrainer

from bert_large.errors import InputError
from bert_large.prepare.normalizer import TextNormalizer
from bert_large.prepare.settings import VocabularySettings
from bert_large.prepare.text_files import Log, check_outputs, decode_lines, list_files, print_status, read_lines
from bert_large.prepare.text_forms import require_sentences
from bert_large.prepare.tokenizer_files import TOKENIZER_FILE, VOCAB_FILE, read_added_tokens, read_word_pieces
from bert_large.storage.atomic import crc32c_of_bytes, write_atomically
from bert_large.storage.integrity import FileFacts
from bert_large.storage.output_folder import make_folder

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUATION = "##"
MOST_UNKNOWN = 0.03
"""Share of [UNK] above which a vocabulary does not fit a text. It is below 1% where it does."""
_MAX_ALPHABET = 1000
_WHOLE_SCRIPT_SHARE = 0.01
"""Scripts with at least this share of the text's characters keep all their characters."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """WordPiece tokens; the id of a token is its index in `tokens`."""

    tokens: tuple[str, ...]
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    added: tuple[str, ...] = ()
    """Tokens that were added to a published model: they are found in the text as they are written, before WordPiece."""

    @property
    def added_ids(self) -> dict[str, int]:
        """The ids of the added tokens."""
        return {token: self.tokens.index(token) for token in self.added}

    @property
    def facts(self) -> FileFacts:
        """Size and checksum of the vocabulary as `write_vocab` writes it: equal for equal tokens."""
        content = _content(self.tokens)
        return FileFacts(len(content), crc32c_of_bytes(content))

    def difference(self, other: Vocabulary) -> str | None:
        """Return the first id that has another token in `other`, in words; None if one continues the other."""
        for number, (own, theirs) in enumerate(zip(self.tokens, other.tokens, strict=False)):
            if own != theirs:
                return f"token {number} is {own!r} and not {theirs!r}"
        return None


def read_vocab(path: Path) -> Vocabulary:
    """Read a vocabulary file; `vocab.txt` or `tokenizer.json` of a model folder with the folder's added tokens.

    Every line is a token as it is, also white space: published vocabularies have a token U+2028. Raises `InputError`
    for an empty or duplicate line and for a missing special token.
    """
    if path.is_dir() or not path.exists():
        found = "It is a folder" if path.is_dir() else "No such file"
        raise InputError(f"--vocab-file {path}: {found}; expected a file with one token per line")
    tokens = read_word_pieces(path) if path.suffix == ".json" else _tokens_of(path)
    added: list[str] = []
    if path.name in (VOCAB_FILE, TOKENIZER_FILE):
        tokens, added = read_added_tokens(path.parent, tokens)
    ids: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if not token:
            raise InputError(
                f"--vocab-file {path}: line {index + 1} is empty, but every line is a token and its number the id. Do "
                "not delete it, which would change all ids after it; put an unused token there, such as [unused0]"
            )
        if token in ids:
            raise InputError(
                f"--vocab-file {path}: line {index + 1} repeats {token!r} of line {ids[token] + 1}, but a token has "
                "one id; use the vocabulary that the model is trained with"
            )
        ids[token] = index
    missing = [token for token in SPECIAL_TOKENS if token not in ids]
    if missing:
        raise InputError(
            f"--vocab-file {path}: {len(tokens)} tokens without {' '.join(missing)}; expected a BERT vocabulary "
            "(`bert-large vocab` makes one)"
        )
    matched = tuple(token for token in added if token not in SPECIAL_TOKENS)
    special = {"unk_id": ids[UNK], "cls_id": ids[CLS], "sep_id": ids[SEP], "mask_id": ids[MASK]}
    return Vocabulary(tuple(tokens), **special, added=matched)


def extend(vocabulary: Vocabulary, tokens: Iterable[str]) -> Vocabulary:
    """Return a vocabulary with further tokens after its own."""
    return dataclasses.replace(vocabulary, tokens=(*vocabulary.tokens, *tokens))


def _tokens_of(path: Path) -> list[str]:
    """Return the lines of a file without their line feeds, and without empty lines at the end.

    In a file whose first line ends with a carriage return and a line feed, that is the line end.
    """
    tokens = [line.removesuffix("\n") for line in decode_lines(path)]
    if tokens and tokens[0].endswith("\r"):
        tokens = [token.removesuffix("\r") for token in tokens]
    else:  # a carriage return alone is a token
        tokens = [token if token == "\r" else token.removesuffix("\r") for token in tokens]
    while tokens and not tokens[-1]:
        tokens.pop()
    return tokens


def write_vocab(path: Path, tokens: Iterable[str]) -> None:
    """Write a vocabulary file atomically."""
    with write_atomically(path) as file:
        file.write(_content(tokens))


def _content(tokens: Iterable[str]) -> bytes:
    return "".join(f"{token}\n" for token in tokens).encode()


def make_vocabulary(
    input_dir: Path,
    output_file: Path,
    settings: VocabularySettings,
    *,
    overwrite: bool = False,
    log: Log = print_status,
) -> str:
    """Train a vocabulary on the text files of a folder, write it, and return a summary.

    `log` receives a warning of characters without a token. Raises `InputError` for files that are not text, and if the
    output exists.
    """
    files = list_files(input_dir, recursive=False, log=log)
    check_outputs([output_file], input_dir=input_dir, overwrite=overwrite)
    for path in files:
        require_sentences(path)
    trained = train_vocab(files, settings)
    if trained.dropped:
        log(
            f"warning: {trained.dropped} of {trained.characters} different characters have no token, which makes "
            f"{trained.unknown_share:.2%} of the words {UNK}; to keep more, raise --vocab-size or --limit-alphabet"
        )
    make_folder(output_file.parent)
    write_vocab(output_file, trained.tokens)
    return f"wrote {len(trained.tokens)} of at most {settings.vocab_size} tokens to {output_file}"


@dataclass(frozen=True, slots=True)
class TrainedVocabulary:
    """The tokens of a trained vocabulary, and what they leave out of its text."""

    tokens: list[str]
    characters: int
    """Different characters in the text."""
    dropped: int
    """Characters without a token."""
    unknown_share: float
    """Share of the words that have such a character."""


def train_vocab(files: Sequence[Path], settings: VocabularySettings) -> TrainedVocabulary:
    """Train a vocabulary on text files: special tokens, characters, then merged pieces.

    It has `vocab_size` tokens, or fewer if no pair of pieces is left that occurs `min_frequency` times. The same text
    gives the same tokens. Raises `InputError` if the text has no words, or too many characters for `vocab_size`.
    """
    normalize = TextNormalizer(do_lower_case=settings.do_lower_case, strip_accents=settings.strip_accents)
    characters, continuations = _count_characters(words_of(files, normalize))
    if not characters:
        raise InputError(f"the files of {files[0].parent} have no words; expected text")
    ranked = sorted(characters, key=lambda character: (-characters[character], character))
    alphabet = _choose_alphabet(ranked, characters, continuations, settings)
    # Passing these tokens to the trainer fixes their ids. Otherwise it numbers them in the order of its hash table,
    # which differs in every run, and breaks ties between equally frequent pairs by these numbers.
    continued = [CONTINUATION + character for character in sorted(alphabet & continuations)]
    first_tokens = [*SPECIAL_TOKENS, *sorted(alphabet), *continued]
    if settings.vocab_size < len(first_tokens):
        raise InputError(
            f"--vocab-size is {settings.vocab_size}, but the text's characters alone need {len(first_tokens)}; raise "
            "it, or lower --limit-alphabet"
        )
    trainer = WordPieceTrainer(
        vocab_size=settings.vocab_size,
        min_frequency=settings.min_frequency,
        special_tokens=first_tokens,
        continuing_subword_prefix=CONTINUATION,
        show_progress=False,
    )
    tokenizer = Tokenizer(WordPiece(unk_token=UNK))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    lines = (" ".join(filter(alphabet.issuperset, words)) for words in words_of(files, normalize))
    tokenizer.train_from_iterator(lines, trainer=trainer)
    ids = tokenizer.get_vocab()
    tokens = sorted(ids, key=ids.__getitem__)
    if settings.limit_alphabet is None:
        rare = [character for character in ranked if character not in alphabet]
        alphabet |= _fill(tokens, rare, continuations, settings.vocab_size)
    dropped = len(characters) - len(alphabet)
    share = _unknown_share(words_of(files, normalize), alphabet) if dropped else 0.0
    return TrainedVocabulary(tokens, len(characters), dropped, share)


def _fill(tokens: list[str], rare: list[str], continuations: set[str], vocab_size: int) -> set[str]:
    """Append and return rare characters while there is room: text of ideographs, each a word, has few merges."""
    added = set()
    for character in rare:
        pieces = [character, *([CONTINUATION + character] if character in continuations else [])]
        if len(tokens) + len(pieces) > vocab_size:
            break
        tokens += pieces
        added.add(character)
    return added


def _choose_alphabet(
    ranked: list[str], characters: Counter[str], continuations: set[str], settings: VocabularySettings
) -> frozenset[str]:
    """Return the characters that get a token before WordPiece tokens are made of them; `ranked` by frequency.

    By default these are the most frequent 1000, so that rare characters do not displace longer tokens, and all
    characters of the text's own scripts: Chinese uses thousands. The latter may take up to half of the vocabulary.
    """
    if settings.limit_alphabet is not None:
        return frozenset(ranked[: settings.limit_alphabet])
    scripts: Counter[str] = Counter()
    for character, count in characters.items():
        scripts[_script(character)] += count
    fewest = _WHOLE_SCRIPT_SHARE * characters.total()
    chosen = ranked[:_MAX_ALPHABET]
    used = sum(1 + (character in continuations) for character in chosen)
    for character in ranked[_MAX_ALPHABET:]:
        needed = 1 + (character in continuations)
        if scripts[_script(character)] >= fewest and used + needed <= settings.vocab_size // 2:
            chosen.append(character)
            used += needed
    return frozenset(chosen)


def _script(character: str) -> str:
    """Return the first word of a character's Unicode name, such as LATIN, CJK or HANGUL."""
    return unicodedata.name(character, "NONE").split()[0]


def words_of(files: Sequence[Path], normalize: TextNormalizer) -> Iterator[list[str]]:
    """Yield the words of every line."""
    for line in itertools.chain.from_iterable(map(read_lines, files)):
        yield normalize(line).split()


def _unknown_share(lines: Iterable[list[str]], alphabet: frozenset[str]) -> float:
    """Return the share of the words that have characters outside of the alphabet."""
    known = Counter(alphabet.issuperset(word) for line in lines for word in line)
    return known[False] / known.total()


def _count_characters(lines: Iterable[list[str]]) -> tuple[Counter[str], set[str]]:
    """Return the frequency of each character, and the characters that continue a word."""
    characters: Counter[str] = Counter()
    continuations: set[str] = set()
    for words in lines:
        for word in words:
            characters.update(word)
            continuations.update(word[1:])
    return characters, continuations
