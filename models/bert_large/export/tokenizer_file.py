"""The package's tokenizer as a `tokenizer.json` for the `tokenizers` library.

The library's own BERT rules differ from the reference's (see `prepare.normalizer`). Here its general rules get the
character classes of Python's Unicode tables, so that the ids are those of `prepare`. The remaining differences are
letters that are in the library's tables of lower case and not in those of an older Python (55 code points with Python
3.11), and one decomposition.
"""

from __future__ import annotations

import functools
import sys
import unicodedata
from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders
from tokenizers.normalizers import NFD, Lowercase, Normalizer, Replace
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.pre_tokenizers import Split, WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from bert_large.prepare.normalizer import TextNormalizer
from bert_large.prepare.tokenizer import word_piece_tokenizer
from bert_large.prepare.vocab import CLS, CONTINUATION, MASK, PAD, SEP, SPECIAL_TOKENS, UNK, Vocabulary

_SIGMA, _FINAL_SIGMA = "\N{GREEK CAPITAL LETTER SIGMA}", "\N{GREEK SMALL LETTER FINAL SIGMA}"
_SURROGATES = range(0xD800, 0xE000)


def build_tokenizer(vocabulary: Vocabulary, *, do_lower_case: bool, strip_accents: bool) -> Tokenizer:
    """Return a tokenizer with the ids of `WordPieceTokenizer` between [CLS] and [SEP].

    Unlike there, special tokens such as `[MASK]` are recognized in the text, as added tokens are.
    """
    tokenizer = word_piece_tokenizer(vocabulary)
    tokenizer.normalizer = _normalizer(do_lower_case, strip_accents)
    _, alone = _removed_and_alone()
    tokenizer.pre_tokenizer = PreTokenizers([WhitespaceSplit(), Split(Regex(alone), "isolated")])
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUATION)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in vocabulary.added])
    tokenizer.post_processor = TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(CLS, vocabulary.cls_id), (SEP, vocabulary.sep_id)],
    )
    return tokenizer


def tokenizer_settings(*, do_lower_case: bool, strip_accents: bool, max_length: int, segments: bool) -> dict[str, Any]:
    """Return the settings of transformers' tokenizer beside `tokenizer.json`; `segments`: the model has segments."""
    return {
        "do_lower_case": do_lower_case,
        "strip_accents": strip_accents,
        "model_max_length": max_length,
        "model_input_names": ["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"],
        "pad_token": PAD,
        "unk_token": UNK,
        "cls_token": CLS,
        "sep_token": SEP,
        "mask_token": MASK,
    }


def _normalizer(do_lower_case: bool, strip_accents: bool) -> Normalizer:
    removed, _ = _removed_and_alone()
    steps: list[Normalizer] = [Replace(Regex("[\t\n\r]"), " "), Replace(Regex(removed), "")]
    if do_lower_case:
        steps += [Replace(Regex(_final_sigmas()), _FINAL_SIGMA), Lowercase()]
    if strip_accents:
        steps += [NFD(), Replace(Regex(_class_of(lambda character: unicodedata.category(character) == "Mn")), "")]
    return Normalizers(steps)


@functools.cache
def _removed_and_alone() -> tuple[str, str]:
    """Return the classes of characters that are removed, and of those that are single words."""
    cleaned = TextNormalizer(do_lower_case=False)
    removed = _class_of(lambda character: not cleaned(character))
    return removed, _class_of(lambda character: cleaned(character) == f" {character} ")


@functools.cache
def _final_sigmas() -> str:
    """Return a pattern for sigmas at the end of a word, which have a lower-case form that `Lowercase` does not know.

    The Unicode Standard's condition Final_Sigma: a cased letter comes before and none after, with any number of
    case-ignorable characters between. Python does not expose these two classes, so they are found by lowering.
    """
    cased = _class_of(lambda character: f"A{_SIGMA}{character}".lower()[1] != _FINAL_SIGMA)
    ignorable = _class_of(
        lambda character: (
            f"A{character}{_SIGMA}".lower()[-1] == _FINAL_SIGMA and f"{character}{_SIGMA}".lower()[-1] != _FINAL_SIGMA
        )
    )
    return f"{cased}{ignorable}*\\K{_SIGMA}(?!{ignorable}*{cased})"


def _class_of(belongs: Callable[[str], bool]) -> str:
    """Return the class of all characters for which `belongs` is true, in the syntax of regular expressions."""
    ranges: list[list[int]] = []
    for point in range(sys.maxunicode + 1):
        if point in _SURROGATES or not belongs(chr(point)):
            continue
        if ranges and ranges[-1][1] == point - 1:
            ranges[-1][1] = point
        else:
            ranges.append([point, point])
    return "[" + "".join(f"\\x{{{first:x}}}-\\x{{{last:x}}}" for first, last in ranges) + "]"
