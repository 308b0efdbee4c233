"""What the native engine keeps from one micro-batch to the next: memory for activations, and copies of weights."""

from __future__ import annotations

import torch


class Rows:
    """Memory for activations and their gradients, sized for the rows of the largest batch so far.

    So micro-batches of all sizes use the same blocks of the allocator; with a size for each, blocks would accumulate.
    """

    def __init__(self) -> None:
        self._capacity = 0

    def empty(self, rows: int, columns: int, *, dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialized matrix [rows, columns]."""
        self._capacity = max(self._capacity, rows)
        return torch.empty(self._capacity, columns, dtype=dtype)[:rows]

    def like(self, other: torch.Tensor) -> torch.Tensor:
        """Return an uninitialized matrix of another's shape and dtype."""
        return self.empty(*other.shape, dtype=other.dtype)

    def product(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Return left @ right."""
        return torch.mm(left, right, out=self.empty(len(left), right.shape[1], dtype=left.dtype))


class WeightCopies:
    """Copies of weights for matrix products: in the activations' type, several joined to one; renewed on change."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[tuple[torch.Tensor, ...], list[int], torch.Tensor]] = {}

    def of(self, dtype: torch.dtype, *weights: torch.Tensor) -> torch.Tensor:
        """Return weights [rows, columns] concatenated by rows in `dtype`; a single one of that type is not copied."""
        first = weights[0]
        if len(weights) == 1 and first.dtype == dtype:
            return first.detach()
        # Holding the weights keeps their ids from being reused. Autograd counts changes of a tensor in `_version`.
        held, versions, copy = self._copies.get(id(first), (weights, [], None))
        if copy is None or copy.dtype != dtype:
            copy, versions = torch.empty(sum(map(len, weights)), *first.shape[1:], dtype=dtype), []
        if versions != [weight._version for weight in weights]:
            torch.cat([weight.detach() for weight in weights], out=copy)
            self._copies[id(first)] = held, [weight._version for weight in weights], copy
        return copy
