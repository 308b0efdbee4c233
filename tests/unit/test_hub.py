"""Models by their name on the hub, with a stand-in for `huggingface_hub`: tests have no network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from bert_large.errors import InputError
from bert_large.hub import is_hub_name, model_folder

from tests.support.runs import options, run_here


def stand_in(monkeypatch: pytest.MonkeyPatch, files: list[str] | None, folder: Path | None) -> list[dict[str, Any]]:
    """Replace the library's functions by those of a hub with one model; return the list of its downloads."""
    downloads: list[dict[str, Any]] = []

    def model_info(self: object, name: str, timeout: float) -> SimpleNamespace:
        if files is None:
            raise Exception("\nno network\nmore")
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in files])

    def snapshot_download(name: str, allow_patterns: list[str] | None = None, local_files_only: bool = False) -> str:
        downloads.append({"name": name, "patterns": allow_patterns, "local": local_files_only})
        if folder is None:
            raise OSError("not in the cache")
        return str(folder)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return downloads


def test_what_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output").mkdir()
    for text, expected in {
        "google-bert/bert-base-uncased": True, "output/model_save": False, "bert-base-uncased": False,
        "/google/bert": False, "./google/bert": True, "../google/bert": False, "a/b/c": False, "a b/c": False,
    }.items():  # fmt: skip
        assert is_hub_name(Path(text)) is expected, text


@pytest.mark.parametrize(
    ("files", "reads_bin"),
    [(["config.json", "model.safetensors", "pytorch_model.bin"], False), (["pytorch_model.bin"], True)],
)
def test_a_model_is_downloaded_in_one_form(
    files: list[str], reads_bin: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    downloads = stand_in(monkeypatch, files, tmp_path / "cache")
    assert model_folder("owner/name") == tmp_path / "cache"
    assert [(entry["name"], entry["local"]) for entry in downloads] == [("owner/name", False)]
    assert ("pytorch_model*.bin" in downloads[0]["patterns"]) is reads_bin


def test_without_a_network_the_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    downloads = stand_in(monkeypatch, None, tmp_path / "cache")
    assert model_folder("owner/name") == tmp_path / "cache"
    assert [entry["local"] for entry in downloads] == [True]


def test_a_missing_model_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stand_in(monkeypatch, None, None)
    with pytest.raises(InputError) as error:
        model_folder("owner/name")
    assert "owner/name" in str(error.value) and "no network" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("evaluate", {"eval_dir": "x"}),
        ("export", {"format": "hugging-face", "output_dir": "out"}),
        ("convert", {"to_tf": "out/model.ckpt"}),
        ("pretrain", {"output_dir": "out", "dataset_dir": "x"}),
        ("finetune", {"task": "sst2", "output_dir": "out"}),
        ("plan", {"output_dir": "out", "dataset_dir": "x"}),
    ],
)
def test_every_command_takes_a_name(
    command: str, more: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    downloads = stand_in(monkeypatch, None, None)
    assert run_here(command, *options(checkpoint_dir="owner/name", **more)) == 2
    assert [entry["name"] for entry in downloads] == ["owner/name"]
