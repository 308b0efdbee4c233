"""Conversion between the variables of TensorFlow and the parameters of the model, exact to the last bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from bert_large.config.hugging_face import BERT
from bert_large.config.model import ModelConfig
from bert_large.convert import names as tf_names
from bert_large.convert.names import NAMED, Variables, is_transposed, list_names
from bert_large.convert.tf_checkpoint import TensorFlowCheckpoint
from bert_large.errors import InputError
from bert_large.model.bert import skeleton
from bert_large.model.weight_files import require_finite
from bert_large.optim.build import moment_names

GLOBAL_STEP = "global_step"
# First and second moment: suffixes of the slots of the reference's LAMB, as TensorFlow and as the optimizer names them.
_SLOTS = (("/LAMB", "/LAMB_1"), ("/adam_m", "/adam_v"))
_OPTIMIZER_SLOT = "/.OPTIMIZER_SLOT/"


def require_convertible(config: ModelConfig, source: str) -> None:
    """Raise `InputError` for a model that these checkpoints cannot hold."""
    if config.architecture != BERT:
        raise InputError(
            f"{source} is of {config.architecture}; TensorFlow checkpoints of MLCommons and Google are of {BERT}, BERT "
            "with both pretraining heads, and no others are converted"
        )


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by name."""
    return {name: tuple(parameter.shape) for name, parameter in skeleton(config).named_parameters()}


def variables_of(source: TensorFlowCheckpoint, config: ModelConfig) -> Variables:
    """Return the variables of the checkpoint for all parameters, or for the encoder's of an object checkpoint.

    Raises `InputError` unless it holds exactly these, with their shapes, beside the state of training.
    """
    shapes = parameter_shapes(config)
    root = tf_names.object_root(source.shapes)
    if root is None:
        variables, expected = tf_names.graph_variables(shapes), "BERT with both pretraining heads"
    else:
        encoder = {name: shape for name, shape in shapes.items() if name.startswith("bert.")}
        variables, expected = tf_names.object_variables(root, encoder, config.num_attention_heads), "an encoder of BERT"
    names = set(variables.names.values())
    problems = []
    if missing := names - source.shapes.keys():
        problems.append(f"lacks {list_names(missing)}")
    if unknown := source.shapes.keys() - names - set(training_state(source, variables)):
        problems.append(f"holds {list_names(unknown)}, which the model does not have")
    if problems:
        objects = "_CHECKPOINTABLE_OBJECT_GRAPH" in source.shapes
        advice = (
            " This is an object checkpoint of TensorFlow 2, of which encoders with layers named layer_with_weights-0 "
            "and so on are read; load any other in the program that wrote it, and save its weights for `transformers`"
        )
        raise InputError(
            f"--tf-checkpoint {source.prefix} {'; it '.join(problems)}. Expected the variables of {expected}, and a "
            f"--config-file with its number of layers.{advice if objects else ''}"
        )
    _check_shapes(source, variables, suffix="")
    return variables


def training_state(source: TensorFlowCheckpoint, variables: Variables) -> list[str]:
    """Return the variables that are not weights of any model, sorted by name.

    Those are scalars and texts, such as steps, loss scales and the graph of objects, and what optimizers keep for a
    parameter, whose name contains the parameter's: moments, moving averages.
    """
    names = set(variables.names.values())

    def belongs_to_parameter(name: str) -> bool:
        parts = name.split("/")
        return _OPTIMIZER_SLOT in name or any(
            "/".join(parts[first:last]) in names for first, last in combinations(range(len(parts) + 1), 2)
        )

    return sorted(
        name
        for name, shape in source.shapes.items()
        if name not in names and (shape == () or source.dtypes[name] == "string" or belongs_to_parameter(name))
    )


def choose_slots(source: TensorFlowCheckpoint, variables: Variables) -> tuple[str, str]:
    """Return the suffixes of first and second moments; raise `InputError` unless every parameter has both."""
    for pair in _SLOTS:
        expected = {name + suffix for name in variables.names.values() for suffix in pair}
        missing = expected - source.shapes.keys()
        if len(missing) == len(expected):
            continue
        if missing:
            raise InputError(f"--tf-checkpoint {source.prefix} has moments, but lacks {list_names(missing)}")
        for suffix in pair:
            _check_shapes(source, variables, suffix)
        return pair
    raise InputError(
        f"--tf-checkpoint {source.prefix} holds no moments (variables that end in "
        f"{' or '.join(' and '.join(pair) for pair in _SLOTS)}); leave --moments out"
    )


def read_step(source: TensorFlowCheckpoint) -> int:
    """Return the number of optimizer steps of the checkpoint."""
    if GLOBAL_STEP not in source.shapes:
        raise InputError(f"--tf-checkpoint {source.prefix} has no {GLOBAL_STEP}, which --moments needs")
    return int(source.read(GLOBAL_STEP))


def read_parameters(
    source: TensorFlowCheckpoint, variables: Variables, suffix: str = ""
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each parameter's name and its variable (or, with a slot's suffix, its moment) in the parameter's shape.

    Raises `NonFiniteWeightsError` for values that are not finite, or too large to train with.
    """
    for parameter, variable in variables.names.items():
        values = torch.from_numpy(source.read(variable + suffix))
        require_finite({variable + suffix: values}, f"--tf-checkpoint {source.prefix}")
        if parameter.endswith("attention.output.dense.weight"):
            values = values.reshape(-1, values.shape[-1])  # [heads, size, hidden] in object checkpoints
        elif ".attention.self." in parameter:
            values = values.reshape(values.shape[0], -1) if is_transposed(variable) else values.reshape(-1)
        yield parameter, values.T.contiguous() if is_transposed(variable) else values


def read_moments(
    source: TensorFlowCheckpoint, variables: Variables, slots: tuple[str, str]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield both moments of each parameter, with the names of this package's checkpoints, one at a time."""
    for index, suffix in enumerate(slots):
        for parameter, values in read_parameters(source, variables, suffix):
            yield moment_names(parameter)[index], values


def to_variables(weights: Mapping[str, torch.Tensor], step: int) -> dict[str, NDArray[np.generic]]:
    """Return TensorFlow's variables of the parameters, and the step."""
    variables: dict[str, NDArray[np.generic]] = {}
    for name, values in weights.items():
        variable = tf_names.tensorflow_name(name)
        variables[variable] = (values.T.contiguous() if is_transposed(variable) else values).numpy()
    return variables | {GLOBAL_STEP: np.array(step, np.int64)}


def _check_shapes(source: TensorFlowCheckpoint, variables: Variables, suffix: str) -> None:
    problems = []
    for parameter, variable in variables.names.items():
        expected = variables.shapes[parameter]
        found, dtype = source.shapes[variable + suffix], source.dtypes[variable + suffix]
        if found != expected:
            problems.append(f"{variable + suffix} is {list(found)}, the model configuration makes it {list(expected)}")
        elif dtype != "float32":
            problems.append(f"{variable + suffix} is of type {dtype}, expected float32")
    if problems:
        more = f"; and {len(problems) - NAMED} others" if len(problems) > NAMED else ""
        raise InputError(f"--tf-checkpoint {source.prefix}: {'; '.join(problems[:NAMED])}{more}")
