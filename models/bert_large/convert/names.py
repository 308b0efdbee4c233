"""The variables of TensorFlow checkpoints: names and shapes for each parameter of `BertForPreTraining`.

Two kinds of checkpoints exist. Graph checkpoints of Google's and MLCommons' code (TensorFlow 1) name variables by their
scopes: `bert/encoder/layer_0/attention/self/query/kernel`. Object checkpoints of TensorFlow 2 name them by the
attributes that lead to them; the encoders of its model garden, as Google publishes BERT in that form, have
`model/layer_with_weights-4/_attention_layer/_query_dense/kernel/.ATTRIBUTES/VARIABLE_VALUE`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]
NAMED = 5
"""Variables that a message names; a checkpoint of another model can have hundreds."""

_HEADS = {
    "cls.predictions.bias": "cls/predictions/output_bias",
    "cls.seq_relationship.weight": "cls/seq_relationship/output_weights",
    "cls.seq_relationship.bias": "cls/seq_relationship/output_bias",
}
_SUFFIXES = (
    ("_embeddings.weight", "_embeddings"),
    ("LayerNorm.weight", "LayerNorm.gamma"),
    ("LayerNorm.bias", "LayerNorm.beta"),
    (".weight", ".kernel"),
)
_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
# The layers of an object checkpoint that come before the encoder's, in the order in which they were made.
_EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")
_OBJECT_PARTS = {
    "attention.self.query": "_attention_layer/_query_dense",
    "attention.self.key": "_attention_layer/_key_dense",
    "attention.self.value": "_attention_layer/_value_dense",
    "attention.output.dense": "_attention_layer/_output_dense",
    "attention.output.LayerNorm": "_attention_layer_norm",
    "intermediate.dense": "_intermediate_dense",
    "output.dense": "_output_dense",
    "output.LayerNorm": "_output_layer_norm",
}


@dataclass(frozen=True)
class Variables:
    """Name and shape of the variable of each parameter."""

    names: Mapping[str, str]
    shapes: Mapping[str, Shape]


def graph_variables(shapes: Mapping[str, Shape]) -> Variables:
    """Return the variables of a graph checkpoint for parameters of these shapes."""
    names = {parameter: tensorflow_name(parameter) for parameter in shapes}
    stored = {name: shape[::-1] if is_transposed(names[name]) else shape for name, shape in shapes.items()}
    return Variables(names, stored)


def object_variables(root: str, shapes: Mapping[str, Shape], heads: int) -> Variables:
    """Return the variables of an object checkpoint's encoder for the encoder's parameters, all names starting `root`.

    Keras keeps attention's matrices by heads: queries, keys and values [hidden, heads, size], the output [heads, size,
    hidden].
    """
    names, stored = {}, {}
    layers = sum(name.endswith("attention.self.query.weight") for name in shapes)
    for parameter, shape in shapes.items():
        name = names[parameter] = f"{root}{_object_name(parameter, layers)}{_VALUE}"
        stored[parameter] = shape[::-1] if is_transposed(name) else shape
        if ".attention.self." in parameter:
            stored[parameter] = (*stored[parameter][:-1], heads, shape[0] // heads)
        elif parameter.endswith("attention.output.dense.weight"):
            stored[parameter] = (heads, shape[1] // heads, shape[0])
    return Variables(names, stored)


def object_root(variables: Iterable[str]) -> str | None:
    """Return what comes before the layers in the names of an object checkpoint; None for any other checkpoint."""
    pattern = re.compile(rf"(.*)layer_with_weights-0/embeddings{re.escape(_VALUE)}")
    return next((match[1] for name in variables if (match := pattern.fullmatch(name))), None)


def tensorflow_name(parameter: str) -> str:
    """Return the variable of a parameter in a graph: `bert.pooler.dense.weight` is `bert/pooler/dense/kernel`."""
    if parameter in _HEADS:
        return _HEADS[parameter]
    for ours, theirs in _SUFFIXES:
        if parameter.endswith(ours):
            parameter = parameter.removesuffix(ours) + theirs
            break
    return re.sub(r"\.layer\.(\d+)\.", r".layer_\1.", parameter).replace(".", "/")


def _object_name(parameter: str, layers: int) -> str:
    """Return the variable of an encoder's parameter, from `layer_with_weights-` up to its own name."""
    part, _, kind = parameter.removeprefix("bert.").rpartition(".")
    norm, first = {"weight": "gamma", "bias": "beta"}, len(_EMBEDDINGS)
    dense = {"weight": "kernel", "bias": "bias"}
    if part.startswith("embeddings."):
        part = part.removeprefix("embeddings.")
        own = norm[kind] if part == "LayerNorm" else "embeddings"
        return f"layer_with_weights-{_EMBEDDINGS.index(part)}/{own}"
    if part == "pooler.dense":
        return f"layer_with_weights-{first + layers}/{dense[kind]}"
    layer, _, part = part.removeprefix("encoder.layer.").partition(".")
    return f"layer_with_weights-{first + int(layer)}/{_OBJECT_PARTS[part]}/{(norm if 'Norm' in part else dense)[kind]}"


def list_names(variables: Iterable[str]) -> str:
    """Return the first names in alphabetical order, and the number of others."""
    names = sorted(variables)
    more = f" and {len(names) - NAMED} others" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def is_transposed(variable: str) -> bool:
    """Return whether a variable is the transpose of its parameter: kernels are [inputs, outputs], ours the reverse."""
    return variable.removesuffix(_VALUE).endswith("/kernel")
