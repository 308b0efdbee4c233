"""The vocabulary of a model folder as others publish it: its file, and tokens that were added to it later.

`vocab.txt` has one token per line. `tokenizer.json`, of the `tokenizers` library, has the tokens with their ids. Added
tokens are in the latter, in `added_tokens.json` or in `tokenizer_config.json`, depending on the version of
`transformers` that wrote the folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_large.errors import DamageError, InputError
from bert_large.hub import model_folder
from bert_large.storage.atomic import read_json

VOCAB_FILE = "vocab.txt"
TOKENIZER_FILE = "tokenizer.json"
ADDED_TOKENS_FILE = "added_tokens.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
_LARGEST_ID = 100_000_000


def find_vocab(folder: Path) -> Path | None:
    """Return the vocabulary of a model folder, None if it has none: `vocab.txt`, or else `tokenizer.json`."""
    return next((folder / name for name in (VOCAB_FILE, TOKENIZER_FILE) if (folder / name).is_file()), None)


def vocab_of_model(place: Path) -> Path:
    """Return the vocabulary of a model: of its folder, of its name on the hub, or the file itself."""
    folder = model_folder(place)
    path = folder if folder.is_file() else find_vocab(folder)
    if path is None:
        raise InputError(f"--tokenizer {place} has no {VOCAB_FILE} or {TOKENIZER_FILE}; give the folder of a model")
    return path


def read_word_pieces(path: Path) -> list[str]:
    """Return the tokens of a `tokenizer.json` in the order of their ids; raise `InputError` if it is not WordPiece."""
    model = read_json(path).get("model")
    kind = model.get("type", "WordPiece") if isinstance(model, dict) else None
    if kind != "WordPiece" or not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise InputError(f"{path} has a model of type {kind!r}, expected 'WordPiece' with a vocab, as BERT has")
    if model.get("continuing_subword_prefix", "##") != "##":
        raise InputError(
            f"{path} marks the pieces inside a word by {model['continuing_subword_prefix']!r}, expected '##', as BERT "
            "does"
        )
    return _place(path, [], model["vocab"])


def read_added_tokens(folder: Path, tokens: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the tokens of a model folder with the added ones at their ids, and the added ones alone.

    Ids before an added token that no token has get unused tokens. Raises `InputError` for files that contradict.
    """
    for name, ids_of in ((TOKENIZER_FILE, _of_tokenizer), (ADDED_TOKENS_FILE, dict), (TOKENIZER_CONFIG_FILE, _decoder)):
        path = folder / name
        if not path.is_file():
            continue
        try:
            found = dict(ids_of(read_json(path)))
        except DamageError:
            if name != TOKENIZER_CONFIG_FILE:  # `resolve_casing` reports that file where it decides something
                raise
            continue
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path} has added tokens in a form that is not known ({error!r}); fix or delete it"
            ) from None
        if found:
            return _place(path, tokens, found), list(found)
    return list(tokens), []


def read_normalizer(folder: Path) -> dict[str, bool]:
    """Return `do_lower_case` and `strip_accents` as the `BertNormalizer` of a `tokenizer.json` has them, if it does."""
    path = folder / TOKENIZER_FILE
    normalizer = read_json(path).get("normalizer") if path.is_file() else None
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        return {}
    found = {"do_lower_case": normalizer.get("lowercase"), "strip_accents": normalizer.get("strip_accents")}
    return {name: value for name, value in found.items() if isinstance(value, bool)}


def _of_tokenizer(content: dict[str, Any]) -> dict[str, int]:
    return {entry["content"]: entry["id"] for entry in content.get("added_tokens") or []}


def _decoder(content: dict[str, Any]) -> dict[str, int]:
    return {entry["content"]: int(number) for number, entry in (content.get("added_tokens_decoder") or {}).items()}


def _place(path: Path, tokens: Sequence[str], ids: Mapping[str, object]) -> list[str]:
    """Return tokens by id: a list, extended by tokens with their ids; raise `InputError` if they contradict it."""
    numbers = {token: number for token, number in ids.items() if isinstance(number, int) and 0 <= number < _LARGEST_ID}
    if wrong := [token for token in ids if token not in numbers or "\n" in token]:
        raise InputError(
            f"{path}: the token {wrong[0]!r} has id {ids[wrong[0]]!r}, expected a line of text and a number"
        )
    places = {token: index for index, token in enumerate(tokens)}
    extended = list(tokens)
    for token, number in sorted(numbers.items(), key=lambda item: item[1]):
        extended += [f"[unused_{index}]" for index in range(len(extended), number)]
        if number == len(extended):
            extended.append(token)
        if extended[number] != token or places.setdefault(token, number) != number:
            raise InputError(
                f"{path}: the token {token!r} has id {number}, expected {places.get(token, number)}, and id {number} "
                f"is {extended[number]!r}; the files of the folder are of different tokenizers"
            )
    return extended
