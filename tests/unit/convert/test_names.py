"""Names of TensorFlow's variables: each kind of parameter once, and all of BERT-large together."""

from __future__ import annotations

import pytest
from bert_large.config.model import ModelConfig
from bert_large.convert.names import is_transposed, tensorflow_name
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
    total = 0
    for shape in shapes.values():
        count = 1
        for size in shape:
            count *= size
        total += count
    assert total == 336_226_108
