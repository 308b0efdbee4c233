"""The native engine's forward and backward passes, as `torch.autograd.Function` subclasses.

Formulas are in the headers of `csrc/`. These functions define the order of matrix products and kernels, and the
ownership of memory: a backward pass takes its forward pass's activations, overwrites them in place where their values
are no longer needed, and frees them, so it can run only once. Gradients of parameters go where `Workspace.gradients`
puts them. The parameters are also arguments, so that autograd knows that the result depends on them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bert_large.data.batch import RaggedBatch, RaggedRows, Selection
from bert_large.engines.native.gradients import Gradients
from bert_large.engines.native.memory import Rows
from bert_large.engines.native.products import LinearWeights, add_weight_gradient, weight_gradient
from bert_large.matmul import fastest_float32
from bert_large.model.operations import Dense, Norm

HEAD_ROWS = 1024  # rows of logits in memory at once: 125 MB in float32 for BERT's vocabulary
_kernels = torch.ops.bert_large


class Workspace(NamedTuple):
    """What the functions of one engine share."""

    rows: Rows
    gradients: Callable[[], Gradients]
    """Makes the object that collects the gradients of one backward pass."""


def _take_saved(ctx: Any) -> Any:
    """Return the saved activations; raise `RuntimeError` if a parameter has changed since the forward pass.

    They can then be overwritten in place, and are freed even while the loss is still referenced.
    """
    saved, ctx.saved = ctx.saved, None
    if saved is None:
        raise RuntimeError("the native engine cannot run backward twice through the same forward pass")
    _ = ctx.saved_tensors  # PyTorch compares the versions of the parameters
    return saved


@contextlib.contextmanager
def _as_chosen() -> Iterator[None]:
    """Compute products in the types that their factors have, also inside autocast, and float32 ones fast."""
    with torch.autocast("cpu", enabled=False), fastest_float32():
        yield


def _hand_written(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a backward pass: it has no derivative, and its types are chosen even if it is run inside autocast."""

    @functools.wraps(backward)
    def wrapper(ctx: Any, *gradients: Tensor) -> Any:
        with _as_chosen():
            return backward(ctx, *gradients)

    return once_differentiable(wrapper)


def _token_places(batch: RaggedRows) -> tuple[Tensor, Tensor, Tensor]:
    return batch.samples, batch.sequence_ids, batch.position_ids


