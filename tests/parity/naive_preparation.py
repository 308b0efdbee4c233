"""The rules of BERT's data preparation implemented a second time, as plainly as possible.

This does the same as `bert-large prepare` without its arrays, ranges and tables: tokens are strings, documents are
lists of lists of them, and every step copies. It shares no code with the package and follows Google's BasicTokenizer,
WordpieceTokenizer and create_pretraining_data, which MLCommons' script kept. A test verifies that it makes the records
of MLCommons' script. It is slow, for small texts.
"""

from __future__ import annotations

import random
import unicodedata
from dataclasses import dataclass

CJK = [
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
]


@dataclass
class Settings:
    """The names and meanings of the reference's flags."""

    max_seq_length: int
    max_predictions_per_seq: int
    dupe_factor: int
    random_seed: int
    short_seq_prob: float = 0.1
    masked_lm_prob: float = 0.15
    do_lower_case: bool = True


@dataclass
class NaiveRecord:
    """One record as lists without padding."""

    input_ids: list[int]
    segment_ids: list[int]
    masked_lm_positions: list[int]
    masked_lm_ids: list[int]
    next_sentence_label: int


def is_whitespace(character: str) -> bool:
    return character in " \t\n\r" or unicodedata.category(character) == "Zs"


def is_control(character: str) -> bool:
    # Tab and line ends are of category Cc as well, but count as white space. Unassigned and private-use characters
    # (Cn, Co) are not control characters: they stay, and make their word unknown.
    return character not in "\t\n\r" and unicodedata.category(character) in ("Cc", "Cf")


def is_punctuation(character: str) -> bool:
    # Every printable ASCII character but letters and digits, also those that Unicode calls symbols ($ ^ `).
    if 33 <= ord(character) <= 126 and not character.isalnum():
        return True
    return unicodedata.category(character).startswith("P")


def basic_tokenize(text: str, do_lower_case: bool) -> list[str]:
    cleaned = ""
    for character in text:
        if character in "\0\ufffd" or is_control(character):
            continue  # without a space in its place: a zero-width space does not separate words
        cleaned += " " if is_whitespace(character) else character
    spaced = ""
    for character in cleaned:
        is_cjk = any(first <= ord(character) <= last for first, last in CJK)
        spaced += f" {character} " if is_cjk else character
    words: list[str] = []
    for word in spaced.split():  # splits at white space of every kind, also Unicode's line separators
        if do_lower_case:
            # Lowercase first: a mark that it adds (the dot of a Turkish capital I) is then stripped like an accent.
            word = "".join(c for c in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(c) != "Mn")
        current = ""
        for character in word:
            if is_punctuation(character):
                words += [current, character]
                current = ""
            else:
                current += character
        words.append(current)
    return " ".join(words).split()


def wordpiece_tokenize(word: str, vocab: dict[str, int]) -> list[str]:
    if len(word) > 200:  # characters, not bytes; 200 are still split into pieces
        return ["[UNK]"]
    pieces: list[str] = []
    start = 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocab:
                break
        else:
            return ["[UNK]"]  # the whole word, not only the part that does not fit
        pieces.append(piece)
        start = end
    return pieces


def tokenize(text: str, vocab: dict[str, int], do_lower_case: bool) -> list[str]:
    return [piece for word in basic_tokenize(text, do_lower_case) for piece in wordpiece_tokenize(word, vocab)]


def read_documents(text: str, vocab: dict[str, int], do_lower_case: bool) -> list[list[list[str]]]:
    documents: list[list[list[str]]] = [[]]
    for line in text.split("\n"):  # other line ends that Python knows do not end a sentence
        stripped = line.strip()
        if not stripped:
            documents.append([])
        # A line of characters without tokens (zero-width ones) is not a sentence, and does not end the document.
        tokens = tokenize(stripped, vocab, do_lower_case)
        if tokens:
            documents[-1].append(tokens)
    return [document for document in documents if document]


