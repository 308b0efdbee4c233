"""A tokenizer with few tokens, which is quick to make."""

from __future__ import annotations

import string
from typing import Any

from bert_large.prepare.vocab import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK

PIECES = [*SPECIAL_TOKENS, *string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), *".,-"]


def word_tokenizer() -> Any:
    """Return a fast tokenizer of `transformers` that lowercases text and whose tokens are `PIECES`: single letters."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordPiece({piece: index for index, piece in enumerate(PIECES)}, unk_token=UNK))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNK, cls_token=CLS, sep_token=SEP, mask_token=MASK
    )
