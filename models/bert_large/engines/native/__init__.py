"""The native engine: C++ kernels around PyTorch's matrix products, forward and backward written out by hand.

What it saves over the eager engine: attention keeps no score matrix in memory and pads nothing; bias, dropout,
residual, LayerNorm and GELU are single passes; dropout's masks are made anew in the backward pass; weight gradients are
added to `parameter.grad` by the matrix product itself. Gradients of parameters therefore appear in `.grad` only: ask
`loss.backward()` for them, not `torch.autograd.grad`. Memory of large tensors is kept from one micro-batch to the next.

In bf16 (inside `torch.autocast`) activations and matrix products are bf16, statistics, sums and gradients of parameters
float32; bf16 copies of the weights are kept and renewed when the optimizer has changed the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bert_large.data.batch import RaggedBatch
from bert_large.engines.eager import GELU_FORMS, EagerEngine
from bert_large.engines.native.build import load_kernels
from bert_large.model.dropout import DropoutSite
from bert_large.model.operations import Dense, Norm
from bert_large.optim.lamb import LambArrays, LambSettings

_HEAD_ROWS = 512  # rows of logits in memory at once: 60 MB for BERT's vocabulary
_kernels = torch.ops.bert_large


class NativeEngine:
    """`operations.Operations` in C++ kernels, for float32 and bfloat16."""

    name = "native"
    dtypes = (torch.float32, torch.bfloat16)
    """Of activations."""

    def __init__(self) -> None:
        self.instructions = load_kernels()
        _kernels.keep_large_blocks()
        self._copies = _WeightCopies()
        self._rows = _Rows()
        self._eager = EagerEngine()

    def embed_norm_dropout(
        self,
        batch: RaggedBatch,
        words: torch.Tensor,
        positions: torch.Tensor,
        token_types: torch.Tensor,
        norm: Norm,
        dropout: DropoutSite | None,
    ) -> torch.Tensor:
        """See `Operations`."""
        return _EmbedNormDropout.apply(
            batch, norm, _dropout_arguments(dropout), _activation_type(), words, positions, token_types,
            norm.weight, norm.bias,
        )  # fmt: skip

    def attention_block(
        self,
        batch: RaggedBatch,
        hidden: torch.Tensor,
        query: Dense,
        key: Dense,
        value: Dense,
        heads: int,
        probabilities_dropout: DropoutSite | None,
        output: Dense,
        norm: Norm,
        output_dropout: DropoutSite | None,
    ) -> torch.Tensor:
        """See `Operations`."""
        projections = (query, key, value)
        weights = [
            self._copies.of(hidden.dtype, *(dense.weight for dense in projections)),
            self._copies.of(hidden.dtype, output.weight),
        ]
        dropouts = (_dropout_arguments(probabilities_dropout), _dropout_arguments(output_dropout))
        return _AttentionBlock.apply(
            self._rows, batch, projections, heads, output, norm, dropouts, weights, hidden,
            *_parameters(*projections, output, norm),
        )  # fmt: skip

    def feed_forward_block(
        self,
        batch: RaggedBatch,
        hidden: torch.Tensor,
        intermediate: Dense,
        activation: str,
        output: Dense,
        norm: Norm,
        dropout: DropoutSite | None,
    ) -> torch.Tensor:
        """See `Operations`."""
        weights = [self._copies.of(hidden.dtype, dense.weight) for dense in (intermediate, output)]
        return _FeedForwardBlock.apply(
            self._rows, batch, intermediate, GELU_FORMS[activation], output, norm, _dropout_arguments(dropout), weights,
            hidden, *_parameters(intermediate, output, norm),
        )  # fmt: skip

    def masked_head(
        self,
        batch: RaggedBatch,
        hidden: torch.Tensor,
        transform: Dense,
        activation: str,
        norm: Norm,
        words: torch.Tensor,
        bias: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Operations`. The few masked rows are transformed by PyTorch; the vocabulary is the kernels' part."""
        masked = hidden.index_select(0, batch.masked_positions)
        transformed = self._eager.transform(masked, transform, activation, norm)
        weight = self._copies.of(transformed.dtype, words)
        loss, correct = _MaskedCrossEntropy.apply(batch.masked_labels, weight, transformed, words, bias)
        return loss, correct

    def lamb(self, arrays: Sequence[LambArrays], settings: LambSettings) -> None:
        """See `Operations`."""
        _kernels.lamb(
            [entry.weight for entry in arrays], [entry.gradient for entry in arrays],
            [entry.mean for entry in arrays], [entry.mean_square for entry in arrays],
            settings.rate, settings.beta_1, settings.beta_2, settings.epsilon, settings.weight_decay,
            settings.gradient_scale, settings.step, settings.adapt,
        )  # fmt: skip
        # The kernel writes behind autograd's back: the copies of `_WeightCopies` go by these counters.
        torch.autograd.graph.increment_version([entry.weight for entry in arrays])

    def global_norm(self, tensors: Sequence[torch.Tensor]) -> float:
        """See `Operations`."""
        return _kernels.global_norm(list(tensors))