def make_records(text: str, vocab_words: list[str], settings: Settings) -> list[NaiveRecord]:
    vocab = {word: number for number, word in enumerate(vocab_words)}
    rng = random.Random(settings.random_seed)
    documents = read_documents(text, vocab, settings.do_lower_case)
    rng.shuffle(documents)
    records: list[NaiveRecord] = []
    for _ in range(settings.dupe_factor):
        for number in range(len(documents)):
            records += records_of_document(documents, number, vocab, vocab_words, settings, rng)
    rng.shuffle(records)
    return records


def records_of_document(
    documents: list[list[list[str]]],
    number: int,
    vocab: dict[str, int],
    vocab_words: list[str],
    settings: Settings,
    rng: random.Random,
) -> list[NaiveRecord]:
    document = documents[number]
    max_tokens = settings.max_seq_length - 3
    target = max_tokens
    if rng.random() < settings.short_seq_prob:  # drawn once per pass over a document, not per record
        target = rng.randint(2, max_tokens)
    records = []
    chunk: list[list[str]] = []
    i = 0
    while i < len(document):
        chunk.append(document[i])
        if i == len(document) - 1 or sum(map(len, chunk)) >= target:
            a_end = 1 if len(chunk) == 1 else rng.randint(1, len(chunk) - 1)
            tokens_a = [token for sentence in chunk[:a_end] for token in sentence]
            tokens_b: list[str] = []
            # `or` matters: for a chunk of one sentence there is no draw.
            is_random_next = len(chunk) == 1 or rng.random() < 0.5
            if is_random_next:
                # After ten bad draws, or with a single document, B is from this document and still labeled as random.
                for _ in range(10):
                    other = rng.randint(0, len(documents) - 1)
                    if other != number:
                        break
                start = rng.randint(0, len(documents[other]) - 1)
                for sentence in documents[other][start:]:
                    tokens_b += sentence
                    if len(tokens_b) >= target - len(tokens_a):  # which may be negative: one sentence is taken
                        break
                i -= len(chunk) - a_end  # the sentences that B did not use begin the next chunk
            else:
                tokens_b = [token for sentence in chunk[a_end:] for token in sentence]
            while len(tokens_a) + len(tokens_b) > max_tokens:  # to the longest allowed, not to the target
                longer = tokens_a if len(tokens_a) > len(tokens_b) else tokens_b
                if rng.random() < 0.5:
                    del longer[0]
                else:
                    longer.pop()
            records.append(mask(tokens_a, tokens_b, is_random_next, vocab, vocab_words, settings, rng))
            chunk = []
        i += 1
    return records


def mask(
    tokens_a: list[str],
    tokens_b: list[str],
    is_random_next: bool,
    vocab: dict[str, int],
    vocab_words: list[str],
    settings: Settings,
    rng: random.Random,
) -> NaiveRecord:
    tokens = ["[CLS]", *tokens_a, "[SEP]", *tokens_b, "[SEP]"]
    segments = [0] * (len(tokens_a) + 2) + [1] * (len(tokens_b) + 1)
    # [UNK] can be masked; the share is of all tokens, [CLS] and [SEP] included.
    candidates = [i for i, token in enumerate(tokens) if token not in ("[CLS]", "[SEP]")]
    rng.shuffle(candidates)
    count = min(settings.max_predictions_per_seq, max(1, round(len(tokens) * settings.masked_lm_prob)))
    shown, labels = list(tokens), {}
    for position in candidates[:count]:
        if rng.random() < 0.8:
            replacement = "[MASK]"
        elif rng.random() < 0.5:
            replacement = tokens[position]
        else:
            replacement = vocab_words[rng.randint(0, len(vocab_words) - 1)]  # special tokens and all
        labels[position] = tokens[position]
        shown[position] = replacement
    positions = sorted(labels)
    return NaiveRecord(
        input_ids=[vocab[token] for token in shown],
        segment_ids=segments,
        masked_lm_positions=positions,
        masked_lm_ids=[vocab[labels[position]] for position in positions],
        next_sentence_label=int(is_random_next),
    )
