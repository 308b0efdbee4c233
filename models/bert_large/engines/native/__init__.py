"""The native engine: C++ kernels between matrix products, with hand-written backward passes.

What makes it faster than the eager engine:
- Attention never holds a whole score matrix and computes no padding.
- Bias, dropout, residual and LayerNorm are one pass over memory; so are bias and GELU.
- Dropout's masks are computed again in the backward pass instead of being stored.
- In pretraining, weight gradients are added to `parameter.grad` by the matrix products themselves. So gradients of
  parameters exist in `.grad` only, after `loss.backward()`; `torch.autograd.grad` does not return them. An engine with
  `ReturnedGradients` returns them to autograd.
- Memory of large tensors is kept from one micro-batch to the next.

In bf16 (inside `torch.autocast`), activations and factors of matrix products are bf16; statistics, sums and gradients
of parameters are float32. bf16 copies of the weights are kept and renewed when the optimizer has changed the weights.
fp32 products are PyTorch's, bf16 products kernels of this package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from bert_large.data.batch import RaggedBatch, RaggedRows, Selection
from bert_large.engines.eager import GELU_FORMS
from bert_large.engines.native.build import load_kernels
from bert_large.engines.native.functions import (
    AttentionBlock,
    DenseGelu,
    EmbedNormDropout,
    FeedForwardBlock,
    MaskedCrossEntropy,
    Workspace,
)
from bert_large.engines.native.gradients import DirectGradients, Gradients
from bert_large.engines.native.memory import Rows, WeightCopies
from bert_large.model.dropout import DropoutSite
from bert_large.model.operations import Dense, Norm
from bert_large.optim.lamb import LambArrays, LambSettings

_kernels = torch.ops.bert_large


class NativeEngine:
    """`operations.Operations` in C++ kernels, for float32 and bfloat16."""

    name = "native"
    dtypes = (torch.float32, torch.bfloat16)
    """Types of activations it has kernels for."""

    def __init__(self, gradients: Callable[[], Gradients] = DirectGradients) -> None:
        self.instructions = load_kernels()
        """Instruction set that the kernels are compiled for."""
        self.uses_tiles = _kernels.uses_tiles()
        """Whether bf16 products run on AMX tiles: the CPU has them, and the system lets the process use them."""
        _kernels.keep_large_blocks()
        self._copies = WeightCopies()
        self._workspace = Workspace(Rows(), gradients)

    def embed_norm_dropout(
        self, batch: RaggedBatch, words: Tensor, positions: Tensor, token_types: Tensor, norm: Norm,
        dropout: DropoutSite | None,
    ) -> Tensor:  # fmt: skip
        """See `Operations`."""
        return EmbedNormDropout.apply(
            self._workspace, batch, norm, _dropout_arguments(dropout), _activation_type(), words, positions,
            token_types, norm.weight, norm.bias,
        )  # fmt: skip

    def attention_block(
        self, batch: RaggedRows, hidden: Tensor, query: Dense, key: Dense, value: Dense, heads: int,
        probabilities_dropout: DropoutSite | None, output: Dense, norm: Norm, output_dropout: DropoutSite | None,
        read: Selection | None = None,
    ) -> Tensor:  # fmt: skip
        """See `Operations`."""
        projections = (query, key, value)
        weights = (
            self._copies.of(hidden.dtype, *(dense.weight for dense in projections)),
            self._copies.of(hidden.dtype, output.weight),
        )
        dropouts = (_dropout_arguments(probabilities_dropout), _dropout_arguments(output_dropout))
        return AttentionBlock.apply(
            self._workspace, batch, projections, heads, output, norm, dropouts, read, weights, hidden,
            *_parameters(*projections, output, norm),
        )  # fmt: skip

    def feed_forward_block(
        self, batch: RaggedRows, hidden: Tensor, intermediate: Dense, activation: str, output: Dense, norm: Norm,
        dropout: DropoutSite | None,
    ) -> Tensor:  # fmt: skip
        """See `Operations`."""
        weights = self._copies.of(hidden.dtype, intermediate.weight), self._copies.of(hidden.dtype, output.weight)
        return FeedForwardBlock.apply(
            self._workspace, batch, intermediate, GELU_FORMS[activation], output, norm, _dropout_arguments(dropout),
            weights, hidden, *_parameters(intermediate, output, norm),
        )  # fmt: skip

    def masked_head(
        self, batch: RaggedBatch, hidden: Tensor, transform: Dense, activation: str, norm: Norm, words: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `Operations`. PyTorch computes the LayerNorm of the few masked rows."""
        masked = hidden.index_select(0, batch.masked_positions)
        activated = DenseGelu.apply(
            self._workspace, transform, GELU_FORMS[activation], self._copies.of(masked.dtype, transform.weight), masked,
            *_parameters(transform),
        )  # fmt: skip
        transformed = functional.layer_norm(activated, norm.weight.shape, norm.weight, norm.bias, norm.eps)
        weight = self._copies.of(transformed.dtype, words)
        loss, correct = MaskedCrossEntropy.apply(self._workspace, batch.masked_labels, weight, transformed, words, bias)
        return loss, correct

    def lamb(self, arrays: Sequence[LambArrays], settings: LambSettings) -> None:
        """See `Operations`."""
        _kernels.lamb(
            [entry.weight for entry in arrays], [entry.gradient for entry in arrays],
            [entry.mean for entry in arrays], [entry.mean_square for entry in arrays],
            settings.rate, settings.beta_1, settings.beta_2, settings.epsilon, settings.weight_decay,
            settings.gradient_scale, settings.step, settings.adapt,
        )  # fmt: skip
        # Autograd does not see what the kernel writes, but `WeightCopies` goes by autograd's version counters.
        torch.autograd.graph.increment_version([entry.weight for entry in arrays])

    def global_norm(self, tensors: Sequence[Tensor]) -> float:
        """See `Operations`."""
        return _kernels.global_norm(list(tensors))


def _activation_type() -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


def _dropout_arguments(dropout: DropoutSite | None) -> tuple[float, int]:
    return (0.0, 0) if dropout is None else (dropout.probability, dropout.key)


def _parameters(*modules: Dense | Norm) -> list[Tensor]:
    """Return all parameters, to pass them to autograd, which calls a block's backward pass if one needs a gradient."""
    return [parameter for module in modules for parameter in (module.weight, module.bias)]
