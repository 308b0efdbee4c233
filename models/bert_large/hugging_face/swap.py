"""`accelerate` and `restore`: encoders of a Hugging Face model get the accelerated class, or their own one back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from torch import nn

from bert_large.engines.native.build import load_kernels
from bert_large.errors import InputError
from bert_large.hugging_face.encoders import ENCODERS, Accelerated, State, read_layers
from bert_large.hugging_face.fallback import UnsupportedError

Model = TypeVar("Model", bound=nn.Module)
PRECISIONS = (None, "fp32", "bf16")
_ORIGINALS: dict[type[nn.Module], type[nn.Module]] = {kind: original for original, kind in ENCODERS.items()}


def accelerate(model: Model, precision: str | None = None, *, computes_padding: bool | None = None) -> Model:
    """Compute the encoders of a Hugging Face model on the native kernels, which leave out padding.

    The model contains the encoder of a `BertModel`, `DistilBertModel`, `RobertaModel`, `XLMRobertaModel`,
    `CamembertModel` or `ElectraModel` with float32 parameters. It is changed in place: only the class of its encoders
    changes. Class, parameters, `state_dict`, heads, loss, `save_pretrained` and `deepcopy` of the model stay as they
    are, and it can be used in training and evaluation, by the Trainer, by Accelerate, and in `DistributedDataParallel`.

    Real tokens get the same results as before, up to rounding; dropout draws other numbers, from a seed that comes from
    PyTorch's generator. Outputs for padding are zero, except for the first position of each sequence, which classifiers
    read. Calls that the kernels cannot compute (`output_attentions`, gradient checkpointing, `torch.compile`, …) use
    the original forward pass, with one warning for each reason. The backward pass can run only once for each forward
    pass.

    Args:
        model: a model of `transformers`, or any module that contains one. Pass the whole model with its head.
        precision: "bf16" computes the encoder in bfloat16 and returns float32, without autocast; "fp32" computes it in
            float32. None follows `torch.autocast`.
        computes_padding: also compute the outputs for padding as the original does, for a head of your own that reads
            them. The default, None, does so in the models of `transformers` whose heads read them: those for question
            answering, whose loss is a softmax over all positions, and those with a summary of another token than the
            first, which `ElectraForMultipleChoice` can have.

    Returns:
        The same model.

    Raises:
        InputError: the model has no encoder that can be accelerated, for example because of an adapter, a quantized
            layer or another activation function; the message names the difference. The model is then unchanged.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}, expected None, 'fp32' or 'bf16'")
    found: dict[Any, bool] = dict(_find_encoders(model, computes_padding))
    if not found:
        expected = ", ".join(kind.__name__ for kind in ENCODERS)
        raise InputError(f"{type(model).__name__} has no encoder that can be accelerated, expected one of {expected}")
    load_kernels()
    try:
        for encoder in found:
            read_layers(encoder, ENCODERS[_original(encoder)])
    except UnsupportedError as reason:
        raise InputError(f"{type(model).__name__} cannot be accelerated: {reason}") from reason
    for encoder, reads_padding in found.items():
        encoder.bert_large_state = State(precision, reads_padding)
        encoder.__class__ = ENCODERS[_original(encoder)]
    return model


def restore(model: Model) -> Model:
    """Return the same model, its encoders computed by Hugging Face's code again; parameters are kept."""
    accelerated: list[Any] = [module for module in model.modules() if isinstance(module, Accelerated)]
    for encoder in accelerated:
        encoder.__class__ = _original(encoder)
        del encoder.bert_large_state
    return model


def _original(encoder: nn.Module) -> type[nn.Module]:
    """Return the class of an encoder when it is not accelerated."""
    return _ORIGINALS.get(type(encoder), type(encoder))


def _find_encoders(module: nn.Module, reads_padding: bool | None) -> Iterator[tuple[nn.Module, bool]]:
    """Yield the encoders of a model, each with whether a head that it belongs to reads its outputs for padding."""
    if reads_padding is None and _reads_padding(module):
        reads_padding = True
    if _original(module) in ENCODERS:
        yield module, bool(reads_padding)
    for child in module.children():
        yield from _find_encoders(child, reads_padding)


def _reads_padding(module: nn.Module) -> bool:
    """Return whether a module is a model for question answering, or has a summary of more than the first token."""
    return _is_named(module, "ForQuestionAnswering") or any(
        _is_named(child, "SequenceSummary") and getattr(child, "summary_type", None) != "first"
        for child in module.children()
    )


def _is_named(module: nn.Module, ending: str) -> bool:
    """Return whether the name of a module's class, or of a base class, has this ending."""
    return any(kind.__name__.endswith(ending) for kind in type(module).__mro__)
