"""Parameters of the layers of Hugging Face's encoders, read and checked at every forward pass.

A layer is accelerated only if it consists of exactly the modules that the kernels compute, with nothing attached to
them: the kernels call none of these modules, so an adapter, a quantized layer or a hook would be ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import activations

from bert_large.hugging_face.fallback import UnsupportedError

_CAPTURES = "transformers.utils.output_capturing"
"""Module of the hooks that record hidden states and attentions. They stay after use and are inactive then."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_ATTENTIONS = (None, "eager", "sdpa")
_TENSORS = (nn.Parameter, Tensor)
_PYTORCH_GELU = {"none": "gelu", "tanh": "gelu_pytorch_tanh"}
_GELU_FORMS = {
    type(activations.get_activation(name)): form
    for name, form in (("gelu", "gelu"), ("gelu_new", "gelu_pytorch_tanh"), ("gelu_pytorch_tanh", "gelu_pytorch_tanh"))
}


class Linear(NamedTuple):
    """A linear layer as the engine takes it (`model.operations.Dense`)."""

    weight: Tensor
    bias: Tensor


class Norm(NamedTuple):
    """A LayerNorm as the engine takes it (`model.operations.Norm`)."""

    weight: Tensor
    bias: Tensor
    eps: float


class Layer(NamedTuple):
    """What the engine needs of a layer; dropout probabilities are 0 for modules in evaluation mode."""

    query: Linear
    key: Linear
    value: Linear
    heads: int
    probabilities_dropout: float
    attention_output: Linear
    attention_norm: Norm
    attention_dropout: float
    intermediate: Linear
    activation: str
    output: Linear
    output_norm: Norm
    output_dropout: float


@dataclass(frozen=True)
class Expected:
    """A module's exact class (None: any) and the submodules that it must have, and no others."""

    kind: type[nn.Module] | None
    children: Mapping[str, Expected]


LINEAR, NORM, DROPOUT = (Expected(kind, {}) for kind in (nn.Linear, nn.LayerNorm, nn.Dropout))
ACTIVATION = Expected(None, {})


def bert_layer(modeling: Any, prefix: str) -> Expected:
    """Return the layer of an encoder with BERT's blocks, whose classes have this prefix in a module."""

    def block(name: str, **children: Expected) -> Expected:
        return Expected(getattr(modeling, prefix + name), children)

    attention = block(
        "Attention",
        self=block("SelfAttention", query=LINEAR, key=LINEAR, value=LINEAR, dropout=DROPOUT),
        output=block("SelfOutput", dense=LINEAR, LayerNorm=NORM, dropout=DROPOUT),
    )
    return block(
        "Layer",
        attention=attention,
        intermediate=block("Intermediate", dense=LINEAR, intermediate_act_fn=ACTIVATION),
        output=block("Output", dense=LINEAR, LayerNorm=NORM, dropout=DROPOUT),
    )


def distilbert_layer(modeling: Any) -> Expected:
    """Return the layer of DistilBERT's encoder."""
    attention = dict.fromkeys(("q_lin", "k_lin", "v_lin", "out_lin"), LINEAR) | {"dropout": DROPOUT}
    network = {"dropout": DROPOUT, "lin1": LINEAR, "lin2": LINEAR, "activation": ACTIVATION}
    return Expected(
        modeling.TransformerBlock,
        {
            "attention": Expected(modeling.DistilBertSelfAttention, attention),
            "sa_layer_norm": NORM,
            "ffn": Expected(modeling.FFN, network),
            "output_layer_norm": NORM,
        },
    )


def read_bert_layer(layer: Any) -> Layer:
    """Return the parameters of a layer with BERT's blocks."""
    attention, out = layer.attention.self, layer.attention.output
    width = len(attention.query.weight)
    _check_attention(attention, attention.num_attention_heads, width, layer.chunk_size_feed_forward)
    if attention.is_decoder or attention.is_causal or layer.is_decoder or layer.add_cross_attention:
        raise UnsupportedError("it is a decoder")
    return Layer(
        _linear(attention.query), _linear(attention.key), _linear(attention.value),
        attention.num_attention_heads,
        attention.dropout.p if attention.training else 0.0,
        _linear(out.dense), _norm(out.LayerNorm), _probability(out.dropout),
        _linear(layer.intermediate.dense), _gelu_form(layer.intermediate.intermediate_act_fn),
        _linear(layer.output.dense), _norm(layer.output.LayerNorm), _probability(layer.output.dropout),
    )  # fmt: skip


def read_distilbert_layer(layer: Any) -> Layer:
    """Return the parameters of DistilBERT's layer, which has no dropout after attention."""
    attention, network = layer.attention, layer.ffn
    _check_attention(attention, attention.n_heads, len(attention.q_lin.weight), network.chunk_size_feed_forward)
    return Layer(
        _linear(attention.q_lin), _linear(attention.k_lin), _linear(attention.v_lin),
        attention.n_heads,
        attention.dropout.p if attention.training else 0.0,
        _linear(attention.out_lin), _norm(layer.sa_layer_norm), 0.0,
        _linear(network.lin1), _gelu_form(network.activation),
        _linear(network.lin2), _norm(layer.output_layer_norm), _probability(network.dropout),
    )  # fmt: skip


