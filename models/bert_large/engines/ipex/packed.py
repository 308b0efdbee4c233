"""Linear layers on weights in oneDNN's blocked layout, packed once per update instead of at every call."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch.nn import functional


@dataclass(frozen=True)
class _Packed:
    """A linear layer's packed parameters, and the versions of the parameters that they were made from."""

    parameters: tuple[torch.Tensor, torch.Tensor]
    versions: tuple[int, int]
    dtype: torch.dtype
    context: Any
    """IPEX's `LinearOpContext`, which holds the packed weight and bias."""

    @classmethod
    def make(cls, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> _Packed:
        context = torch.ops.ipex_prepack.linear_prepack(weight.detach().to(dtype), bias.detach(), None)
        return cls((weight, bias), (weight._version, bias._version), dtype, context)

    def is_current(self, dtype: torch.dtype) -> bool:
        weight, bias = self.parameters
        return self.versions == (weight._version, bias._version) and self.dtype == dtype

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return inputs @ weight.T + bias."""
        return torch.ops.torch_ipex.ipex_linear(inputs, *self._arguments(), len(self.parameters[0]))

    def input_gradient(self, inputs: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """Return gradient @ weight; only the shape of `inputs` is used."""
        weight, bias, handle = self._arguments()
        wanted = [True, False, False]
        return torch.ops.torch_ipex.linear_backward(inputs, weight, bias, gradient, wanted, handle)[0]

    def _arguments(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.context.get_weight(), self.context.get_bias(), self.context.get_data_handle()


class _PackedLinear(torch.autograd.Function):
    """A linear layer whose parameters have float32 gradients in the ordinary layout."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, packed: _Packed
    ) -> torch.Tensor:
        ctx.save_for_backward(inputs)
        ctx.packed = packed
        return packed.forward(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (inputs,) = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        wants_inputs, wants_weight, wants_bias, _ = ctx.needs_input_grad
        return (
            ctx.packed.input_gradient(inputs, gradient) if wants_inputs else None,
            torch.mm(gradient.t(), inputs).float() if wants_weight else None,
            gradient.sum(dim=0, dtype=torch.float32) if wants_bias else None,
            None,
        )


class PackedLinears:
    """Linear layers, packed in the types of matrix products that gain by it, and repacked when weights change."""

    def __init__(self, ipex: ModuleType, *, bf32: bool) -> None:
        """With `bf32`, oneDNN may round the factors of float32 products to bf16."""
        self._packs_float32 = bf32
        mode = ipex.FP32MathMode.BF32 if bf32 else ipex.FP32MathMode.FP32
        ipex.set_fp32_math_mode(mode, device="cpu")
        self._packed: dict[int, _Packed] = {}

    def linear(self, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return inputs @ weight.T + bias; in autocast's type under autocast."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else inputs.dtype
        is_faster = dtype == torch.bfloat16 or (dtype == torch.float32 and self._packs_float32)
        if not is_faster or not len(inputs):  # oneDNN refuses products without rows
            return functional.linear(inputs, weight, bias)
        return _PackedLinear.apply(inputs.to(dtype), weight, bias, self._of(weight, bias, dtype))

    def _of(self, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> _Packed:
        # Holding the parameters keeps their ids from being reused.
        packed = self._packed.get(id(weight))
        if packed is None or not packed.is_current(dtype):
            packed = self._packed[id(weight)] = _Packed.make(weight, bias, dtype)
        return packed