class _Rows:
    """Memory for activations and their gradients: always for as many rows as the largest batch had.

    So micro-batches of different sizes use the same blocks; in sizes of their own they would add up.
    """

    def __init__(self) -> None:
        self._capacity = 0

    def empty(self, rows: int, columns: int, *, dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialised matrix [rows, columns]."""
        self._capacity = max(self._capacity, rows)
        return torch.empty(self._capacity, columns, dtype=dtype)[:rows]

    def like(self, other: torch.Tensor) -> torch.Tensor:
        """Return an uninitialised matrix of another's shape and type."""
        return self.empty(*other.shape, dtype=other.dtype)

    def product(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Return left @ right."""
        return torch.mm(left, right, out=self.empty(len(left), right.shape[1], dtype=left.dtype))


class _WeightCopies:
    """Weights as matrix products want them, in the activations' type and several as one; renewed when they change."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[tuple[torch.Tensor, ...], list[int], torch.Tensor]] = {}

    def of(self, dtype: torch.dtype, *weights: torch.Tensor) -> torch.Tensor:
        """Return weights [rows, columns] one below the other in `dtype`, a single one of that type itself."""
        first = weights[0]
        if len(weights) == 1 and first.dtype == dtype:
            return first.detach()
        # The entry holds the weights, so that their ids are not given to others.
        held, versions, copy = self._copies.get(id(first), (weights, [], None))
        if copy is None or copy.dtype != dtype:
            copy, versions = torch.empty(sum(map(len, weights)), *first.shape[1:], dtype=dtype), []
        if versions != [weight._version for weight in weights]:
            torch.cat([weight.detach() for weight in weights], out=copy)
            self._copies[id(first)] = held, [weight._version for weight in weights], copy
        return copy


def _activation_type() -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def _dropout_arguments(dropout: DropoutSite | None) -> tuple[float, int]:
    return (0.0, 0) if dropout is None else (dropout.probability, dropout.key)


def _parameters(*modules: Dense | Norm) -> list[torch.Tensor]:
    """Return all parameters: handed to autograd, they say which gradients a block's backward pass makes."""
    return [parameter for module in modules for parameter in (module.weight, module.bias)]


def _gradient(parameter: torch.Tensor) -> torch.Tensor:
    """Return where the gradient of a parameter is gathered; nowhere in particular if none is wanted."""
    if not parameter.requires_grad:
        return torch.zeros_like(parameter)
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _add_weight_gradient(out_gradient: torch.Tensor, inputs: torch.Tensor, *weights: torch.Tensor) -> None:
    """Gather out_gradient.T @ inputs as the gradient of weights that lie one below the other, in float32.

    Fresh gradients of several weights are made as parts of one tensor, so that one product serves all of them.
    """
    gradients = [weight.grad for weight in weights]
    all_wanted = all(weight.requires_grad for weight in weights)
    if all_wanted and all(gradient is None for gradient in gradients):
        joint = _weight_gradient(out_gradient, inputs).float()
        for weight, part in zip(weights, joint.split([len(weight) for weight in weights]), strict=True):
            weight.grad = part
        return
    joint_gradient = _as_one(gradients) if all_wanted else None
    if joint_gradient is not None:
        _add_product(joint_gradient, out_gradient, inputs)
        return
    parts = out_gradient.split([len(weight) for weight in weights], dim=1)
    for weight, part in zip(weights, parts, strict=True):
        if weight.requires_grad:
            _add_product(_gradient(weight), part, inputs)


def _add_product(target: torch.Tensor, out_gradient: torch.Tensor, inputs: torch.Tensor) -> None:
    """target += out_gradient.T @ inputs; the sum is in float32 whatever the type of the factors."""
    if inputs.dtype == target.dtype:
        target.addmm_(out_gradient.t(), inputs)
    else:
        _kernels.add_bfloat16(target, _weight_gradient(out_gradient, inputs))


def _weight_gradient(out_gradient: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Return out_gradient.T @ inputs in their type.

    oneDNN's bfloat16 product of a transposed view takes twice as long as one of a transposed copy.
    """
    if inputs.dtype == torch.bfloat16:
        return torch.mm(_kernels.transposed(out_gradient.contiguous()), inputs)
    return torch.mm(out_gradient.t(), inputs)


def _as_one(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """Return matrices that follow one another in memory as one matrix, None if they don't."""
    first = parts[0]
    if first is None:
        return None
    end = first.data_ptr()
    for part in parts:
        if part is None or not part.is_contiguous() or part.data_ptr() != end:
            return None
        end += part.nbytes
    if end - first.data_ptr() > first.untyped_storage().nbytes() - first.storage_offset() * first.element_size():
        return None  # neighbours by chance, of different tensors
    return first.as_strided((sum(len(part) for part in parts if part is not None), first.shape[1]), first.stride())


def _take_saved(ctx: Any) -> Any:
    """Return what a forward pass saved and let go of it: it is worked on in place, and freed while the loss lives."""
    saved, ctx.saved = ctx.saved, None
    if saved is None:
        raise RuntimeError("engine native cannot go backward through the same forward pass a second time")
    return saved


def _token_places(batch: RaggedBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return batch.samples, batch.sequence_ids, batch.position_ids


def _norm_statistics(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty(rows, dtype=torch.float32), torch.empty(rows, dtype=torch.float32)


class _EmbedNormDropout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        batch: RaggedBatch,
        norm: Norm,
        dropout: tuple[float, int],
        dtype: torch.dtype,
        words: torch.Tensor,
        positions: torch.Tensor,
        token_types: torch.Tensor,
        *_: torch.Tensor,
    ) -> torch.Tensor:
        out = torch.empty(batch.tokens, words.shape[1], dtype=dtype)
        means, rstds = _norm_statistics(batch.tokens)
        _kernels.embed_norm(
            words, positions, token_types, batch.input_ids, batch.position_ids, batch.token_type_ids,
            norm.weight, norm.bias, norm.eps, batch.samples, batch.sequence_ids, *dropout, out, means, rstds,
        )  # fmt: skip
        ctx.saved = batch, norm, dropout, (words, positions, token_types), means, rstds
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, ...]:
        batch, norm, dropout, tables, means, rstds = _take_saved(ctx)
        _kernels.embed_norm_gradient(
            gradients[0].contiguous(), *tables, batch.input_ids, batch.position_ids, batch.token_type_ids,
            means, rstds, norm.weight, norm.bias, norm.eps, batch.samples, batch.sequence_ids, *dropout,
            *map(_gradient, tables), _gradient(norm.weight), _gradient(norm.bias),
        )  # fmt: skip
        return (None,) * 9


class _AttentionBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        memory: _Rows,
        batch: RaggedBatch,
        projections: tuple[Dense, Dense, Dense],
        heads: int,
        output: Dense,
        norm: Norm,
        dropouts: tuple[tuple[float, int], tuple[float, int]],
        weights: list[torch.Tensor],
        hidden: torch.Tensor,
        *_: torch.Tensor,
    ) -> torch.Tensor:
        rows = len(hidden)
        with torch.autocast("cpu", enabled=False):
            qkv = memory.product(hidden, weights[0].t())
            bias = torch.cat([dense.bias for dense in projections])
            context, log_sums = memory.like(hidden), torch.empty(heads, rows, dtype=torch.float32)
            _kernels.attention(qkv, bias, batch.cu_seqlens, batch.samples, heads, *dropouts[0], context, log_sums)
            sums = memory.product(context, weights[1].t())
        out = memory.like(hidden)
        means, rstds = _norm_statistics(rows)
        _kernels.residual_norm(
            sums, output.bias, hidden, norm.weight, norm.bias, norm.eps, *_token_places(batch), *dropouts[1],
            out, means, rstds,
        )  # fmt: skip
        ctx.parts = memory, batch, projections, heads, output, norm, dropouts, weights
        ctx.saved = hidden, qkv, bias, context, log_sums, sums, means, rstds
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        memory, batch, projections, heads, output, norm, dropouts, weights = ctx.parts
        hidden, qkv, bias, context, log_sums, sums, means, rstds = _take_saved(ctx)
        hidden_gradient, dense_gradient = (memory.like(hidden) for _ in range(2))
        _kernels.residual_norm_gradient(
            gradients[0].contiguous(), sums, means, rstds, norm.weight, norm.bias, norm.eps, *_token_places(batch),
            *dropouts[1], hidden_gradient, dense_gradient, _gradient(norm.weight), _gradient(norm.bias),
            _gradient(output.bias),
        )  # fmt: skip
        _add_weight_gradient(dense_gradient, context, output.weight)
        context_gradient = memory.product(dense_gradient, weights[1])
        qkv_gradient, bias_gradient = memory.like(qkv), torch.zeros_like(bias)
        _kernels.attention_gradient(
            qkv, bias, batch.cu_seqlens, batch.samples, heads, *dropouts[0], context, log_sums, context_gradient,
            qkv_gradient, bias_gradient,
        )  # fmt: skip
        for dense, part in zip(projections, bias_gradient.chunk(3), strict=True):
            _gradient(dense.bias).add_(part)
        _add_weight_gradient(qkv_gradient, hidden, *(dense.weight for dense in projections))
        hidden_gradient.addmm_(qkv_gradient, weights[0])
        return (*(None,) * 8, hidden_gradient, *(None,) * 10)


class _FeedForwardBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        memory: _Rows,
        batch: RaggedBatch,
        intermediate: Dense,
        gelu_form: str,
        output: Dense,
        norm: Norm,
        dropout: tuple[float, int],
        weights: list[torch.Tensor],
        hidden: torch.Tensor,
        *_: torch.Tensor,
    ) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            derivative = memory.product(hidden, weights[0].t())
            activated = memory.like(derivative)
            _kernels.gelu(derivative, intermediate.bias, gelu_form, activated)
            sums = memory.product(activated, weights[1].t())
        out = memory.like(hidden)
        means, rstds = _norm_statistics(hidden.shape[0])
        _kernels.residual_norm(
            sums, output.bias, hidden, norm.weight, norm.bias, norm.eps, *_token_places(batch), *dropout,
            out, means, rstds,
        )  # fmt: skip
        ctx.parts = memory, batch, intermediate, output, norm, dropout, weights
        ctx.saved = hidden, derivative, activated, sums, means, rstds
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        memory, batch, intermediate, output, norm, dropout, weights = ctx.parts
        hidden, derivative, activated, sums, means, rstds = _take_saved(ctx)
        hidden_gradient, dense_gradient = (memory.like(hidden) for _ in range(2))
        _kernels.residual_norm_gradient(
            gradients[0].contiguous(), sums, means, rstds, norm.weight, norm.bias, norm.eps, *_token_places(batch),
            *dropout, hidden_gradient, dense_gradient, _gradient(norm.weight), _gradient(norm.bias),
            _gradient(output.bias),
        )  # fmt: skip
        _add_weight_gradient(dense_gradient, activated, output.weight)
        activated_gradient = torch.mm(dense_gradient, weights[1], out=activated)  # its values are used up
        _kernels.gelu_gradient(derivative, activated_gradient, _gradient(intermediate.bias))
        _add_weight_gradient(activated_gradient, hidden, intermediate.weight)
        hidden_gradient.addmm_(activated_gradient, weights[0])
        return (*(None,) * 8, hidden_gradient, *(None,) * 6)


class _MaskedCrossEntropy(torch.autograd.Function):
    """Cross-entropy over the vocabulary, a block of rows at a time.

    Gradients are made in the forward pass, while a block's logits are there, for a loss gradient of 1; the backward
    pass scales them. The last block's part of the vocabulary's gradient, mostly all of it, is left to the backward
    pass, which scales the few rows instead of the large result.
    """

    @staticmethod
    def forward(
        ctx: Any,
        labels: torch.Tensor,
        weight: torch.Tensor,
        transformed: torch.Tensor,
        words: torch.Tensor,
        bias: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wants_gradients = any(ctx.needs_input_grad)
        loss, correct = 0.0, 0
        words_gradient, last_block = None, None
        bias_gradient = torch.zeros_like(bias) if wants_gradients else None
        transformed_gradient = torch.empty_like(transformed)
        with torch.autocast("cpu", enabled=False):
            for start in range(0, len(labels), _HEAD_ROWS):
                rows = slice(start, start + _HEAD_ROWS)
                logits = torch.mm(transformed[rows], weight.t())
                sums = _kernels.cross_entropy(logits, bias, labels[rows], bias_gradient)
                loss, correct = loss + sums[0], correct + sums[1]
                if not wants_gradients:
                    continue
                torch.mm(logits, weight, out=transformed_gradient[rows])
                if rows.stop >= len(labels):
                    last_block = logits, transformed[rows]
                elif words_gradient is None:
                    words_gradient = _weight_gradient(logits, transformed[rows]).float()
                else:
                    _add_product(words_gradient, logits, transformed[rows])
        if wants_gradients:
            ctx.parameters = words, bias
            ctx.saved = words_gradient, last_block, bias_gradient, transformed_gradient
        right = torch.tensor(correct)
        ctx.mark_non_differentiable(right)
        return torch.tensor(loss, dtype=torch.float32), right

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        words, bias = ctx.parameters
        words_gradient, last_block, bias_gradient, transformed_gradient = _take_saved(ctx)
        scale = float(gradients[0])
        _gradient(bias).add_(bias_gradient, alpha=scale)
        if words_gradient is not None:
            _gradient(words).add_(words_gradient, alpha=scale)
        if last_block is None:  # no masked tokens: a gradient of zeros
            _gradient(words)
        else:
            _add_weight_gradient(last_block[0], last_block[1] * scale, words)
        return None, None, transformed_gradient * scale, None, None
