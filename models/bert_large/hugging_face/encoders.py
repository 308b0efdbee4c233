"""Hugging Face's encoder classes with a forward pass on the native kernels.

`accelerate` gives an encoder one of these classes; its parameters and modules stay what they are. The real tokens of
the padded input are laid end to end, go through the layers, and are put back into place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions
from transformers.models.bert import modeling_bert
from transformers.models.camembert import modeling_camembert
from transformers.models.distilbert import modeling_distilbert
from transformers.models.electra import modeling_electra
from transformers.models.roberta import modeling_roberta
from transformers.models.xlm_roberta import modeling_xlm_roberta

from bert_large.engines.native import NativeEngine
from bert_large.engines.native.gradients import ReturnedGradients
from bert_large.hugging_face.fallback import Reasons, UnsupportedError
from bert_large.hugging_face.layers import (
    Expected,
    Layer,
    bert_layer,
    distilbert_layer,
    read_bert_layer,
    read_distilbert_layer,
    read_layer,
)
from bert_large.hugging_face.padding import PaddedRows, find_rows
from bert_large.model.dropout import Site, StepDropout, site_dropout

try:
    from transformers.utils.output_capturing import _active_collector
except ImportError:  # early versions 5.x replace the forward methods of layers while they record their outputs
    _active_collector = None  # type: ignore[assignment]

_IGNORED = frozenset({"position_ids", "cache_position", "num_items_in_batch", "return_dict"})
"""Arguments that `transformers` passes on to encoders, which do not use them."""
_HOOKS = ("forward_pre", "forward", "backward_pre", "backward")
"""Kinds of hooks that can be registered for all modules at once."""
_COMPILED = Reasons()


class State:
    """What an accelerated encoder has besides its modules. A copy of it shares nothing with it."""

    def __init__(self, precision: str | None, computes_padding: bool) -> None:
        self.precision, self.computes_padding = precision, computes_padding
        self.reasons = Reasons()

    def __reduce__(self) -> tuple[type[State], tuple[str | None, bool]]:
        return State, (self.precision, self.computes_padding)

    @cached_property
    def engine(self) -> NativeEngine:
        """The engine, with the copies of weights that it keeps for this encoder."""
        return NativeEngine(ReturnedGradients)

    def activation_type(self) -> torch.dtype:
        """Return the type of activations for the precision, or for autocast if the precision is None."""
        if self.precision is not None:
            return torch.bfloat16 if self.precision == "bf16" else torch.float32
        if not torch.is_autocast_enabled("cpu"):
            return torch.float32
        dtype = torch.get_autocast_dtype("cpu")
        if dtype not in (torch.bfloat16, torch.float32):
            raise UnsupportedError(f"autocast is on with {dtype}, expected torch.bfloat16")
        return dtype


class Accelerated(nn.Module):
    """The forward pass that accelerated encoders share; a base class before Hugging Face's."""

    bert_large_state: State
    layer: nn.ModuleList
    expected: ClassVar[Expected]
    read: ClassVar[staticmethod[[Any], Layer]]
    output: ClassVar[Callable[..., Any]]

    def forward(self, hidden_states: Tensor, attention_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Return what Hugging Face's encoder returns; rows that `find_rows` leaves out are zero."""
        if torch.compiler.is_compiling():
            _warn_compiling()
            return super().forward(hidden_states, attention_mask, *args, **kwargs)
        state = self.bert_large_state
        try:
            _check_call(hidden_states, args, kwargs)
            dtype = state.activation_type()
            layers = read_layers(self, type(self), hidden_states.shape[-1])
            rows = find_rows(attention_mask, *hidden_states.shape[:2], all_rows=state.computes_padding)
        except UnsupportedError as reason:
            state.reasons.warn(str(reason))
            return super().forward(hidden_states, attention_mask, *args, **kwargs)
        out = _encode(state.engine, rows, rows.gather(hidden_states).to(dtype), layers)
        return type(self).output(last_hidden_state=rows.scatter(out.to(hidden_states.dtype), hidden_states.shape))


def read_layers(encoder: Any, kind: type[Accelerated], hidden: int | None = None) -> list[Layer]:
    """Return the parameters of an encoder's layers; raise `UnsupportedError` if `kind` cannot compute one of them."""
    return [read_layer(layer, kind.expected, kind.read, hidden) for layer in encoder.layer]


@torch.compiler.assume_constant_result
def _warn_compiling() -> None:
    """Run while a model is compiled, not in what is compiled."""
    _COMPILED.warn("PyTorch compiles or exports the model")


def _check_call(hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise `UnsupportedError` for inputs and modes that the kernels do not compute."""
    if type(hidden) not in (Tensor, nn.Parameter) or torch.jit.is_tracing():
        raise UnsupportedError("the model is traced, or its input is not a plain tensor")
    if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack():
        raise UnsupportedError("a function transform or dispatch mode of PyTorch is active")
    if hidden.dtype != torch.float32 or hidden.device.type != "cpu":
        raise UnsupportedError(f"its input is of type {hidden.dtype} on {hidden.device.type}, expected float32 on cpu")
    if hidden.dim() != 3 or not hidden.numel():
        raise UnsupportedError("its input is empty or not [batch, tokens, hidden]")
    if _active_collector is not None and _active_collector.get():
        raise UnsupportedError("hidden states or attentions of the layers are asked for")
    if any(getattr(nn.modules.module, f"_global_{kind}_hooks") for kind in _HOOKS):
        raise UnsupportedError("a hook is registered for all modules")
    names = ["a positional argument"] if any(value is not None for value in args) else []
    names += [name for name, value in kwargs.items() if name not in _IGNORED and not (value is None or value is False)]
    if names:
        raise UnsupportedError(f"its forward pass gets {', '.join(names)}")


def _encode(engine: NativeEngine, rows: PaddedRows, hidden: Tensor, layers: list[Layer]) -> Tensor:
    """Return the output of the layers for the rows [T, hidden]."""
    drops = any(layer.probabilities_dropout or layer.attention_dropout or layer.output_dropout for layer in layers)
    # From PyTorch's generator, so that `torch.manual_seed` and `transformers.set_seed` determine the dropout.
    dropout = StepDropout(int(torch.randint(1 << 62, ())), 0) if drops else None
    for number, layer in enumerate(cast(list[Any], layers)):  # its tuples have the attributes of `Dense` and `Norm`
        sites = (
            (layer.probabilities_dropout, Site.ATTENTION_PROBABILITIES),
            (layer.attention_dropout, Site.ATTENTION_OUTPUT),
            (layer.output_dropout, Site.FEED_FORWARD_OUTPUT),
        )
        drop = [site_dropout(dropout, probability, number, site) for probability, site in sites]
        hidden = engine.attention_block(
            rows, hidden, layer.query, layer.key, layer.value, layer.heads, drop[0], layer.attention_output,
            layer.attention_norm, drop[1],
        )  # fmt: skip
        hidden = engine.feed_forward_block(
            rows, hidden, layer.intermediate, layer.activation, layer.output, layer.output_norm, drop[2]
        )
    return hidden


class _WithBertLayers(Accelerated):
    read = staticmethod(read_bert_layer)
    output = BaseModelOutputWithPastAndCrossAttentions


class AcceleratedBertEncoder(_WithBertLayers, modeling_bert.BertEncoder):
    """The encoder of `BertModel`."""

    expected = bert_layer(modeling_bert, "Bert")


class AcceleratedRobertaEncoder(_WithBertLayers, modeling_roberta.RobertaEncoder):
    """The encoder of `RobertaModel`."""

    expected = bert_layer(modeling_roberta, "Roberta")


class AcceleratedXLMRobertaEncoder(_WithBertLayers, modeling_xlm_roberta.XLMRobertaEncoder):
    """The encoder of `XLMRobertaModel`."""

    expected = bert_layer(modeling_xlm_roberta, "XLMRoberta")


class AcceleratedCamembertEncoder(_WithBertLayers, modeling_camembert.CamembertEncoder):
    """The encoder of `CamembertModel`."""

    expected = bert_layer(modeling_camembert, "Camembert")


class AcceleratedElectraEncoder(_WithBertLayers, modeling_electra.ElectraEncoder):
    """The encoder of `ElectraModel`."""

    expected = bert_layer(modeling_electra, "Electra")


class AcceleratedDistilBertEncoder(Accelerated, modeling_distilbert.Transformer):
    """The encoder of `DistilBertModel`."""

    expected = distilbert_layer(modeling_distilbert)
    read = staticmethod(read_distilbert_layer)
    output = BaseModelOutput


ENCODERS: dict[type[nn.Module], type[Accelerated]] = {
    kind.__mro__[kind.__mro__.index(nn.Module) - 1]: kind
    for kind in (
        AcceleratedBertEncoder,
        AcceleratedRobertaEncoder,
        AcceleratedXLMRobertaEncoder,
        AcceleratedCamembertEncoder,
        AcceleratedElectraEncoder,
        AcceleratedDistilBertEncoder,
    )
}
"""The accelerated class of each class of Hugging Face's encoders."""
