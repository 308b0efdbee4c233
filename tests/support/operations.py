"""Inputs for a model's operations, and an operation's results and gradients on an engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from bert_large.data.batch import RaggedBatch, make_batch
from bert_large.model.operations import Operations

from tests.support.records import VOCAB_SIZE, make_records

Values = dict[str, torch.Tensor]
PROJECTIONS = ("query", "key", "value")


def batch_of(lengths: list[int], vocab_size: int = VOCAB_SIZE) -> RaggedBatch:
    """Return a batch of these lengths; sequences of one token have no prediction."""
    records = []
    for index, length in enumerate(lengths):
        at_least = max(length, 6)
        (record,) = make_records(1, seed=index, lengths=(at_least, at_least), vocab_size=vocab_size)
        fitting = record.masked_positions < length
        for name, values in (
            ("input_ids", record.input_ids[:length]),
            ("token_type_ids", record.token_type_ids[:length]),
            ("masked_ids", record.masked_ids[fitting]),
            ("masked_positions", record.masked_positions[fitting]),
        ):
            object.__setattr__(record, name, values)
        records.append(record)
    return make_batch(records, [3 + 1000 * index for index in range(len(lengths))])


def draw(*shape: int, seed: int, spread: float = 1.0, around: float = 0.0) -> torch.Tensor:
    """Return normal draws in double that float32 holds exactly."""
    generator = torch.Generator().manual_seed(seed)
    return (around + spread * torch.randn(shape, generator=generator)).double()


def dense_values(name: str, inputs: int, outputs: int, seed: int) -> Values:
    """Return a linear layer's values; its results are about as large as its inputs."""
    weight = draw(outputs, inputs, seed=seed, spread=inputs**-0.5)
    return {f"{name}.weight": weight, f"{name}.bias": draw(outputs, seed=seed + 100, spread=0.5)}


def norm_values(name: str, hidden: int, seed: int) -> Values:
    """Return a LayerNorm's values."""
    return {
        f"{name}.weight": draw(hidden, seed=seed, spread=0.3, around=1.0),
        f"{name}.bias": draw(hidden, seed=seed + 1),
    }


def layer(values: Mapping[str, torch.Tensor], name: str) -> Any:
    """Return a linear layer or LayerNorm as engines take it."""
    return SimpleNamespace(weight=values[f"{name}.weight"], bias=values[f"{name}.bias"], eps=1e-12)


@dataclass(frozen=True)
class Case:
    """An operation on given values (in double), for any engine and precision."""

    values: Values
    apply: Callable[[Operations, Mapping[str, torch.Tensor]], torch.Tensor]

    def leaves(self, dtype: torch.dtype, frozen: tuple[str, ...] = ()) -> Values:
        """Return the values as parameters; `hidden`, an earlier operation's result, has the activations' type."""
        parameters = torch.float32 if dtype == torch.bfloat16 else dtype
        return {
            name: value.to(dtype if name == "hidden" else parameters).clone().requires_grad_(name not in frozen)
            for name, value in self.values.items()
        }

    def forward(self, engine: Operations, leaves: Mapping[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """Return the result; in bfloat16 as training computes it."""
        autocast = torch.autocast("cpu", dtype=dtype) if dtype == torch.bfloat16 else contextlib.nullcontext()
        with autocast:
            return self.apply(engine, leaves)

    def backward(self, out: torch.Tensor, scale: float = 1.0) -> None:
        """Run the backward pass for the gradient of `scale` times a random weighting of the result."""
        out.backward((scale * draw(*out.shape, seed=99)).to(out.dtype))

    def results(
        self, engine: Operations, dtype: torch.dtype, *, scale: float = 1.0, frozen: tuple[str, ...] = ()
    ) -> Values:
        """Return the result as "out", and every gradient there is under its parameter's name."""
        leaves = self.leaves(dtype, frozen)
        out = self.forward(engine, leaves, dtype)
        self.backward(out, scale)
        gradients = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
        return {"out": out.detach(), **gradients}


def assert_close(found: Values, expected: Values, tolerance: float) -> None:
    """Compare by name, the largest difference relative to the largest value.

    Gradients of query, key and value are compared with the largest of the three: a single token's are 0 but for
    value's, and so is that of a key's bias, which moves all scores of a query alike.
    """
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        kind, _, part = name.partition(".")
        names = [f"{other}.{part}" for other in PROJECTIONS] if kind in PROJECTIONS else [name]
        largest = max(float(expected[other].abs().max()) for other in names if other in expected)
        difference = float((found[name].double() - value).abs().max())
        assert difference <= tolerance * largest, f"{name}: {difference:.2e} of {largest:.2e}"


def assert_identical(found: Values, expected: Values) -> None:
    """Compare by name, bit for bit."""
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference over the norm of `expected`."""
    return float((found.double() - expected).norm() / expected.norm())