def _residual_norm(
    memory: Rows, dense: Tensor, output: Dense, hidden: Tensor, norm: Norm, batch: RaggedRows,
    dropout: tuple[float, int],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return a block's output norm(hidden + dropout(dense + bias)) and the norm's reciprocal standard deviations [T].

    `dense` is overwritten with the normalized rows, which the backward pass needs.
    """
    out, rstds = memory.like(hidden), torch.empty(len(hidden), dtype=torch.float32)
    _kernels.residual_norm(
        dense, output.bias, hidden, norm.weight, norm.bias, norm.eps, *_token_places(batch), *dropout, out, rstds
    )
    return out, rstds


def _residual_norm_gradient(
    found: Gradients, memory: Rows, gradient: Tensor, saved: tuple[Tensor, Tensor], output: Dense, norm: Norm,
    batch: RaggedRows, dropout: tuple[float, int],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the gradients of `hidden` and `dense`, and add those of the bias and the norm's parameters to `found`.

    `saved` are the normalized rows, which the gradient of `hidden` overwrites, and the reciprocal standard deviations.
    """
    normalized, rstds = saved
    dense_gradient = memory.like(normalized)
    _kernels.residual_norm_gradient(
        gradient.contiguous(), normalized, rstds, norm.weight, *_token_places(batch), *dropout, dense_gradient,
        found.of(norm.weight), found.of(norm.bias), found.of(output.bias),
    )  # fmt: skip
    return normalized, dense_gradient


class EmbedNormDropout(torch.autograd.Function):
    """dropout(norm(words[...] + positions[...] + token_types[...]))."""

    @staticmethod
    def forward(
        ctx: Any, workspace: Workspace, batch: RaggedBatch, norm: Norm, dropout: tuple[float, int], dtype: torch.dtype,
        words: Tensor, positions: Tensor, token_types: Tensor, *_: Tensor,
    ) -> Tensor:  # fmt: skip
        out = workspace.rows.empty(batch.tokens, words.shape[1], dtype=dtype)
        means, rstds = torch.empty(2, batch.tokens, dtype=torch.float32)
        _kernels.embed_norm(
            words, positions, token_types, batch.input_ids, batch.position_ids, batch.token_type_ids,
            norm.weight, norm.bias, norm.eps, batch.samples, batch.sequence_ids, *dropout, out, means, rstds,
        )  # fmt: skip
        ctx.saved = workspace, batch, norm, dropout, (words, positions, token_types), means, rstds
        return out

    @staticmethod
    @_hand_written
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        workspace, batch, norm, dropout, tables, means, rstds = _take_saved(ctx)
        found = workspace.gradients()
        _kernels.embed_norm_gradient(
            gradients[0].contiguous(), *tables, batch.input_ids, batch.position_ids, batch.token_type_ids,
            means, rstds, norm.weight, batch.samples, batch.sequence_ids, *dropout,
            *map(found.of, tables), found.of(norm.weight), found.of(norm.bias),
        )  # fmt: skip
        return (*(None,) * 5, *found.results(*tables, norm.weight, norm.bias))


class AttentionBlock(torch.autograd.Function):
    """norm(hidden + dropout(output(attention(hidden)))), of all rows or those `read`.

    `weights` are those of the query, key and value projections, as one matrix or three, and that of `output`.
    """

    @staticmethod
    def forward(
        ctx: Any, workspace: Workspace, batch: RaggedRows, projections: tuple[Dense, Dense, Dense], heads: int,
        output: Dense, norm: Norm, dropouts: tuple[tuple[float, int], tuple[float, int]], read: Selection | None,
        weights: tuple[LinearWeights, LinearWeights], hidden: Tensor, *parameters: Tensor,
    ) -> Tensor:  # fmt: skip
        rows, memory = len(hidden), workspace.rows
        with _as_chosen():
            qkv = weights[0].product(hidden, memory.empty(rows, weights[0].outputs, dtype=hidden.dtype))
            bias = torch.cat([dense.bias for dense in projections])
            context, log_sums = memory.like(hidden), torch.empty(heads, rows, dtype=torch.float32)
            _kernels.attention(
                qkv, bias, batch.cu_seqlens, batch.samples, heads, *dropouts[0], context, log_sums, batch.keys
            )
            read_batch, read_context, residual = batch, context, hidden
            if read is not None:
                read_batch = read.batch
                read_context, residual = (each.index_select(0, read.rows) for each in (context, hidden))
            # Holds the product until `_residual_norm` overwrites it.
            normalized = weights[1].product(read_context, memory.like(residual))
        out, rstds = _residual_norm(memory, normalized, output, residual, norm, read_batch, dropouts[1])
        ctx.save_for_backward(*parameters)
        ctx.parts = workspace, batch, projections, heads, output, norm, dropouts, read, weights, parameters
        ctx.saved = hidden, qkv, bias, context, log_sums, read_context, (normalized, rstds)
        return out

    @staticmethod
    @_hand_written
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        workspace, batch, projections, heads, output, norm, dropouts, read, weights, parameters = ctx.parts
        memory, found = workspace.rows, workspace.gradients()
        hidden, qkv, bias, context, log_sums, read_context, of_norm = _take_saved(ctx)
        hidden_gradient, dense_gradient = _residual_norm_gradient(
            found, memory, gradients[0], of_norm, output, norm, batch if read is None else read.batch, dropouts[1]
        )
        found.add_product(dense_gradient, read_context, output.weight)
        context_gradient = weights[1].input_gradient(dense_gradient, memory.like(read_context))
        if read is not None:  # zero for the other rows
            hidden_gradient, context_gradient = (
                memory.like(hidden).zero_().index_copy_(0, read.rows, part)
                for part in (hidden_gradient, context_gradient)
            )
        bias_gradient = torch.zeros_like(bias)
        _kernels.attention_gradient(
            qkv, bias, batch.cu_seqlens, batch.samples, heads, *dropouts[0], context, log_sums, context_gradient,
            bias_gradient, batch.keys,
        )  # fmt: skip
        qkv_gradient = qkv  # overwritten
        for dense, part in zip(projections, bias_gradient.chunk(3), strict=True):
            found.of(dense.bias).add_(part)
        found.add_product(qkv_gradient, hidden, *(dense.weight for dense in projections))
        weights[0].input_gradient(qkv_gradient, hidden_gradient, add=True)  # to the residual's gradient
        return (*(None,) * 9, hidden_gradient, *found.results(*parameters))


class FeedForwardBlock(torch.autograd.Function):
    """norm(hidden + dropout(output(gelu(intermediate(hidden)))))."""

    @staticmethod
    def forward(
        ctx: Any, workspace: Workspace, batch: RaggedRows, intermediate: Dense, gelu_form: str, output: Dense,
        norm: Norm, dropout: tuple[float, int], weights: tuple[LinearWeights, LinearWeights], hidden: Tensor,
        *parameters: Tensor,
    ) -> Tensor:  # fmt: skip
        memory = workspace.rows
        with _as_chosen():
            derivative = memory.empty(len(hidden), weights[0].outputs, dtype=hidden.dtype)
            activated = memory.like(derivative)
            weights[0].gelu(hidden, intermediate.bias, gelu_form, derivative, activated)
            # Holds the product until `_residual_norm` overwrites it.
            normalized = weights[1].product(activated, memory.like(hidden))
        out, rstds = _residual_norm(memory, normalized, output, hidden, norm, batch, dropout)
        ctx.save_for_backward(*parameters)
        ctx.parts = workspace, batch, intermediate, output, norm, dropout, weights, parameters
        ctx.saved = hidden, derivative, activated, (normalized, rstds)
        return out

    @staticmethod
    @_hand_written
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (memory, new_gradients), batch, intermediate, output, norm, dropout, weights, parameters = ctx.parts
        found = new_gradients()
        hidden, derivative, activated, of_norm = _take_saved(ctx)
        hidden_gradient, dense_gradient = _residual_norm_gradient(
            found, memory, gradients[0], of_norm, output, norm, batch, dropout
        )
        found.add_product(dense_gradient, activated, output.weight)
        # `activated` is reused for its gradient: its values are no longer needed.
        weights[1].gelu_gradient(dense_gradient, derivative, activated, found.of(intermediate.bias))
        found.add_product(activated, hidden, intermediate.weight)
        weights[0].input_gradient(activated, hidden_gradient, add=True)
        return (*(None,) * 8, hidden_gradient, *found.results(*parameters))


class DenseGelu(torch.autograd.Function):
    """gelu(dense(inputs)), for the rows of the masked-LM head."""

    @staticmethod
    def forward(
        ctx: Any, workspace: Workspace, dense: Dense, gelu_form: str, weight: LinearWeights, inputs: Tensor,
        *parameters: Tensor,
    ) -> Tensor:  # fmt: skip
        memory = workspace.rows
        derivative = memory.empty(len(inputs), weight.outputs, dtype=inputs.dtype)
        activated = memory.like(derivative)
        with _as_chosen():
            weight.gelu(inputs, dense.bias, gelu_form, derivative, activated)
        ctx.save_for_backward(*parameters)
        ctx.parts = workspace, dense, weight, parameters
        ctx.saved = inputs, derivative
        return activated

    @staticmethod
    @_hand_written
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        workspace, dense, weight, parameters = ctx.parts
        found = workspace.gradients()
        inputs, derivative = _take_saved(ctx)
        gradient = workspace.rows.like(derivative).copy_(gradients[0])
        _kernels.gelu_gradient(derivative, gradient, found.of(dense.bias))
        found.add_product(gradient, inputs, dense.weight)
        inputs_gradient = weight.input_gradient(gradient, workspace.rows.like(inputs))
        return None, None, None, None, inputs_gradient, *found.results(*parameters)


class MaskedCrossEntropy(torch.autograd.Function):
    """Cross-entropy over the vocabulary, a block of rows at a time.

    Logits of all masked tokens would be hundreds of megabytes, so each block's gradients are computed in the forward
    pass, before its logits are overwritten by the next block's, as if the gradient of the loss were 1. All are linear
    in that gradient, by which the backward pass multiplies them. The vocabulary's gradient from the last block (usually
    the only one) is left to the backward pass, which then scales the block's few rows, not a result as large as the
    vocabulary.
    """

    @staticmethod
    def forward(
        ctx: Any, workspace: Workspace, labels: Tensor, weight: LinearWeights, transformed: Tensor, words: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        wants_gradients = any(ctx.needs_input_grad)
        loss, correct = 0.0, 0
        words_gradient, last_block = None, None
        bias_gradient = torch.zeros_like(bias) if wants_gradients else None
        transformed_gradient = workspace.rows.like(transformed)
        with _as_chosen():
            for start in range(0, len(labels), HEAD_ROWS):
                rows = slice(start, start + HEAD_ROWS)
                inputs = transformed[rows]
                logits = workspace.rows.empty(len(inputs), weight.outputs, dtype=inputs.dtype)
                weight.product(inputs, logits)
                sums = _kernels.cross_entropy(logits, bias, labels[rows], bias_gradient)
                loss, correct = loss + sums[0], correct + sums[1]
                if not wants_gradients:
                    continue
                weight.input_gradient(logits, transformed_gradient[rows])
                if rows.stop >= len(labels):
                    last_block = logits, inputs
                elif words_gradient is None:
                    words_gradient = weight_gradient(logits, inputs)
                else:
                    add_weight_gradient(logits, inputs, words_gradient)
        if wants_gradients:
            ctx.parts = workspace, words, bias
            ctx.saved = words_gradient, last_block, bias_gradient, transformed_gradient
        right = torch.tensor(correct)
        ctx.mark_non_differentiable(right)
        return torch.tensor(loss, dtype=torch.float32), right

    @staticmethod
    @_hand_written
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        workspace, words, bias = ctx.parts
        words_gradient, last_block, bias_gradient, transformed_gradient = _take_saved(ctx)
        scale, found = float(gradients[0]), workspace.gradients()
        found.of(bias).add_(bias_gradient, alpha=scale)
        if last_block is not None:  # without masked tokens, the gradient is zero
            found.add_product(last_block[0], last_block[1] * scale, words)
        if last_block is None or words_gradient is not None:
            of_words = found.of(words)
            if words_gradient is not None:
                of_words.add_(words_gradient, alpha=scale)
        return None, None, None, transformed_gradient * scale, *found.results(words, bias)
