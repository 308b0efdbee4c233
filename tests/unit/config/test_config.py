"""Settings are checked when they are made, every problem at once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from bert_large.config.model import ModelConfig
from bert_large.config.training import (
    DataConfig,
    OptimConfig,
    TrainConfig,
    check_precision,
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


def test_all_problems_of_a_model_are_told_at_once() -> None:
    text = message(
        ModelConfig, vocab_size=0, hidden_size="32", type_vocab_size=3, hidden_act="relu", hidden_dropout_prob=1
    )
    for problem in (
        "vocab_size is 0, expected an integer > 0",
        "hidden_size is '32'",
        "type_vocab_size is 3",
        "hidden_act is 'relu'",
        "hidden_dropout_prob is 1, expected 0 to below 1",
    ):
        assert problem in text
    assert text.startswith("model configuration: ") and "\n" not in text


def test_what_an_architecture_leaves_no_choice_of() -> None:
    assert "expected one of BertForPreTraining, BertForMaskedLM, D" in message(tiny_config, architecture="BertModel")
    text = message(tiny_config, architecture="DistilBertForMaskedLM", layer_norm_eps=1e-5)
    assert "type_vocab_size is 2, expected 0 of DistilBertForMaskedLM" in text
    assert "layer_norm_eps is 1e-05, expected 1e-12 of" in text


def test_distilberts_file(tmp_path: Path) -> None:
    """As `transformers` names its sizes; GELU is the erf form, as in all its files."""
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
    assert "hidden_size 32 is no multiple of num_attention_heads 5" in message(tiny_config, num_attention_heads=5)


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
def test_gelu_means_what_its_format_says(
    tmp_path: Path, changes: dict[str, str], activation: str | None, expected: str
) -> None:
    """In Google's files `gelu` is the tanh form, in Hugging Face's the erf form; an option overrides both."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(MINIMAL | changes))
    assert ModelConfig.from_json(path, activation) == tiny_config(hidden_act=expected)


def test_unknown_fields_are_left_alone(tmp_path: Path) -> None:
    """Both formats hold more than an architecture."""
    path = write_config(
        tmp_path / "c.json", pooler_type="first_token_transform", model_type="bert", hidden_act="gelu_new"
    )
    assert ModelConfig.from_json(path) == tiny_config()


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
def test_files_that_are_no_configuration(tmp_path: Path, text: str, problem: str) -> None:
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


def test_all_problems_of_an_optimizer_are_told_at_once() -> None:
    text = message(
        OptimConfig, optimizer="sgd", learning_rate=0, beta_1=1.0, beta_2=-0.1, epsilon=0, weight_decay=-1,
        total_steps=0, warmup_steps=-1, decay_power=0, max_gradient_norm=0,
    )  # fmt: skip
    for option in ("optimizer", "learning-rate", "beta-1", "beta-2", "epsilon", "weight-decay", "total-steps",
                   "warmup-steps", "decay-power", "max-gradient-norm"):  # fmt: skip
        assert f"--{option} is " in text


def test_warmup_may_start_before_the_run() -> None:
    assert OptimConfig(learning_rate=1.0, total_steps=1, start_warmup_step=-76).start_warmup_step == -76


def test_all_problems_of_training_are_told_at_once() -> None:
    names = ("global_batch_size", "micro_batch_tokens", "max_steps", "max_samples", "eval_every_samples",
             "eval_samples", "save_every", "keep_checkpoints")  # fmt: skip
    others = {"phase": 3, "target_accuracy": 1.5, "seed": -1, "stop_deadline": -1.0, "detect_divergence": math.inf}
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


def test_precisions() -> None:
    """A name that is none of them must not be taken for another."""
    for name in ("fp32", "avx-fp32", "bf16", "bf32", "fp16"):
        check_precision(name)
    with pytest.raises(
        InputError, match=r"PRECISION \(--precision\) is 'fp8', expected one of fp32, avx-fp32, bf16, bf32, fp16"
    ):
        check_precision("fp8")
    assert "PRECISION" in message(TrainConfig, **TRAIN, precision="BF16")


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
