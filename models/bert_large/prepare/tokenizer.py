"""Lines of text to WordPiece ids, equal to those of BERT's reference tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import WhitespaceSplit

from bert_large.prepare.normalizer import TextNormalizer
from bert_large.prepare.vocab import CONTINUATION, UNK, Vocabulary

# A longer word becomes [UNK]. This is the reference's limit; the default of `tokenizers` and `transformers` is 100.
MAX_WORD_CHARACTERS = 200


def word_piece_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Return a tokenizer with the model of `vocabulary` alone, without any rules for the text before it."""
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    limits = {"max_input_chars_per_word": MAX_WORD_CHARACTERS, "continuing_subword_prefix": CONTINUATION}
    return Tokenizer(WordPiece(ids, unk_token=UNK, **limits))


class WordPieceTokenizer:
    """Longest-match-first WordPiece tokens (Wu et al. 2016, arXiv:1609.08144) of normalized text."""

    def __init__(self, vocabulary: Vocabulary, *, do_lower_case: bool, strip_accents: bool | None = None) -> None:
        """If `strip_accents` is None, it is as `do_lower_case`."""
        self._normalize = TextNormalizer(do_lower_case=do_lower_case, strip_accents=strip_accents)
        self._tokenizer = word_piece_tokenizer(vocabulary)
        self._tokenizer.pre_tokenizer = WhitespaceSplit()
        self._added = vocabulary.added_ids
        longest_first = sorted(self._added, key=lambda token: (-len(token), token))
        self._parts = re.compile(f"({'|'.join(map(re.escape, longest_first))})") if self._added else None

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each line, without special tokens; a line without words gives an empty list."""
        if self._parts is None:
            return self._encode(lines)
        parts = [self._parts.split(line) for line in lines]  # every second part is an added token
        encoded = iter(self._encode([text for line in parts for text in line[::2]]))
        return [
            [number for place, text in enumerate(line)
             for number in ([self._added[text]] if place % 2 else next(encoded))]
            for line in parts
        ]  # fmt: skip

    def _encode(self, lines: Sequence[str]) -> list[list[int]]:
        normalized = [self._normalize(line) for line in lines]
        encodings = self._tokenizer.encode_batch_fast(normalized, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]
