"""`bert-large embed`: values, formats, continuing after a kill, and refusals."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bert_large.inference import embedding_file
from bert_large.inference.embedder import Embedder
from pyarrow import parquet
from transformers import AutoModel, BertConfig, BertModel, RobertaConfig, RobertaModel

from tests.support.finetune import LETTERS, WORDS, write_model
from tests.support.runs import options, run_here

TEXTS = 23
CHUNK = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("embed") / "model_save", initializer_range=0.2)


@pytest.fixture(scope="module")
def texts(model: Path) -> Path:
    """Texts of very different lengths, one of them blank and one longer than the model's positions."""
    draw = random.Random(0)
    lines = [" ".join(draw.choices((*WORDS, *LETTERS), k=draw.randrange(1, 40))) for _ in range(TEXTS)]
    lines[3], lines[7] = "", "a " * 2000
    path = model.parent / "texts.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_file, "CHUNK_TEXTS", CHUNK)


def embed(output_file: Path, **values: Any) -> int:
    return run_here("embed", *options(output_file=output_file, batch_tokens=64, **values))


def expected(model: Path, texts: Path, mode: str) -> np.ndarray:
    """Return the embeddings from one text at a time, without padding, by the original model."""
    from bert_large.finetune.tokenizer import load_tokenizer

    encoder, tokenizer = AutoModel.from_pretrained(model).eval(), load_tokenizer(model)
    rows = []
    for text in texts.read_text().splitlines():
        with torch.no_grad():
            outputs = encoder(**tokenizer(text, return_tensors="pt", truncation=True))
        hidden = outputs.last_hidden_state[0]
        rows.append({"mean": hidden.mean(0), "cls": hidden[0], "pooler": outputs.pooler_output[0]}[mode])
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("engine", ["native", "eager"])
@pytest.mark.parametrize("mode", ["mean", "cls", "pooler"])
def test_values_are_those_of_single_texts(mode: str, engine: str, model: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "out.npy"
    assert embed(output, checkpoint_dir=model, input_file=texts, pooling=mode, engine=engine) == 0
    found = np.load(output)
    assert found.dtype == np.float32 and found.shape == (TEXTS, 32)
    np.testing.assert_allclose(found, expected(model, texts, mode), rtol=1e-4, atol=1e-5)
    assert [path.name for path in output.parent.iterdir()] == ["out.npy"]


def test_bf16_is_close(model: Path, texts: Path, tmp_path: Path) -> None:
    assert embed(tmp_path / "out.npy", checkpoint_dir=model, input_file=texts, precision="bf16") == 0
    found, exact = np.load(tmp_path / "out.npy"), expected(model, texts, "mean")
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 1e-5 < error < 2e-2


def test_normalized(model: Path, texts: Path, tmp_path: Path) -> None:
    assert embed(tmp_path / "out.npy", checkpoint_dir=model, input_file=texts, normalize="true") == 0
    np.testing.assert_allclose(np.linalg.norm(np.load(tmp_path / "out.npy"), axis=1), 1, rtol=1e-5)


def test_max_length_truncates(model: Path, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("the film was good\n")
    (tmp_path / "short.txt").write_text("the film\n")
    for name in ("long", "short"):
        files = {"input_file": tmp_path / f"{name}.txt", "max_length": 4}
        assert embed(tmp_path / f"{name}.npy", checkpoint_dir=model, **files) == 0
    assert (tmp_path / "long.npy").read_bytes() == (tmp_path / "short.npy").read_bytes()


def test_parquet_has_texts_and_their_order(model: Path, texts: Path, tmp_path: Path) -> None:
    for name in ("out.npy", "out.parquet"):
        assert embed(tmp_path / name, checkpoint_dir=model, input_file=texts) == 0
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table["id"].to_pylist() == list(range(TEXTS))
    assert table["text"].to_pylist() == texts.read_text().splitlines()
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), np.load(tmp_path / "out.npy"))


class Killed(BaseException):
    """Stands for a kill: no cleaning up is done for it."""


