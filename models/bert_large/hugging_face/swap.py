"""`accelerate` and `restore`: encoders of a Hugging Face model get the accelerated class, or their own one back."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from bert_large.engines.native.build import load_kernels
from bert_large.errors import InputError
from bert_large.hugging_face.encoders import ENCODERS, Accelerated, State, read_layers
from bert_large.hugging_face.fallback import UnsupportedError

Model = TypeVar("Model", bound=nn.Module)
PRECISIONS = (None, "fp32", "bf16")
_ORIGINALS = {accelerated: original for original, accelerated in ENCODERS.items()}


def accelerate(model: Model, precision: str | None = None) -> Model:
    """Return `model` itself, its BERT encoders now computed by the native kernels, without padding.

    TODO
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}, expected None, 'fp32' or 'bf16'")
    restore(model)
    encoders = [module for module in model.modules() if type(module) in ENCODERS]
    if not encoders:
        expected = ", ".join(kind.__name__ for kind in ENCODERS)
        raise InputError(f"{type(model).__name__} contains no encoder that can be accelerated, expected one of {expected}")
    load_kernels()
    try:
        for encoder in encoders:
            read_layers(encoder, ENCODERS[type(encoder)])
    except UnsupportedError as reason:
        raise InputError(f"{type(model).__name__} cannot be accelerated: {reason}") from reason
    for encoder in encoders:
        encoder.bert_large_state = State(precision)
        encoder.__class__ = ENCODERS[type(encoder)]
    return model


def restore(model: Model) -> Model:
    """Return `model` itself, its encoders computed by Hugging Face's code again; parameters are kept."""
    for module in model.modules():
        if isinstance(module, Accelerated):
            module.__class__ = _ORIGINALS[type(module)]
            del module.bert_large_state
    return model
