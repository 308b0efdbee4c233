"""What the native engine keeps from one micro-batch to the next: memory for activations, and copies of weights."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from bert_large.engines.native.products import LinearWeights, PackedWeights, PlainWeights

_MAGNITUDE = 4
"""Matrices whose rows differ by at most this factor share sizes: micro-batches do, and the rows that heads read."""


class Rows:
    """Memory for activations and their gradients, sized for the most rows so far of matrices of about as many rows.

    So micro-batches of all sizes use the same blocks of the allocator; with a size for each, blocks would accumulate.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, list[int]] = {}  # by the number of columns

    def empty(self, rows: int, columns: int, *, dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialized matrix [rows, columns]."""
        sizes = self._sizes.setdefault(columns, [])
        size = min((size for size in sizes if rows <= size <= _MAGNITUDE * rows), default=None)
        if size is None:
            size = rows
            sizes[:] = [rows, *(other for other in sizes if not other < rows <= _MAGNITUDE * other)]
        return torch.empty(size, columns, dtype=dtype)[:rows]

    def like(self, other: torch.Tensor) -> torch.Tensor:
        """Return an uninitialized matrix of another's shape and dtype."""
        return self.empty(*other.shape, dtype=other.dtype)


class _Steps:
    """Counts the steps of all optimizers of the process; fused ones change weights without a change of `_version`."""

    def __init__(self) -> None:
        self.count = 0
        register_optimizer_step_post_hook(self._add)

    def _add(self, *_: Any) -> None:
        self.count += 1


_STEPS = _Steps()


class _Copy(NamedTuple):
    weights: tuple[Tensor, ...]
    """Holding the weights keeps their ids from being reused."""
    state: list[int]
    copied: PackedWeights


class WeightCopies:
    """Copies of weights in the type of activations, for matrix products; renewed when the weights have changed.

    Changes are seen by autograd's version counters, by steps of optimizers, and by a comparison of some elements spread
    over a weight, because assignments through `.data` leave no other trace.
    """

    def __init__(self) -> None:
        self._copies: dict[int, _Copy] = {}

    def of(self, dtype: torch.dtype, *weights: Tensor) -> LinearWeights:
        """Return weights [rows, columns] in `dtype`: themselves if they have it, else copies joined by rows."""
        if all(weight.dtype == dtype for weight in weights):
            return PlainWeights([weight.detach() for weight in weights])
        state = [_STEPS.count, *(weight._version for weight in weights)]
        found = self._copies.get(id(weights[0]))
        if found is None or not all(map(operator.is_, found.weights, weights)):
            copied = PackedWeights(*weights)
        elif found.state == state and found.copied.matches(*weights):
            return found.copied
        else:
            copied = found.copied
            copied.update(*weights)
        self._copies[id(weights[0])] = _Copy(weights, state, copied)
        return copied
