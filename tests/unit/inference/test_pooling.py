"""Vectors of texts, and the settings of sentence-transformers' folders."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bert_large.errors import InputError
from bert_large.inference.pooling import Pooling, read_pooling

PREFIX = "sentence_transformers.models."
TRANSFORMER, POOLING = {"type": f"{PREFIX}Transformer", "path": ""}, {"type": f"{PREFIX}Pooling", "path": "1_Pooling"}
NORMALIZE = {"type": f"{PREFIX}Normalize", "path": "2_Normalize"}


def write_folder(folder: Path, modules: Any, pooling: dict[str, Any], **files: Any) -> Path:
    (folder / "1_Pooling").mkdir()
    for name, content in {"modules": modules, "1_Pooling/config": pooling, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_values() -> None:
    hidden = torch.randn(3, 4, 8)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    outputs = SimpleNamespace(last_hidden_state=hidden, pooler_output=hidden[:, 0].tanh())
    means = torch.stack([hidden[0].mean(0), hidden[1, :2].mean(0), hidden[2, 0]])
    torch.testing.assert_close(Pooling()(outputs, mask), means)
    assert Pooling(mode="cls")(outputs, mask).equal(hidden[:, 0])
    assert Pooling(mode="pooler")(outputs, mask).equal(hidden[:, 0].tanh())
    normalized = Pooling(normalize=True)(outputs, mask)
    torch.testing.assert_close(normalized, means / means.square().sum(1, keepdim=True).sqrt())


def test_products_in_bf16_give_float32() -> None:
    hidden, mask = torch.randn(2, 3, 8, dtype=torch.bfloat16), torch.ones(2, 3, dtype=torch.int64)
    found = Pooling()(SimpleNamespace(last_hidden_state=hidden), mask)
    torch.testing.assert_close(found, hidden.float().mean(1))


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "cls", "include_prompt": True}, "cls"),
    ],
)
def test_sentence_transformers_folders(config: dict[str, Any], mode: str, tmp_path: Path) -> None:
    settings = {"prompts": {"query": "find: "}, "default_prompt_name": "query"}
    folder = write_folder(
        tmp_path, [TRANSFORMER, POOLING, NORMALIZE], config, sentence_bert_config={"max_seq_length": 77},
        config_sentence_transformers=settings,
    )  # fmt: skip
    assert read_pooling(folder) == Pooling(mode=mode, normalize=True, max_length=77, prompt="find: ")
    assert read_pooling(folder, "pooler", False).mode == "pooler"
    assert not read_pooling(folder, "pooler", False).normalize


def test_an_older_layout_has_the_encoder_in_a_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [TRANSFORMER | {"path": "0_Transformer"}, POOLING], {"pooling_mode": "mean"})
    assert read_pooling(folder) == Pooling(transformer="0_Transformer")


def test_a_plain_folder(tmp_path: Path) -> None:
    assert read_pooling(tmp_path) == Pooling()
    assert read_pooling(tmp_path, "cls", True) == Pooling(mode="cls", normalize=True)


@pytest.mark.parametrize(
    ("modules", "config", "named"),
    [
        ([TRANSFORMER, POOLING], {"pooling_mode_max_tokens": True}, "max_tokens"),
        ([TRANSFORMER, POOLING], {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls+mean"),
        ([TRANSFORMER, POOLING], {"pooling_mode": ["cls", "max"]}, "cls+max"),
        ([TRANSFORMER, POOLING], {"pooling_mode": "cls", "include_prompt": False}, "include_prompt"),
        ([TRANSFORMER, POOLING, {"type": f"{PREFIX}Dense", "path": "2_Dense"}], {"pooling_mode": "mean"}, "Dense"),
    ],
)
def test_other_modules_are_refused_unless_replaced(
    modules: Any, config: dict[str, Any], named: str, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path, modules, config)
    with pytest.raises(InputError) as error:
        read_pooling(folder)
    assert named in str(error.value)
    assert read_pooling(folder, "mean").mode == "mean"


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("config_sentence_transformers", "[]", "[]"),
        ("config_sentence_transformers", '{"prompts": ["a"], "default_prompt_name": "a"}', "prompts"),
        ("config_sentence_transformers", '{"prompts": {"a": 1}, "default_prompt_name": "a"}', "a is '1'"),
        (
            "config_sentence_transformers",
            '{"prompts": {"a": "b"}, "default_prompt_name": ["a"]}',
            "default_prompt_name",
        ),
        ("sentence_bert_config", "[128]", "[128]"),
        ("sentence_bert_config", '{"max_seq_length": "128"}', "max_seq_length"),
        ("1_Pooling/config", '"mean"', "mean"),
        ("1_Pooling/config", '{"pooling_mode": 1}', "pooling_mode"),
        ("1_Pooling/config", "[" * 100_000, "1_Pooling"),
        ("modules", "[" * 100_000, "modules.json"),
        ("modules", "[1]", "modules.json"),
    ],
)
def test_json_of_another_kind(name: str, content: str, named: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [TRANSFORMER, POOLING], {"pooling_mode": "mean"})
    (folder / f"{name}.json").write_text(content)
    with pytest.raises(InputError) as error:
        read_pooling(folder)
    assert f"{folder / name}.json" in str(error.value) and named in str(error.value)


def test_damaged_settings(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(InputError, match=r"modules\.json"):
        read_pooling(tmp_path)
    (tmp_path / "modules.json").write_text('{"0": 1}')
    with pytest.raises(InputError, match=r"modules\.json"):
        read_pooling(tmp_path)
