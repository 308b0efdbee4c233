"""A published model's vocabulary with tokens added that its text needs: words that the vocabulary splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bert_large.errors import InputError
from bert_large.prepare.casing import Casing
from bert_large.prepare.normalizer import TextNormalizer
from bert_large.prepare.settings import VocabularySettings
from bert_large.prepare.text_files import Log, check_outputs, list_files, print_status
from bert_large.prepare.text_forms import require_sentences
from bert_large.prepare.tokenizer import word_piece_tokenizer
from bert_large.prepare.tokenizer_files import ADDED_TOKENS_FILE, TOKENIZER_CONFIG_FILE, VOCAB_FILE
from bert_large.prepare.vocab import Vocabulary, extend, read_vocab, train_vocab, words_of, write_vocab
from bert_large.storage.atomic import write_json
from bert_large.storage.output_folder import make_folder


def make_extended_vocabulary(
    input_dir: Path,
    vocab_file: Path,
    output_file: Path,
    count: int,
    *,
    casing: Casing,
    overwrite: bool,
    log: Log = print_status,
) -> str:
    """Add `count` tokens of the text in a folder to a vocabulary, write it, and return a summary.

    Ids of the old tokens stay. How letters are treated, and tokens that were added before, are written beside it, as in
    a model folder. Raises `InputError` for files that are not text, and if the output exists.
    """
    if output_file.name != VOCAB_FILE:
        raise InputError(f"--output-file is {output_file}, expected a file called {VOCAB_FILE}, as in a model folder")
    files = list_files(input_dir, recursive=False, log=log)
    beside = [output_file.with_name(TOKENIZER_CONFIG_FILE), output_file.with_name(ADDED_TOKENS_FILE)]
    check_outputs([output_file, *beside], input_dir=input_dir, overwrite=overwrite)
    for path in files:
        require_sentences(path)
    base = read_vocab(vocab_file)
    words = Counter(word for line in words_of(files, TextNormalizer(**casing.letters)) for word in line)
    found = choose_tokens(base, words, train_candidates(base, files, count, casing), count)
    make_folder(output_file.parent)
    if base.added:
        write_json(beside[1], base.added_ids)
    else:
        beside[1].unlink(missing_ok=True)
    write_json(beside[0], casing.letters)
    write_vocab(output_file, [*base.tokens, *found])
    before, after = (count_tokens(vocabulary, words) for vocabulary in (base, extend(base, found)))
    return (
        f"wrote {len(base.tokens) + len(found)} tokens to {output_file}, {len(found)} of at most {count} new; the "
        f"text's {words.total()} words have {after} tokens, before {before}"
    )


def train_candidates(base: Vocabulary, files: Sequence[Path], count: int, casing: Casing) -> list[str]:
    """Return the tokens of a vocabulary of this text alone that `base` does not have."""
    size = max(len(base.tokens), VocabularySettings.vocab_size) + count
    trained = train_vocab(files, VocabularySettings(vocab_size=size, **casing.letters))
    return sorted(set(trained.tokens) - set(base.tokens))


def choose_tokens(base: Vocabulary, words: Mapping[str, int], candidates: Sequence[str], count: int) -> list[str]:
    """Return the candidates that shorten the text most, at most `count`, the best first.

    A candidate gets an equal part of what is saved in each word that uses it: the tokens that the word has less, or one
    for a word that was [UNK].
    """
    saved: dict[str, float] = {}
    known = set(base.tokens)
    before, after = _splitter(base), _splitter(extend(base, candidates))
    for word, occurrences in words.items():
        old, new = before(word), after(word)
        used = [token for token in new if token not in known]
        for token in used:
            gain = 1 if base.tokens[base.unk_id] in old else len(old) - len(new)
            saved[token] = saved.get(token, 0.0) + occurrences * gain / len(used)
    useful = [token for token, gain in saved.items() if gain > 0]
    return sorted(useful, key=lambda token: (-saved[token], token))[:count]


def count_tokens(vocabulary: Vocabulary, words: Mapping[str, int]) -> int:
    """Return the number of tokens of words with their occurrences."""
    split = _splitter(vocabulary)
    return sum(occurrences * len(split(word)) for word, occurrences in words.items())


def _splitter(vocabulary: Vocabulary) -> Callable[[str], list[str]]:
    """Return a function that splits a word into the tokens of a vocabulary."""
    model = word_piece_tokenizer(vocabulary).model
    return lambda word: [token.value for token in model.tokenize(word)]
