"""Between TensorFlow's variables and the model's parameters: every one of them, equal to the last bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from bert_large.config.hugging_face import BERT
from bert_large.config.model import ModelConfig
from bert_large.convert.names import is_transposed, tensorflow_name
from bert_large.convert.tf_checkpoint import TensorFlowCheckpoint
from bert_large.errors import InputError
from bert_large.model.bert import skeleton
from bert_large.optim.build import moment_names

GLOBAL_STEP = "global_step"
_NO_WEIGHTS = (GLOBAL_STEP, "beta1_power", "beta2_power")
# First and second moment, by the suffixes of the reference's LAMB as TensorFlow names slots, and as it did itself.
_SLOTS = (("/LAMB", "/LAMB_1"), ("/adam_m", "/adam_v"))
_NAMED = 5
"""Variables that an error names; a checkpoint of another model can have hundreds."""


def require_convertible(config: ModelConfig, source: str) -> None:
    """Refuse a model that the reference's graph is not of."""
    if config.architecture != BERT:
        raise InputError(
            f"{source} is of {config.architecture}; TensorFlow checkpoints of MLCommons and Google are of {BERT}, BERT "
            "with both pretraining heads, and no others are converted"
        )


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by name."""
    return {name: tuple(parameter.shape) for name, parameter in skeleton(config).named_parameters()}


def check_variables(source: TensorFlowCheckpoint, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `InputError` unless the checkpoint holds just the parameters of these shapes, and what training leaves."""
    expected = {tensorflow_name(name) for name in shapes}
    slots = tuple(suffix for pair in _SLOTS for suffix in pair)
    weights = {name for name in source.shapes if not name.endswith(slots) and name not in _NO_WEIGHTS}
    problems = []
    if missing := expected - weights:
        problems.append(f"lacks {_list(missing)}")
    if unknown := weights - expected:
        problems.append(f"holds {_list(unknown)}, which the model does not have")
    if problems:
        raise InputError(
            f"--tf-checkpoint {source.prefix} {'; it '.join(problems)}. Expected the variables of BERT with both "
            "pretraining heads, and a --config-file with its number of layers"
        )
    _check_shapes(source, shapes, suffix="")


def choose_slots(source: TensorFlowCheckpoint, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, str]:
    """Return the suffixes of first and second moments; raise `InputError` unless every parameter has both."""
    for pair in _SLOTS:
        expected = {tensorflow_name(name) + suffix for name in shapes for suffix in pair}
        missing = expected - source.shapes.keys()
        if len(missing) == len(expected):
            continue
        if missing:
            raise InputError(f"--tf-checkpoint {source.prefix} has moments, but lacks {_list(missing)}")
        for suffix in pair:
            _check_shapes(source, shapes, suffix)
        return pair
    raise InputError(
        f"--tf-checkpoint {source.prefix} holds no moments (variables that end in "
        f"{' or '.join(' and '.join(pair) for pair in _SLOTS)}); leave --moments out"
    )


def read_step(source: TensorFlowCheckpoint) -> int:
    """Return the optimizer steps that the checkpoint was trained for."""
    if GLOBAL_STEP not in source.shapes:
        raise InputError(f"--tf-checkpoint {source.prefix} has no {GLOBAL_STEP}, by which --moments tells the step")
    return int(source.read(GLOBAL_STEP))


def read_parameters(source: TensorFlowCheckpoint, names: Iterable[str], suffix: str = "") -> dict[str, torch.Tensor]:
    """Return the variables (or, with a slot's suffix, moments) of parameters, in the parameters' shapes."""
    tensors = {}
    for name in names:
        variable = tensorflow_name(name)
        values = torch.from_numpy(source.read(variable + suffix))
        tensors[name] = values.T.contiguous() if is_transposed(variable) else values
    return tensors


def read_moments(
    source: TensorFlowCheckpoint, names: Iterable[str], slots: tuple[str, str]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield both moments of parameters, named as a checkpoint of ours does, one at a time."""
    for name in names:
        for moment, suffix in zip(moment_names(name), slots, strict=True):
            yield moment, read_parameters(source, [name], suffix)[name]


def to_variables(weights: Mapping[str, torch.Tensor], step: int) -> dict[str, NDArray[np.generic]]:
    """Return TensorFlow's variables of the parameters, and the step."""
    variables: dict[str, NDArray[np.generic]] = {}
    for name, values in weights.items():
        variable = tensorflow_name(name)
        variables[variable] = (values.T.contiguous() if is_transposed(variable) else values).numpy()
    return variables | {GLOBAL_STEP: np.array(step, np.int64)}


def _check_shapes(source: TensorFlowCheckpoint, shapes: Mapping[str, tuple[int, ...]], suffix: str) -> None:
    problems = []
    for name, shape in shapes.items():
        variable = tensorflow_name(name)
        expected = shape[::-1] if is_transposed(variable) else shape
        variable += suffix
        found, dtype = source.shapes[variable], source.dtypes[variable]
        if found != expected:
            problems.append(f"{variable} is {list(found)}, the model configuration makes it {list(expected)}")
        elif dtype != "float32":
            problems.append(f"{variable} is of type {dtype}, expected float32")
    if problems:
        more = f"; and {len(problems) - _NAMED} others" if len(problems) > _NAMED else ""
        raise InputError(f"--tf-checkpoint {source.prefix}: {'; '.join(problems[:_NAMED])}{more}")


def _list(variables: Iterable[str]) -> str:
    names = sorted(variables)
    more = f" and {len(names) - _NAMED} others" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
