"""The native engine's forward and backward passes, as `torch.autograd.Function` subclasses.

Formulas are in the headers of `csrc/`. These functions define the order of matrix products and kernels, and the
ownership of memory: a backward pass takes its forward pass's activations, overwrites them in place where their values
are no longer needed, and frees them, so it can run only once. Gradients of parameters go to `.grad` (`gradients`), and
autograd gets None for them; the parameters are arguments only so that autograd knows that the result depends on them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bert_large.data.batch import RaggedBatch
from bert_large.engines.native.gradients import add_product, add_weight_gradient, gradient_of, weight_gradient
from bert_large.engines.native.memory import Rows
from bert_large.model.operations import Dense, Norm

HEAD_ROWS = 512  # rows of logits in memory at once: 60 MB for BERT's vocabulary
_kernels = torch.ops.bert_large


def _take_saved(ctx: Any) -> Any:
    """Return the saved activations.

    They can then be overwritten in place, and are freed even while the loss is still referenced.
    """
    saved, ctx.saved = ctx.saved, None
    if saved is None:
        raise RuntimeError("the native engine cannot run backward twice through the same forward pass")
    return saved


def _token_places(batch: RaggedBatch) -> tuple[Tensor, Tensor, Tensor]:
    return batch.samples, batch.sequence_ids, batch.position_ids


def _residual_norm(
    memory: Rows, dense: Tensor, output: Dense, hidden: Tensor, norm: Norm, batch: RaggedBatch,
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
    memory: Rows, gradient: Tensor, normalized: Tensor, rstds: Tensor, output: Dense, norm: Norm, batch: RaggedBatch,
    dropout: tuple[float, int],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the gradients of `hidden` and `dense`, and add those of the bias and the norm's parameters."""
    hidden_gradient, dense_gradient = memory.like(normalized), memory.like(normalized)
    _kernels.residual_norm_gradient(
        gradient.contiguous(), normalized, rstds, norm.weight, *_token_places(batch), *dropout, hidden_gradient,
        dense_gradient, gradient_of(norm.weight), gradient_of(norm.bias), gradient_of(output.bias),
    )  # fmt: skip
    return hidden_gradient, dense_gradient


class EmbedNormDropout(torch.autograd.Function):
    """dropout(norm(words[...] + positions[...] + token_types[...]))."""

    @staticmethod
    def forward(
        ctx: Any, batch: RaggedBatch, norm: Norm, dropout: tuple[float, int], dtype: torch.dtype, words: Tensor,
        positions: Tensor, token_types: Tensor, *_: Tensor,
    ) -> Tensor:  # fmt: skip
        out = torch.empty(batch.tokens, words.shape[1], dtype=dtype)
        means, rstds = torch.empty(2, batch.tokens, dtype=torch.float32)
        _kernels.embed_norm(
            words, positions, token_types, batch.input_ids, batch.position_ids, batch.token_type_ids,
            norm.weight, norm.bias, norm.eps, batch.samples, batch.sequence_ids, *dropout, out, means, rstds,
        )  # fmt: skip
        ctx.saved = batch, norm, dropout, (words, positions, token_types), means, rstds
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        batch, norm, dropout, tables, means, rstds = _take_saved(ctx)
        _kernels.embed_norm_gradient(
            gradients[0].contiguous(), *tables, batch.input_ids, batch.position_ids, batch.token_type_ids,
            means, rstds, norm.weight, batch.samples, batch.sequence_ids, *dropout,
            *map(gradient_of, tables), gradient_of(norm.weight), gradient_of(norm.bias),
        )  # fmt: skip
        return (None,) * 9


class AttentionBlock(torch.autograd.Function):
    """norm(hidden + dropout(output(attention(hidden)))).

    The query, key and value projections are computed as one matrix product.
    """

    @staticmethod
    def forward(
        ctx: Any, memory: Rows, batch: RaggedBatch, projections: tuple[Dense, Dense, Dense], heads: int, output: Dense,
        norm: Norm, dropouts: tuple[tuple[float, int], tuple[float, int]], weights: list[Tensor], hidden: Tensor,
        *_: Tensor,
    ) -> Tensor:  # fmt: skip
        rows = len(hidden)
        with torch.autocast("cpu", enabled=False):
            qkv = memory.product(hidden, weights[0].t())
            bias = torch.cat([dense.bias for dense in projections])
            context, log_sums = memory.like(hidden), torch.empty(heads, rows, dtype=torch.float32)
            _kernels.attention(qkv, bias, batch.cu_seqlens, batch.samples, heads, *dropouts[0], context, log_sums)
            # Holds the product until `_residual_norm` overwrites it.
            normalized = memory.product(context, weights[1].t())
        out, rstds = _residual_norm(memory, normalized, output, hidden, norm, batch, dropouts[1])
        ctx.parts = memory, batch, projections, heads, output, norm, dropouts, weights
        ctx.saved = hidden, qkv, bias, context, log_sums, normalized, rstds
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        memory, batch, projections, heads, output, norm, dropouts, weights = ctx.parts
        hidden, qkv, bias, context, log_sums, normalized, rstds = _take_saved(ctx)
        hidden_gradient, dense_gradient = _residual_norm_gradient(
            memory, gradients[0], normalized, rstds, output, norm, batch, dropouts[1]
        )
        add_weight_gradient(dense_gradient, context, output.weight)
        context_gradient = memory.product(dense_gradient, weights[1])
        qkv_gradient, bias_gradient = memory.like(qkv), torch.zeros_like(bias)
        _kernels.attention_gradient(
            qkv, bias, batch.cu_seqlens, batch.samples, heads, *dropouts[0], context, log_sums, context_gradient,
            qkv_gradient, bias_gradient,
        )  # fmt: skip
        for dense, part in zip(projections, bias_gradient.chunk(3), strict=True):
            gradient_of(dense.bias).add_(part)
        add_weight_gradient(qkv_gradient, hidden, *(dense.weight for dense in projections))
        hidden_gradient.addmm_(qkv_gradient, weights[0])  # the residual's gradient plus that of the projections
        return (*(None,) * 8, hidden_gradient, *(None,) * 10)


