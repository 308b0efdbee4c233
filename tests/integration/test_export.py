"""`bert-large export`: the files against our model and Hugging Face's, and refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from bert_large.config.model import ModelConfig
from bert_large.engines.eager import EagerEngine
from bert_large.model import pretrained
from bert_large.model.bert import BertForPreTraining
from bert_large.prepare.tokenizer import WordPieceTokenizer
from bert_large.prepare.vocab import SPECIAL_TOKENS, read_vocab
from bert_large.storage.integrity import check_checksums

from tests.support.models import DISTILBERT, MASKED_LM_ONLY, randomize, tiny_model
from tests.support.records import VOCAB_SIZE, make_records
from tests.support.runs import Task, options, run_here

WORDS = [*SPECIAL_TOKENS, "the", "cat", "sat", "##s", "."]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a vocabulary, whose parameters all differ."""
    root, model = tmp_path_factory.mktemp("export"), tiny_model()
    randomize(model)
    (root / "vocab.txt").write_text("".join(f"{token}\n" for token in WORDS))
    pretrained.save_model(root / "model", model, model.config, root / "vocab.txt")
    return root / "model"


def export(folder: Path, output_dir: Path, way: str, **more: Any) -> int:
    return run_here("export", *options(checkpoint_dir=folder, format=way, output_dir=output_dir, **more))


@pytest.fixture(scope="module")
def onnx_folder(model_folder: Path) -> Path:
    for package in ("onnx", "onnxruntime", "onnxscript", "transformers"):
        pytest.importorskip(package, reason="needs the extra onnx")
    assert export(model_folder, model_folder.parent / "onnx", "onnx") == 0
    return model_folder.parent / "onnx"


def assert_onnx_equals_both_models(model_folder: Path, onnx_folder: Path, graph: str, outputs: tuple[str, ...]) -> None:
    """Compare sequences of 1 to 512 tokens, padded for ONNX and Hugging Face's model and ragged for ours."""
    import onnx
    import onnxruntime
    import transformers
    from bert_large.export.onnx_graph import (
        TOLERANCE,
        ragged_outputs,
        relative_difference,
        run_session,
        sample_batch,
    )

    assert sorted(path.name for path in onnx_folder.iterdir()) == ["encoder.onnx", "pretraining.onnx"]
    path = str(onnx_folder / f"{graph}.onnx")
    assert {opset.domain: opset.version for opset in onnx.load(path).opset_import}[""] == 20
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    model = BertForPreTraining(ModelConfig.from_json(model_folder / "config.json"), EagerEngine())
    pretrained.load_model(model_folder, model)
    inputs = model.config.traits.inputs
    assert [(item.name, item.shape) for item in session.get_inputs()] == [
        (name, ["batch", "sequence"]) for name in inputs
    ]
    batch = sample_batch(VOCAB_SIZE, 512)
    assert batch.cu_seqlens.diff().tolist() == [7, 1, 512, 257]
    found = run_session(session, batch)
    assert tuple(found) == outputs
    ours = ragged_outputs(model, batch)

    theirs = getattr(transformers, model.config.architecture).from_pretrained(model_folder).eval()
    places = batch.sequence_ids, batch.position_ids
    tokens = {"input_ids": batch.input_ids, "token_type_ids": batch.token_type_ids, "attention_mask": torch.tensor(1)}
    feeds = {name: torch.zeros(batch.sequences, batch.max_length, dtype=torch.int64) for name in inputs}
    for name, rows in feeds.items():
        rows[places] = tokens[name]
    with torch.no_grad():
        output = (theirs.base_model if graph == "encoder" else theirs)(**feeds)
    for name, value in found.items():
        padded = getattr(output, name)
        assert relative_difference(value, ours[name]) < TOLERANCE / 10, name
        assert relative_difference(value, padded[places] if padded.ndim == 3 else padded) < TOLERANCE / 10, name


@pytest.mark.slow  # the exporter and transformers take seconds to import
@pytest.mark.parametrize(
    ("graph", "outputs"),
    [
        ("encoder", ("last_hidden_state", "pooler_output")),
        ("pretraining", ("prediction_logits", "seq_relationship_logits")),
    ],
)
def test_onnx_equals_both_models(model_folder: Path, onnx_folder: Path, graph: str, outputs: tuple[str, ...]) -> None:
    assert_onnx_equals_both_models(model_folder, onnx_folder, graph, outputs)