def read_layer(layer: nn.Module, expected: Expected, read: Callable[[Any], Layer], hidden: int | None) -> Layer:
    """Return a layer's parameters; raise `UnsupportedError` if the kernels would not compute exactly this layer.

    `hidden` is the number of columns of its input, or None if it is not called now.
    """
    _check_modules(layer, expected, "a layer")
    found = read(layer)
    if hidden is None:
        hidden = len(found.query.weight)
    elif getattr(layer, "gradient_checkpointing", False) and layer.training and torch.is_grad_enabled():
        raise UnsupportedError("gradient checkpointing is on")
    wide = len(found.intermediate.weight)
    square = (hidden, hidden)
    shapes = (square, square, square, square, (wide, hidden), (hidden, wide))
    linears = (found.query, found.key, found.value, found.attention_output, found.intermediate, found.output)
    for linear, shape in zip(linears, shapes, strict=True):
        if linear.weight.shape != shape or linear.bias.shape != shape[:1]:
            raise UnsupportedError("a linear layer does not have the shape of the model's other layers")
    if found.attention_norm.weight.shape != (hidden,) or found.output_norm.weight.shape != (hidden,):
        raise UnsupportedError("a LayerNorm does not have the shape of the model's other layers")
    if max(found.probabilities_dropout, found.attention_dropout, found.output_dropout) >= 1:
        raise UnsupportedError("a dropout probability is 1")
    return found


def _check_modules(module: nn.Module, expected: Expected, name: str) -> None:
    if expected.kind is not None and type(module) is not expected.kind:
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        raise UnsupportedError(f"{name} is a {kind}, expected {expected.kind.__module__}.{expected.kind.__qualname__}")
    if module._modules.keys() != expected.children.keys():
        raise UnsupportedError(
            f"{name} has the modules {', '.join(module._modules)}, expected {', '.join(expected.children)}"
        )
    forward = module.__dict__.get("forward")
    if forward is not None and getattr(forward, "__func__", None) is not type(module).forward:
        raise UnsupportedError(f"the forward method of {name} has been replaced")
    for kind in _HOOKS:
        for hook in getattr(module, kind).values():
            if getattr(hook, "__module__", None) != _CAPTURES:
                raise UnsupportedError(f"{name} has a hook")
    for child, wanted in expected.children.items():
        found = module._modules[child]
        if found is None:
            raise UnsupportedError(f"{child} is missing")
        _check_modules(found, wanted, child)


def _check_attention(attention: Any, heads: int, hidden: int, chunk_size: int) -> None:
    implementation = attention.config._attn_implementation
    if implementation not in _ATTENTIONS:
        raise UnsupportedError(f"its attention implementation is {implementation}, expected eager or sdpa")
    if attention.scaling != attention.attention_head_size**-0.5:
        raise UnsupportedError("its attention scores are scaled differently")
    if heads * attention.attention_head_size != hidden:
        raise UnsupportedError("its attention heads are not as wide as the model together")
    if chunk_size:
        raise UnsupportedError("chunk_size_feed_forward is set")


def _linear(linear: nn.Linear) -> Linear:
    return Linear(_plain(linear.weight, "weight"), _plain(linear.bias, "bias"))


def _norm(norm: nn.LayerNorm) -> Norm:
    return Norm(_plain(norm.weight, "weight"), _plain(norm.bias, "bias"), norm.eps)


def _plain(tensor: Tensor | None, name: str) -> Tensor:
    """Return a parameter if kernels can read it."""
    if tensor is None:
        raise UnsupportedError(f"a layer has no {name}")
    if type(tensor) not in _TENSORS or tensor.device.type != "cpu":
        raise UnsupportedError(f"a {name} is a {type(tensor).__name__} on {tensor.device.type}, expected one on cpu")
    if tensor.dtype != torch.float32:
        raise UnsupportedError(f"a {name} is of type {tensor.dtype}, expected torch.float32")
    if not tensor.is_contiguous():
        raise UnsupportedError(f"a {name} is not contiguous")
    return tensor


def _probability(dropout: nn.Dropout) -> float:
    return dropout.p if dropout.training else 0.0


def _gelu_form(activation: nn.Module) -> str:
    """Return the name of the engine's form of GELU."""
    if type(activation) is nn.GELU:
        return _PYTORCH_GELU[activation.approximate]
    if type(activation) not in _GELU_FORMS:
        raise UnsupportedError(f"its activation function is {type(activation).__name__}, expected GELU")
    return _GELU_FORMS[type(activation)]