class FeedForwardBlock(torch.autograd.Function):
    """norm(hidden + dropout(output(gelu(intermediate(hidden)))))."""

    @staticmethod
    def forward(
        ctx: Any, memory: Rows, batch: RaggedBatch, intermediate: Dense, gelu_form: str, output: Dense, norm: Norm,
        dropout: tuple[float, int], weights: list[Tensor], hidden: Tensor, *_: Tensor,
    ) -> Tensor:  # fmt: skip
        with torch.autocast("cpu", enabled=False):
            derivative = memory.product(hidden, weights[0].t())
            activated = memory.like(derivative)
            _kernels.gelu(derivative, intermediate.bias, gelu_form, activated)
            # Holds the product until `_residual_norm` overwrites it.
            normalized = memory.product(activated, weights[1].t())
        out, rstds = _residual_norm(memory, normalized, output, hidden, norm, batch, dropout)
        ctx.parts = memory, batch, intermediate, output, norm, dropout, weights
        ctx.saved = hidden, derivative, activated, normalized, rstds
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        memory, batch, intermediate, output, norm, dropout, weights = ctx.parts
        hidden, derivative, activated, normalized, rstds = _take_saved(ctx)
        hidden_gradient, dense_gradient = _residual_norm_gradient(
            memory, gradients[0], normalized, rstds, output, norm, batch, dropout
        )
        add_weight_gradient(dense_gradient, activated, output.weight)
        # `activated` is reused: its values are no longer needed.
        activated_gradient = torch.mm(dense_gradient, weights[1], out=activated)
        _kernels.gelu_gradient(derivative, activated_gradient, gradient_of(intermediate.bias))
        add_weight_gradient(activated_gradient, hidden, intermediate.weight)
        hidden_gradient.addmm_(activated_gradient, weights[0])
        return (*(None,) * 8, hidden_gradient, *(None,) * 6)


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
        ctx: Any, labels: Tensor, weight: Tensor, transformed: Tensor, words: Tensor, bias: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        wants_gradients = any(ctx.needs_input_grad)
        loss, correct = 0.0, 0
        words_gradient, last_block = None, None
        bias_gradient = torch.zeros_like(bias) if wants_gradients else None
        transformed_gradient = torch.empty_like(transformed)
        with torch.autocast("cpu", enabled=False):
            for start in range(0, len(labels), HEAD_ROWS):
                rows = slice(start, start + HEAD_ROWS)
                logits = torch.mm(transformed[rows], weight.t())
                sums = _kernels.cross_entropy(logits, bias, labels[rows], bias_gradient)
                loss, correct = loss + sums[0], correct + sums[1]
                if not wants_gradients:
                    continue
                torch.mm(logits, weight, out=transformed_gradient[rows])
                if rows.stop >= len(labels):
                    last_block = logits, transformed[rows]
                elif words_gradient is None:
                    words_gradient = weight_gradient(logits, transformed[rows]).float()
                else:
                    add_product(words_gradient, logits, transformed[rows])
        if wants_gradients:
            ctx.parameters = words, bias
            ctx.saved = words_gradient, last_block, bias_gradient, transformed_gradient
        right = torch.tensor(correct)
        ctx.mark_non_differentiable(right)
        return torch.tensor(loss, dtype=torch.float32), right

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        words, bias = ctx.parameters
        words_gradient, last_block, bias_gradient, transformed_gradient = _take_saved(ctx)
        scale = float(gradients[0])
        gradient_of(bias).add_(bias_gradient, alpha=scale)
        if words_gradient is not None:
            gradient_of(words).add_(words_gradient, alpha=scale)
        if last_block is None:  # no masked tokens: a gradient of zeros
            gradient_of(words)
        else:
            add_weight_gradient(last_block[0], last_block[1] * scale, words)
        return None, None, transformed_gradient * scale, None, None
