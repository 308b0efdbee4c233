"""The eager engine's operations against their definitions, one sequence at a time, in float64."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bert_large.data.batch import RaggedBatch
from bert_large.engines.eager import EagerEngine
from bert_large.model.dropout import DropoutSite, attention_keep_mask, token_keep_mask
from torch.nn import functional

from tests.support.operations import batch_of

HIDDEN, WIDE, VOCAB = 12, 20, 100
ENGINE = EagerEngine()
SITE = DropoutSite(0.3, 0x12345678)
SHAPES = {
    "one sequence": [7],
    "one token": [1],
    "single tokens": [1, 1, 1],
    "mixed": [5, 1, 17, 2],
    "equal": [4, 4],
}
pytestmark = pytest.mark.parametrize("lengths", list(SHAPES.values()), ids=list(SHAPES))


def parameter(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def dense(inputs: int, outputs: int, seed: int) -> Any:
    return SimpleNamespace(weight=parameter(outputs, inputs, seed=seed), bias=parameter(outputs, seed=seed + 100))


def norm(seed: int) -> Any:
    return SimpleNamespace(weight=parameter(HIDDEN, seed=seed), bias=parameter(HIDDEN, seed=seed + 100), eps=1e-12)


def normalized(values: torch.Tensor, parameters: Any) -> torch.Tensor:
    """LayerNorm written out."""
    centered = values - values.mean(dim=-1, keepdim=True)
    deviation = (centered.square().mean(dim=-1, keepdim=True) + parameters.eps).sqrt()
    return centered / deviation * parameters.weight + parameters.bias


def dropped(values: torch.Tensor, sample: int, site: DropoutSite | None) -> torch.Tensor:
    """Dropout of one sequence's rows [length, columns], by PyTorch's autograd."""
    if site is None:
        return values
    keep = token_keep_mask(site, torch.full((len(values),), sample), torch.arange(len(values)), values.shape[1])
    return torch.where(keep, values / (1 - site.probability), 0.0)


def assert_same(found: torch.Tensor, expected: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    """Compare results and the gradients of a random weighting of them, to 1e-12."""
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(99))
    ours, theirs = (torch.autograd.grad((weights * result).sum(), inputs) for result in (found, expected))
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=1e-11, atol=1e-11)


def sequences(batch: RaggedBatch) -> list[tuple[int, slice]]:
    """Return (sample, its tokens) of each sequence."""
    bounds = batch.cu_seqlens.tolist()
    tokens = [slice(start, stop) for start, stop in itertools.pairwise(bounds)]
    return list(zip(batch.samples.tolist(), tokens, strict=True))


@pytest.mark.parametrize("site", [None, SITE], ids=["", "dropout"])
def test_embed_norm_dropout(lengths: list[int], site: DropoutSite | None) -> None:
    batch = batch_of(lengths)
    words, positions, types = (
        parameter(VOCAB, HIDDEN, seed=1),
        parameter(20, HIDDEN, seed=2),
        parameter(2, HIDDEN, seed=3),
    )
    layer_norm = norm(4)
    expected = torch.cat(
        [
            dropped(
                normalized(
                    words[batch.input_ids[tokens]]
                    + positions[: tokens.stop - tokens.start]
                    + types[batch.token_type_ids[tokens]],
                    layer_norm,
                ),
                sample,
                site,
            )
            for sample, tokens in sequences(batch)
        ]
    )
    found = ENGINE.embed_norm_dropout(batch, words, positions, types, layer_norm, site)
    assert_same(found, expected, [words, positions, types, layer_norm.weight, layer_norm.bias])


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("site", [None, SITE], ids=["", "dropout"])
def test_attention(lengths: list[int], heads: int, site: DropoutSite | None) -> None:
    """Softmax over a sequence's own keys, one head at a time."""
    batch = batch_of(lengths)
    hidden = parameter(batch.tokens, HIDDEN, seed=1)
    query, key, value = dense(HIDDEN, HIDDEN, 2), dense(HIDDEN, HIDDEN, 3), dense(HIDDEN, HIDDEN, 4)
    width = HIDDEN // heads
    contexts = []
    for sample, tokens in sequences(batch):
        rows = hidden[tokens]
        queries, keys, values = (rows @ layer.weight.T + layer.bias for layer in (query, key, value))
        mask = attention_keep_mask(site, torch.tensor([sample]), heads, len(rows))[0] if site else None
        parts = []
        for head in range(heads):
            columns = slice(head * width, (head + 1) * width)
            probabilities = torch.softmax(queries[:, columns] @ keys[:, columns].T / math.sqrt(width), dim=-1)
            if site is not None and mask is not None:
                probabilities = torch.where(mask[head], probabilities / (1 - site.probability), 0.0)
            parts.append(probabilities @ values[:, columns])
        contexts.append(torch.cat(parts, dim=1))
    found = ENGINE.attention(batch, hidden, query, key, value, heads, site)
    # A key's bias moves all scores of a query alike, so its gradient is 0 but for rounding.
    weights = [hidden, *(layer.weight for layer in (query, key, value)), query.bias, key.bias, value.bias]
    assert_same(found, torch.cat(contexts), weights)


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh"])
def test_dense_gelu(lengths: list[int], activation: str) -> None:
    """Both forms written out: x times the normal distribution function, and its approximation by tanh."""
    inputs, layer = parameter(sum(lengths), HIDDEN, seed=1), dense(HIDDEN, WIDE, 2)
    x = inputs @ layer.weight.T + layer.bias
    if activation == "gelu":
        expected = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    else:
        expected = x * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert_same(ENGINE.dense_gelu(inputs, layer, activation), expected, [inputs, layer.weight, layer.bias])


