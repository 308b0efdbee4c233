"""Configurations are checked when they are made, and all problems are reported at once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from bert_large.config.model import ModelConfig
from bert_large.config.training import (
    DataConfig,
    OptimConfig,
    TrainConfig,
    reference_eval_every_samples,
)
from bert_large.errors import InputError

from tests.support.models import DISTILBERT, MASKED_LM_ONLY, tiny_config, write_config

TRAIN: dict[str, Any] = {
    "output_dir": Path("out"), "phase": 1, "global_batch_size": 8, "max_steps": 5, "eval_every_samples": 10,
    "save_every": 1,
}  # fmt: skip
MINIMAL = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def message(make: Any, **values: Any) -> str:
    with pytest.raises(InputError) as caught:
        make(**values)
    return str(caught.value)


def test_defaults_are_bert_larges() -> None:
    config = ModelConfig()
    assert (config.vocab_size, config.hidden_size, config.num_hidden_layers) == (30522, 1024, 24)
    assert (config.num_attention_heads, config.intermediate_size, config.max_position_embeddings) == (16, 4096, 512)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.1, 0.1)
    assert (config.hidden_act, config.layer_norm_eps) == ("gelu_pytorch_tanh", 1e-12)


WRONG_KEYS: list[tuple[str, Any]] = [
    ("vocab_size", 0), ("hidden_size", "32"), ("hidden_size", True), ("num_hidden_layers", 2.0),
    ("num_attention_heads", None), ("intermediate_size", [64]), ("max_position_embeddings", -1),
    ("type_vocab_size", 3), ("hidden_act", "relu"), ("hidden_act", []), ("hidden_dropout_prob", 1),
    ("attention_probs_dropout_prob", "0.1"), ("initializer_range", math.nan), ("initializer_range", 1e-300),
    ("layer_norm_eps", "1e-12"),
    ("layer_norm_eps", math.inf),
]  # fmt: skip


def test_all_problems_of_a_model_are_reported_at_once() -> None:
    wrong = dict(WRONG_KEYS)
    text = message(ModelConfig, **wrong)
    assert all(f"{name} is " in text for name in wrong) and "\n" not in text


@pytest.mark.parametrize(("key", "value"), WRONG_KEYS)
def test_a_key_of_the_wrong_type_or_range_is_named(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MINIMAL | {key: value}))
    with pytest.raises(InputError) as caught:
        ModelConfig.from_json(path)
    (line,) = str(caught.value).splitlines()
    shown = repr(value) if isinstance(value, str) else str(value).lower() if value in (True, None) else str(value)
    assert str(path) in line and f"{key} is {shown}, expected" in line


@pytest.mark.parametrize(
    ("key", "value", "neutral"),
    [
        ("tie_word_embeddings", False, True), ("position_embedding_type", "relative_key", "absolute"),
        ("is_decoder", True, False), ("add_cross_attention", True, False), ("pruned_heads", {"0": [1]}, {}),
        ("chunk_size_feed_forward", 8, 0), ("quantization_config", {"bits": 4}, None),
    ],
)  # fmt: skip
def test_keys_of_another_model_are_refused(tmp_path: Path, key: str, value: Any, neutral: Any) -> None:
    path = write_config(tmp_path / "c.json", **{key: value})
    with pytest.raises(InputError) as caught:
        ModelConfig.from_json(path)
    assert str(path) in str(caught.value) and f"{key} is {json.dumps(value)}" in str(caught.value)
    assert ModelConfig.from_json(write_config(tmp_path / "d.json", **{key: neutral})) == tiny_config()


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("\ufeff" + json.dumps(MINIMAL), encoding="utf-8")
    assert ModelConfig.from_json(path) == tiny_config()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("bom.json", None), ("tiny.json", None), ("eps_string.json", "layer_norm_eps"),
     ("untied.json", "tie_word_embeddings")],
)  # fmt: skip
def test_published_configurations(name: str, wrong: str | None) -> None:
    path = Path(__file__).resolve().parents[4] / "shared" / "data" / "cases" / "config" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    if wrong is None:
        assert ModelConfig.from_json(path).hidden_size == 128
    else:
        with pytest.raises(InputError, match=wrong):
            ModelConfig.from_json(path)


def test_fixed_fields_of_an_architecture() -> None:
    assert "BertForMaskedLM" in message(tiny_config, architecture="BertModel")
    text = message(tiny_config, architecture="DistilBertForMaskedLM", layer_norm_eps=1e-5)
    assert "type_vocab_size is 2, expected 0" in text and "layer_norm_eps is 1e-05, expected 1e-12" in text


def test_wrong_keys_have_the_files_names(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    values = {"model_type": "distilbert", "vocab_size": 100, "dim": "32", "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="dim is '32'"):
        ModelConfig.from_json(path)


def test_distilberts_file(tmp_path: Path) -> None:
    """Sizes have the names of `transformers`; GELU is the erf form, as in all of its files."""
    values = {"model_type": "distilbert", "architectures": ["DistilBertForMaskedLM"], "vocab_size": 100, "dim": 32,
              "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "activation": "gelu", "dropout": 0.2,
              "attention_dropout": 0.3, "max_position_embeddings": 64, "initializer_range": 0.01}  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values | {"sinusoidal_pos_embds": True}))
    config = ModelConfig.from_json(path)
    assert config == tiny_config(
        **DISTILBERT, hidden_act="gelu", hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3,
        max_position_embeddings=64, initializer_range=0.01,
    )  # fmt: skip
    assert config.to_hugging_face() == values | {
        "sinusoidal_pos_embds": False, "pad_token_id": 0, "tie_word_embeddings": True, "torch_dtype": "float32",
    }  # fmt: skip


@pytest.mark.parametrize("named", [["BertForSequenceClassification"], ["DistilBertForMaskedLM"], [], "x", [{}], None])
def test_an_architecture_that_is_not_trained_is_left_alone(tmp_path: Path, named: Any) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MINIMAL | {"architectures": named}))
    assert ModelConfig.from_json(path) == tiny_config()


def test_heads_must_divide_the_hidden_size() -> None:
    text = message(tiny_config, num_attention_heads=5)
    assert "hidden_size is 32" in text and "num_attention_heads, which is 5" in text


@pytest.mark.parametrize(
    ("changes", "activation", "expected"),
    [
        ({"hidden_act": "gelu"}, None, "gelu_pytorch_tanh"),
        ({}, None, "gelu_pytorch_tanh"),
        ({"hidden_act": "gelu"}, "erf", "gelu"),
        ({"hidden_act": "gelu", "model_type": "bert"}, None, "gelu"),
        ({"hidden_act": "gelu_new", "model_type": "bert"}, None, "gelu_pytorch_tanh"),
        ({"hidden_act": "gelu_pytorch_tanh", "model_type": "bert"}, None, "gelu_pytorch_tanh"),
        ({"hidden_act": "gelu", "model_type": "bert"}, "tanh", "gelu_pytorch_tanh"),
    ],
)
def test_meaning_of_gelu_in_each_format(
    tmp_path: Path, changes: dict[str, str], activation: str | None, expected: str
) -> None:
    """In Google's files `gelu` is the tanh form, in Hugging Face's the erf form; an option overrides both."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MINIMAL | changes))
    assert ModelConfig.from_json(path, activation) == tiny_config(hidden_act=expected)