@pytest.fixture
def killed(model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the output file of a command that was killed in its third chunk, in the middle of writing."""
    embed_chunk, calls = Embedder.__call__, itertools.count(1)

    def then_fail(self: Embedder, *arguments: Any) -> Any:
        if next(calls) == 3:
            with (tmp_path / ".out.npy.partial" / "rows.npy").open("ab") as file:
                file.write(b"a part of a row")
            raise Killed
        return embed_chunk(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Embedder, "__call__", then_fail)
        embed(tmp_path / "out.npy", checkpoint_dir=model, input_file=texts)
    assert not (tmp_path / "out.npy").exists()
    return tmp_path / "out.npy"


def test_a_killed_command_continues_to_the_same_bytes(
    killed: Path, model: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(killed.with_name("whole.npy"), checkpoint_dir=model, input_file=texts) == 0
    assert embed(killed, checkpoint_dir=model, input_file=texts) == 0
    assert f"{2 * CHUNK} texts" in capsys.readouterr().err
    assert killed.read_bytes() == killed.with_name("whole.npy").read_bytes()


@pytest.mark.parametrize("name", ["out.npy", "out.parquet"])
def test_a_command_killed_while_publishing_can_be_repeated(
    name: str, model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are moved or deleted, the record of them is not; the repeated command is killed at its start too."""
    output, whole = tmp_path / name, tmp_path / f"whole-{name}"

    def kill_within(folder: Path, **how: bool) -> None:
        (folder / "rows.npy").unlink(missing_ok=True)
        raise Killed

    def kill(*arguments: Any) -> None:
        raise Killed

    assert embed(whole, checkpoint_dir=model, input_file=texts) == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(embedding_file, "remove_tree", kill_within)
        embed(output, checkpoint_dir=model, input_file=texts)
    assert output.exists() and (tmp_path / f".{name}.partial" / "progress.json").exists()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Embedder, "__call__", kill)
        patch.setattr(embedding_file, "remove_tree", lambda *_, **__: None)
        embed(output, overwrite=True, checkpoint_dir=model, input_file=texts)
    assert embed(output, overwrite=True, checkpoint_dir=model, input_file=texts) == 0
    assert output.read_bytes() == whole.read_bytes()
    assert not (tmp_path / f".{name}.partial").exists()