@pytest.mark.parametrize("site", [None, SITE], ids=["", "dropout"])
def test_dense_dropout_residual_norm(lengths: list[int], site: DropoutSite | None) -> None:
    """Dropout before the residual is added, never on the residual."""
    batch = batch_of(lengths)
    inputs, residual = parameter(batch.tokens, WIDE, seed=1), parameter(batch.tokens, HIDDEN, seed=2)
    layer, layer_norm = dense(WIDE, HIDDEN, 3), norm(4)
    projected = inputs @ layer.weight.T + layer.bias
    expected = torch.cat(
        [
            normalized(residual[tokens] + dropped(projected[tokens], sample, site), layer_norm)
            for sample, tokens in sequences(batch)
        ]
    )
    found = ENGINE.dense_dropout_residual_norm(batch, inputs, layer, residual, layer_norm, site)
    assert_same(found, expected, [inputs, residual, layer.weight, layer.bias, layer_norm.weight, layer_norm.bias])


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh"])
def test_masked_head(lengths: list[int], activation: str) -> None:
    """Loss and correct predictions of the masked tokens only, one at a time."""
    batch = batch_of(lengths)
    hidden, transform, layer_norm = parameter(batch.tokens, HIDDEN, seed=1), dense(HIDDEN, HIDDEN, 2), norm(3)
    words, bias = parameter(VOCAB, HIDDEN, seed=4), parameter(VOCAB, seed=5)
    loss, correct = hidden.sum() * 0.0, 0
    approximate = "none" if activation == "gelu" else "tanh"
    for position, label in zip(batch.masked_positions.tolist(), batch.masked_labels.tolist(), strict=True):
        row = functional.gelu(hidden[position] @ transform.weight.T + transform.bias, approximate=approximate)
        logits = normalized(row, layer_norm) @ words.T + bias
        loss = loss + torch.logsumexp(logits, dim=0) - logits[label]
        correct += int(logits.argmax() == label)
    found, found_correct = ENGINE.masked_head(batch, hidden, transform, activation, layer_norm, words, bias)
    assert int(found_correct) == correct
    inputs = [hidden, transform.weight, transform.bias, layer_norm.weight, layer_norm.bias, words, bias]
    if batch.masked_tokens:
        assert_same(found, loss, inputs)
    else:
        assert float(found.detach()) == 0.0


def test_single_precision_agrees_with_double(lengths: list[int]) -> None:
    """Attention in float32, as in training, is within 1e-5 of the result in float64."""
    batch = batch_of(lengths)
    hidden = parameter(batch.tokens, HIDDEN, seed=1)
    query, key, value = (dense(HIDDEN, HIDDEN, seed) for seed in (2, 3, 4))
    double = ENGINE.attention(batch, hidden, query, key, value, 3, SITE)
    for layer in (query, key, value):
        layer.weight, layer.bias = layer.weight.float(), layer.bias.float()
    found = ENGINE.attention(batch, hidden.float(), query, key, value, 3, SITE)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), double, rtol=1e-5, atol=1e-5)
