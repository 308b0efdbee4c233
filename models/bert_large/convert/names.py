"""How the reference's TensorFlow graph names what Hugging Face's `BertForPreTraining` calls otherwise."""

from __future__ import annotations

import re

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


def tensorflow_name(parameter: str) -> str:
    """Return the TensorFlow variable of a parameter: `bert.pooler.dense.weight` is `bert/pooler/dense/kernel`."""
    if parameter in _HEADS:
        return _HEADS[parameter]
    for ours, theirs in _SUFFIXES:
        if parameter.endswith(ours):
            parameter = parameter.removesuffix(ours) + theirs
            break
    return re.sub(r"\.layer\.(\d+)\.", r".layer_\1.", parameter).replace(".", "/")


def is_transposed(variable: str) -> bool:
    """Tell whether a variable is the transpose of its parameter: kernels are [inputs, outputs], ours the reverse."""
    return variable.endswith("/kernel")