@pytest.mark.parametrize("wrong", [{}, {"settings": []}, {"settings": {}, "rows": "5"}])
def test_a_damaged_record_of_unfinished_rows_is_named(
    wrong: dict[str, Any], killed: Path, model: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = killed.with_name(".out.npy.partial") / "progress.json"
    path.write_text(json.dumps(wrong))
    assert embed(killed, checkpoint_dir=model, input_file=texts) == 2
    assert str(path) in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("change", "named"),
    [({"pooling": "cls"}, "mode was mean, is cls"), ({"max_length": 8}, "max_length"), ({"engine": "eager"}, "engine")],
)
def test_unfinished_rows_of_other_settings_are_kept(
    change: dict[str, Any], named: str, killed: Path, model: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(killed, checkpoint_dir=model, input_file=texts, **change) == 2
    assert named in capsys.readouterr().err
    assert embed(killed, checkpoint_dir=model, input_file=texts) == 0


def test_unfinished_rows_of_other_texts_are_kept(
    killed: Path, model: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = texts.read_text().splitlines()
    for other in ([*lines[:9], "other", *lines[10:]], lines[:8]):
        (tmp_path / "other.txt").write_text("\n".join(other))
        assert embed(killed, checkpoint_dir=model, input_file=tmp_path / "other.txt") == 2
        assert f"first {2 * CHUNK}" in capsys.readouterr().err
    assert embed(killed, checkpoint_dir=model, input_file=texts) == 0


def test_a_changed_input_gives_no_parquet_file(
    model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copy(texts, tmp_path / "texts.txt")
    publish = embedding_file.EmbeddingFile.publish

    def change_and_publish(self: Any, read: Any) -> None:
        def changed() -> Iterator[str]:
            return iter([text + "x" for text in read()])

        publish(self, changed)

    monkeypatch.setattr(embedding_file.EmbeddingFile, "publish", change_and_publish)
    assert embed(tmp_path / "out.parquet", checkpoint_dir=model, input_file=copy) == 2
    assert not (tmp_path / "out.parquet").exists()


def test_refusals(model: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.npy").write_text("kept")
    base: dict[str, Any] = {"checkpoint_dir": model, "input_file": texts}
    for name, changes, named in (
        ("out.txt", {}, "out.txt"),
        ("old.npy", {}, "old.npy"),
        ("out.parquet", {"input_file": "-"}, "input-file"),
        ("out.npy", {"input_file": tmp_path / "no.txt"}, "no.txt"),
        ("out.npy", {"field": "body"}, "body"),
        ("out.npy", {"max_length": 100000}, "max-length"),
        ("out.npy", {"max_length": 4096}, "4096"),
        ("out.npy", {"checkpoint_dir": tmp_path}, "config.json"),
        ("out.npy", {"pooling": "max"}, "max"),
    ):
        assert embed(tmp_path / name, **base | changes) == 2, name
        assert named in capsys.readouterr().err
        assert not (tmp_path / name).exists() or (tmp_path / name).read_text() == "kept"
    assert embed(tmp_path / "old.npy", **base, overwrite=True) == 0
    assert np.load(tmp_path / "old.npy").shape == (TEXTS, 32)


def tiny(folder: Path, model: Path, kind: Any, config: Any) -> Path:
    kind(config).save_pretrained(folder)
    shutil.copy(model / "vocab.txt", folder)
    return folder


def test_models_that_cannot_be_computed(
    model: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights of an adapter, a missing layer, a model without a pooler, and a decoder."""
    sizes: dict[str, Any] = {"vocab_size": 78, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                             "intermediate_size": 64}  # fmt: skip
    from safetensors.torch import load_file, save_file

    def changed(name: str, change: Any) -> Path:
        folder = tiny(tmp_path / name, model, BertModel, BertConfig(**sizes))
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return folder

    layer = "encoder.layer.1.output.dense.weight"
    adapter = changed("adapter", lambda weights: weights.update({"encoder.layer.0.lora.weight": torch.ones(2)}))
    lacking = changed("lacking", lambda weights: weights.pop(layer))
    broken = changed("broken", lambda weights: weights[layer].fill_(torch.nan))
    decoder = tiny(tmp_path / "decoder", model, BertModel, BertConfig(**sizes, is_decoder=True))
    bare = tmp_path / "bare"
    BertModel(BertConfig(**sizes), add_pooling_layer=False).save_pretrained(bare)
    shutil.copy(model / "vocab.txt", bare)
    for folder, pooling, named in ((adapter, "mean", "lora"), (lacking, "mean", layer), (broken, "mean", layer),
                                   (decoder, "mean", "decoder"), (bare, "pooler", "pooler")):  # fmt: skip
        output = tmp_path / f"{folder.name}.npy"
        assert embed(output, checkpoint_dir=folder, input_file=texts, pooling=pooling) == 2
        assert named in capsys.readouterr().err
    assert embed(tmp_path / "bare.npy", checkpoint_dir=bare, input_file=texts) == 0


def test_roberta_has_fewer_positions_than_rows_of_their_table(model: Path, texts: Path, tmp_path: Path) -> None:
    """A text that is too long is truncated to the positions behind that of the padding token."""
    config = RobertaConfig(
        vocab_size=78, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=20, pad_token_id=0, type_vocab_size=1,
    )  # fmt: skip
    folder = tiny(tmp_path / "roberta", model, RobertaModel, config)
    assert embed(tmp_path / "out.npy", checkpoint_dir=folder, input_file=texts) == 0
    assert embed(tmp_path / "long.npy", checkpoint_dir=folder, input_file=texts, max_length=19) == 0
    assert embed(tmp_path / "no.npy", checkpoint_dir=folder, input_file=texts, max_length=20) == 2


def test_a_sentence_transformers_folder(model: Path, texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder / "0_Transformer")
    paths = {"Transformer": "0_Transformer", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"type": f"sentence_transformers.models.{name}", "path": path} for name, path in paths.items()]
    (folder / "1_Pooling").mkdir()
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    assert embed(tmp_path / "out.npy", checkpoint_dir=folder, input_file=texts) == 0
    vectors = expected(model, texts, "cls")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), vectors, rtol=1e-4, atol=1e-5)