def test_unknown_fields_are_left_alone(tmp_path: Path) -> None:
    """Both formats have keys that do not describe the architecture."""
    path = write_config(
        tmp_path / "c.json", pooler_type="first_token_transform", model_type="bert", hidden_act="gelu_new"
    )
    assert ModelConfig.from_json(path) == tiny_config()


@pytest.mark.parametrize(
    ("added", "named"),
    [
        ('"num_hiden_layers": 3', "num_hidden_layers"),
        ('"hidden_size": 64', "hidden_size"),
        ('"embedding_size": 16', "embedding_size is 16"),
    ],
)
def test_misspelled_and_repeated_keys_are_refused(tmp_path: Path, added: str, named: str) -> None:
    """As is the size of embeddings of another width, which other families have."""
    values = {key: value for key, value in MINIMAL.items() if key != "num_hidden_layers" or "hiden" not in added}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values)[:-1] + f", {added}}}")
    with pytest.raises(InputError, match=named) as caught:
        ModelConfig.from_json(path)
    assert str(path) in str(caught.value)


def test_hugging_face_form_reads_back(tmp_path: Path) -> None:
    for config in (tiny_config(), tiny_config(hidden_act="gelu", layer_norm_eps=1e-5), ModelConfig(),
                   tiny_config(**MASKED_LM_ONLY), tiny_config(**DISTILBERT, hidden_dropout_prob=0.3)):  # fmt: skip
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config.to_hugging_face()))
        assert ModelConfig.from_json(path) == config


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not readable JSON"),
        ("[1]", "holds a list, expected an object"),
        ('{"vocab_size": 5}', "lacks hidden_size, intermediate_size, num_attention_heads, num_hidden_layers"),
        (
            json.dumps(MINIMAL | {"model_type": "roberta"}),
            "is of model_type 'roberta', expected 'bert' or 'distilbert'",
        ),
        (json.dumps(MINIMAL | {"model_type": ["bert"]}), "is of model_type ['bert'], expected"),
        (json.dumps({"model_type": "distilbert", "vocab_size": 5}), "lacks dim, hidden_dim, n_heads, n_layers"),
    ],
)
def test_files_that_are_not_a_configuration(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        ModelConfig.from_json(path)
    assert str(caught.value).startswith(f"model configuration {path} ") and problem in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model configuration .*none.json does not exist"):
        ModelConfig.from_json(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"is not readable"):
        ModelConfig.from_json(tmp_path)


@pytest.mark.parametrize("wrong", [-1.0, math.inf, math.nan, 1e39])
def test_all_problems_of_an_optimizer_are_reported_at_once(wrong: float) -> None:
    """Numbers that fp32 cannot hold are infinite in training."""
    names = ("learning_rate", "beta_1", "beta_2", "epsilon", "weight_decay", "decay_power", "max_gradient_norm")
    text = message(OptimConfig, optimizer="sgd", total_steps=0, warmup_steps=-1, start_warmup_step=1,
                   **dict.fromkeys(names, wrong))  # fmt: skip
    for name in (*names, "optimizer", "total_steps", "warmup_steps", "start_warmup_step"):
        assert f"--{name.replace('_', '-')} is " in text


@pytest.mark.parametrize("name", ["learning_rate", "epsilon", "max_gradient_norm"])
def test_numbers_that_are_0_in_fp32_are_refused(name: str) -> None:
    values: dict[str, Any] = {"learning_rate": 1.0, "total_steps": 1}
    for wrong in (1e-300, 1e-39):  # the latter has few digits in fp32
        assert f"--{name.replace('_', '-')} is {wrong}" in message(OptimConfig, **values | {name: wrong})
    smallest = float(torch.finfo(torch.float32).smallest_normal) * 1.03
    assert getattr(OptimConfig(**values | {name: smallest}), name) == smallest


def test_warmup_may_start_before_the_run() -> None:
    assert OptimConfig(learning_rate=1.0, total_steps=1, start_warmup_step=-76).start_warmup_step == -76


def test_all_problems_of_training_are_reported_at_once() -> None:
    names = ("global_batch_size", "micro_batch_tokens", "max_steps", "max_samples", "eval_every_samples",
             "eval_samples", "save_every", "keep_checkpoints")  # fmt: skip
    others = {"phase": 3, "target_accuracy": 1.5, "seed": 2**63, "stop_deadline": math.nan,
              "detect_divergence": math.inf, "precision": "fp8", "engine": "turbo"}  # fmt: skip
    text = message(TrainConfig, **TRAIN | dict.fromkeys(names, 0) | others)
    for name in (*names, *others):
        assert f"--{name.replace('_', '-')} is " in text


@pytest.mark.parametrize(("accuracy", "good"), [(0.0, False), (0.72, True), (1.0, True), (1.01, False)])
def test_range_of_the_target(accuracy: float, good: bool) -> None:
    if good:
        assert TrainConfig(**TRAIN, target_accuracy=accuracy).target_accuracy == accuracy
    else:
        assert f"--target-accuracy is {accuracy}" in message(TrainConfig, **TRAIN, target_accuracy=accuracy)


def test_data_settings() -> None:
    text = message(DataConfig, dataset_dir=Path("d"), max_seq_length=0, workers=-1)
    assert "--max-seq-length is 0" in text and "--data-workers is -1" in text


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (256, 150_000),
        (448, 150_000),
        (1536, 150_000),
        (2171, 150_000),
        (2172, 175_000),
        (3072, 175_000),
        (8192, 225_000),
    ],
)
def test_evaluation_cadence(batch: int, expected: int) -> None:
    """By hand: 0.05 * (230.23 * 8192 + 3,000,000) = 244,302 -> 9 * 25,000; 3072: 185,363 -> 7; 256: 152,947 -> 6.

    At 500,000 / 230.23 = 2171.7 sequences it becomes 175,000.
    """
    assert reference_eval_every_samples(batch) == expected