@pytest.mark.slow
@pytest.mark.usefixtures("onnx_folder")  # skips without the extra
@pytest.mark.parametrize("changes", [MASKED_LM_ONLY, DISTILBERT], ids=["BERT", "DistilBERT"])
def test_onnx_without_next_sentences(changes: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model(**changes)
    randomize(model)
    pretrained.save_model(tmp_path / "model", model, model.config, None)
    assert export(tmp_path / "model", tmp_path / "onnx", "onnx") == 0
    for graph, output in (("encoder", "last_hidden_state"), ("pretraining", "logits")):
        assert_onnx_equals_both_models(tmp_path / "model", tmp_path / "onnx", graph, (output,))


@pytest.mark.slow
def test_a_wrong_graph_is_not_kept(
    model_folder: Path, onnx_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file that was there stays."""
    from bert_large.export import onnx_graph

    before = (onnx_folder / "encoder.onnx").read_bytes()

    def changed(*arguments: Any) -> dict[str, torch.Tensor]:
        return {name: values + 0.1 for name, values in ragged_outputs(*arguments).items()}

    ragged_outputs = onnx_graph.ragged_outputs
    monkeypatch.setattr(onnx_graph, "ragged_outputs", changed)
    assert export(model_folder, onnx_folder, "onnx", model="encoder", overwrite=True) == 1
    assert "last_hidden_state" in capsys.readouterr().err
    assert (onnx_folder / "encoder.onnx").read_bytes() == before
    assert sorted(path.name for path in onnx_folder.iterdir()) == ["encoder.onnx", "pretraining.onnx"]


@pytest.mark.parametrize(
    ("way", "more", "expected"),
    [
        ("onnx", {"opset": 17}, "--opset is 17"),
        ("onnx", {"vocab_file": "v"}, "--vocab-file"),
        ("hugging-face", {"opset": 20, "model": "both"}, "--model, --opset"),
        ("hugging-face", {"vocab_file": "missing.txt"}, "--vocab-file missing.txt"),
        ("hugging-face", {"run_dir": "/"}, "--run-dir /"),
    ],
)
def test_refused(
    model_folder: Path, tmp_path: Path, way: str, more: dict[str, Any], expected: str, capsys: Any
) -> None:
    assert export(model_folder, tmp_path / "out", way, **more) == 2
    assert re.match(f"bert-large export: error: {re.escape(expected)}", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use(model_folder: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert export(model_folder, tmp_path, "hugging-face") == 2
    assert "README.md" in capsys.readouterr().err
    assert export(model_folder, tmp_path, "hugging-face", overwrite=True) == 0
    assert (tmp_path / "README.md").read_text().startswith("---\nlibrary_name: transformers\n")


def test_after_a_kill(model_folder: Path, tmp_path: Path) -> None:
    """Half-written files of a killed export are removed and do not make the folder one in use."""
    (tmp_path / ".encoder.onnx.7.partial").write_bytes(b"half")
    (tmp_path / ".partial-output").mkdir()
    assert export(model_folder, tmp_path, "hugging-face") == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_hugging_face_folder(model_folder: Path, tmp_path: Path) -> None:
    """The same model, with checksums of all files but the card, which users edit; an unknown run is not described."""
    assert export(model_folder, tmp_path / "out", "hugging-face") == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        "README.md", "checksums.json", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "vocab.txt",
    ]  # fmt: skip
    for name in ("config.json", "model.safetensors", "vocab.txt"):
        assert (tmp_path / "out" / name).read_bytes() == (model_folder / name).read_bytes()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "how it was trained is not recorded" in card and "Last step" not in card
    (tmp_path / "out" / "README.md").write_text("edited")
    check_checksums(tmp_path / "out")


@pytest.mark.slow
def test_auto_tokenizer(model_folder: Path, tmp_path: Path) -> None:
    """It uses the rules of the folder, where its own would give other ids."""
    transformers = pytest.importorskip("transformers", reason="needs Hugging Face's transformers")
    assert export(model_folder, tmp_path / "out", "hugging-face") == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    own = WordPieceTokenizer(read_vocab(model_folder / "vocab.txt"), do_lower_case=True)
    for line in ("THE cats sat.", "the\ue000 cat", "cat" + "s" * 150, "ΑΣ cat\u200bs\u0301"):
        assert tokenizer(line)["input_ids"] == [2, *own.encode([line])[0], 3], line
    assert tokenizer("the [MASK]", "cat")["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    assert (tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.model_max_length) == (4, 0, 512)
    model = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "out")
    assert model.config.vocab_size == VOCAB_SIZE


def test_the_card_of_a_run(task: Task, finished: Path, tmp_path: Path, capsys: Any) -> None:
    """Its values are those of the run's files."""
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in WORDS))
    assert export(finished / "model_save", tmp_path / "out", "hugging-face", vocab_file=tmp_path / "vocab.txt") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    front_matter = yaml.safe_load(card.split("---\n")[1])
    assert front_matter["pipeline_tag"] == "fill-mask" and "license" not in front_matter
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    for event in ("eval", "step"):
        last = [row for row in rows if row["event"] == event][-1]
        assert f"| masked_lm_loss | {last['masked_lm_loss']:.6g} |" in card
    assert f"| data | {json.loads((finished / 'run.json').read_text())['data']} |" in card
    assert f"The run ended: {json.loads((finished / 'ended.json').read_text())['reason']}." in card
    assert "| optimizer.learning_rate | 0.02 |" in card
    tokens = sum(len(record.input_ids) for record in make_records(50, lengths=(5, 100)))
    assert f"| training records | 50 of up to 128 tokens, {tokens:,} tokens in all |" in card
    assert "| evaluation records | 12 of up to 512 tokens" in card
    assert str(task.dataset_dir) not in card

    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text(json.dumps({"model": {"hidden_size": 8}}))
    more = {"vocab_file": tmp_path / "vocab.txt", "run_dir": other}
    assert export(finished / "model_save", tmp_path / "out2", "hugging-face", **more) == 2
    assert str(other) in capsys.readouterr().err
    (other / "run.json").write_text("[")
    assert export(finished / "model_save", tmp_path / "out2", "hugging-face", **more) == 2
    assert str(other / "run.json") in capsys.readouterr().err
