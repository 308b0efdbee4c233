"""Models by name, and the parameters that they and their architectures have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bert_large.config.hugging_face import ARCHITECTURES
from bert_large.config.model import ModelConfig
from bert_large.config.presets import CONFIGURATIONS, read_configuration
from bert_large.convert.weights import parameter_shapes
from bert_large.model.bert import skeleton

from tests.support.models import DISTILBERT, MASKED_LM_ONLY, tiny_config


def test_bert_large_is_the_default() -> None:
    assert CONFIGURATIONS["bert-large"] == ModelConfig()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("bert-large", 336_226_108),  # MLCommons' checkpoint
        ("bert-base", 110_106_428),
        # The published encoders, and H * H + 5 * H + 30524 for the heads.
        ("bert-medium", 41_373_184 + 295_228),
        ("bert-small", 28_763_648 + 295_228),
        ("bert-mini", 11_170_560 + 97_340),
        ("bert-tiny", 4_385_920 + 47_548),
        ("distilbert-base", 66_985_530),
    ],
)
def test_as_many_parameters_as_published(name: str, parameters: int) -> None:
    """Those of `transformers`' classes and Google's checkpoints."""
    assert sum(weight.numel() for weight in skeleton(CONFIGURATIONS[name]).parameters()) == parameters


def test_reading(tmp_path: Path) -> None:
    """A name, with another form of GELU or size of the vocabulary; else a file, whose size stands."""
    tiny = read_configuration("bert-tiny", "erf", vocab_size=28996)
    assert (tiny.hidden_size, tiny.hidden_act, tiny.vocab_size) == (128, "gelu", 28996)
    file = tmp_path / "bert-tiny"
    file.write_text(json.dumps(tiny_config().to_hugging_face()))
    assert read_configuration(str(file), vocab_size=5) == tiny_config()


def test_parts_that_are_left_out() -> None:
    bert = parameter_shapes(tiny_config())
    heads = {name for name in bert if "pooler" in name or "seq_relationship" in name}
    assert len(heads) == 4
    assert (
        parameter_shapes(tiny_config(**MASKED_LM_ONLY)).items()
        == {name: shape for name, shape in bert.items() if name not in heads}.items()
    )
    assert set(bert) - set(parameter_shapes(tiny_config(**DISTILBERT))) == heads | {
        "bert.embeddings.token_type_embeddings.weight"
    }


def test_names_of_weights() -> None:
    """BERT's are ours; DistilBERT's are its own, each another one."""
    for architecture in ("BertForPreTraining", "BertForMaskedLM"):
        assert all(ARCHITECTURES[architecture].weight_name(name) == name for name in parameter_shapes(tiny_config()))
    traits = ARCHITECTURES["DistilBertForMaskedLM"]
    names = {traits.weight_name(name) for name in parameter_shapes(tiny_config(**DISTILBERT))}
    layer = ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "sa_layer_norm",
             "ffn.lin1", "ffn.lin2", "output_layer_norm")  # fmt: skip
    modules = [*(f"distilbert.transformer.layer.{number}.{module}" for number in (0, 1) for module in layer),
               "distilbert.embeddings.LayerNorm", "vocab_transform", "vocab_layer_norm"]  # fmt: skip
    assert names == {
        *(f"{module}.{part}" for module in modules for part in ("weight", "bias")), "vocab_projector.bias",
        "distilbert.embeddings.word_embeddings.weight", "distilbert.embeddings.position_embeddings.weight",
    }  # fmt: skip
