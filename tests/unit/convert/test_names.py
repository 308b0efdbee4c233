"""Names of TensorFlow's variables: each kind of parameter once, and all parameters of BERT-large."""

from __future__ import annotations

import math

import pytest
from bert_large.config.model import ModelConfig
from bert_large.convert.names import is_transposed, object_root, object_variables, tensorflow_name
from bert_large.convert.weights import parameter_shapes


@pytest.mark.parametrize(
    ("parameter", "variable"),
    [
        ("bert.embeddings.word_embeddings.weight", "bert/embeddings/word_embeddings"),
        ("bert.embeddings.LayerNorm.weight", "bert/embeddings/LayerNorm/gamma"),
        ("bert.embeddings.LayerNorm.bias", "bert/embeddings/LayerNorm/beta"),
        ("bert.encoder.layer.11.attention.self.query.weight", "bert/encoder/layer_11/attention/self/query/kernel"),
        ("bert.encoder.layer.0.output.dense.bias", "bert/encoder/layer_0/output/dense/bias"),
        ("bert.pooler.dense.weight", "bert/pooler/dense/kernel"),
        ("cls.predictions.transform.dense.weight", "cls/predictions/transform/dense/kernel"),
        ("cls.predictions.bias", "cls/predictions/output_bias"),
        ("cls.seq_relationship.weight", "cls/seq_relationship/output_weights"),
        ("cls.seq_relationship.bias", "cls/seq_relationship/output_bias"),
    ],
)
def test_each_kind(parameter: str, variable: str) -> None:
    assert tensorflow_name(parameter) == variable
    assert is_transposed(variable) == variable.endswith("kernel")


def test_bert_large() -> None:
    """The published checkpoint has 398 variables, and 336,226,108 parameters."""
    shapes = parameter_shapes(ModelConfig())
    assert len({tensorflow_name(name) for name in shapes}) == len(shapes) == 398
    assert sum(math.prod(shape) for shape in shapes.values()) == 336_226_108


def test_object_checkpoints() -> None:
    """Layers are numbered from the embeddings on; attention's matrices are by heads."""
    shapes = {
        "bert.embeddings.position_embeddings.weight": (512, 32),
        "bert.encoder.layer.0.attention.self.query.weight": (32, 32),
        "bert.encoder.layer.0.attention.self.query.bias": (32,),
        "bert.encoder.layer.0.attention.output.dense.weight": (32, 32),
        "bert.encoder.layer.0.intermediate.dense.weight": (64, 32),
        "bert.encoder.layer.0.output.LayerNorm.bias": (32,),
        "bert.pooler.dense.bias": (32,),
    }
    variables = object_variables("model/", shapes, heads=2)
    ending = "/.ATTRIBUTES/VARIABLE_VALUE"
    assert {
        name.removeprefix("model/").removesuffix(ending): variables.shapes[parameter]
        for parameter, name in variables.names.items()
    } == {
        "layer_with_weights-1/embeddings": (512, 32),
        "layer_with_weights-4/_attention_layer/_query_dense/kernel": (32, 2, 16),
        "layer_with_weights-4/_attention_layer/_query_dense/bias": (2, 16),
        "layer_with_weights-4/_attention_layer/_output_dense/kernel": (2, 16, 32),
        "layer_with_weights-4/_intermediate_dense/kernel": (32, 64),
        "layer_with_weights-4/_output_layer_norm/beta": (32,),
        "layer_with_weights-5/bias": (32,),
    }
    assert object_root([f"model/layer_with_weights-0/embeddings{ending}"]) == "model/"
    assert object_root(["bert/embeddings/word_embeddings"]) is None
