"""Tables of a published model made longer: positions for longer sequences, and words for a larger vocabulary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from bert_large.prepare.vocab import CONTINUATION, Vocabulary

POSITIONS = "bert.embeddings.position_embeddings.weight"
WORDS = ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias")
"""Parameters with a row per token of the vocabulary."""


def grow_positions(table: torch.Tensor, rows: int) -> torch.Tensor:
    """Return a table of `rows` positions: copies of the given one [positions, hidden], one after the other.

    As in Longformer (Beltagy et al. 2020, arXiv:2004.05150, section 5): attention to neighbors is kept everywhere
    except at the seams.
    """
    return table.repeat(-(-rows // len(table)), 1)[:rows]


def grow_words(table: torch.Tensor, rows: int, pieces: Mapping[int, Sequence[int]]) -> torch.Tensor:
    """Return a table of `rows` tokens that begins with the given one [tokens, ...].

    `pieces` maps new tokens to the old tokens that they consist of: their rows become the mean of the rows of these, as
    in Gee et al. 2022 (arXiv:2402.09977, Fast Vocabulary Transfer). All other new rows become the mean of all rows.
    """
    mean = table.mean(dim=0, keepdim=True)
    grown = torch.cat([table, mean.expand(rows - len(table), *table.shape[1:])])
    for number, parts in pieces.items():
        grown[number] = table[list(parts)].mean(dim=0) if parts else mean[0]
    return grown


def new_pieces(old: Vocabulary, new: Vocabulary) -> dict[int, list[int]]:
    """Return the ids of the tokens that `new` has after those of `old`, with the ids of the old tokens they consist of.

    A token with characters that `old` does not have consists of none.
    """
    ids = {token: number for number, token in enumerate(old.tokens)}
    first = len(old.tokens)
    return {number: _split(token, ids) for number, token in enumerate(new.tokens[first:], start=first)}


def _split(token: str, ids: Mapping[str, int]) -> list[int]:
    """Return the longest pieces of a token from its start on."""
    prefix = CONTINUATION if token.startswith(CONTINUATION) else ""
    rest, found = token.removeprefix(prefix), []
    while rest:
        end = next((end for end in range(len(rest), 0, -1) if prefix + rest[:end] in ids), 0)
        if end == 0:
            return []
        found.append(ids[prefix + rest[:end]])
        rest, prefix = rest[end:], CONTINUATION
    return found
