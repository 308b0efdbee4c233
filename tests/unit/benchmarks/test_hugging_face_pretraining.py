"""Pretraining by Hugging Face's Trainer learns, and reports evaluations on records of this package."""

from __future__ import annotations

import json
from pathlib import Path

import hugging_face_pretraining
import pytest
from bert_large.bench.synthetic import write_dataset
from bert_large.errors import InputError

SHAPE = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 128, "type_vocab_size": 2, "hidden_act": "gelu",
}  # fmt: skip
WORDS = [f"word{number}" for number in range(50)]


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    (tmp_path / "text").mkdir()
    lines = (" ".join(WORDS[(first + word) % 50] for word in range(40)) for first in range(100))
    (tmp_path / "text/a.txt").write_text("\n\n".join(lines))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    (tmp_path / "eval").mkdir()
    write_dataset(tmp_path / "eval", phase=1, batches=1, batch_size=40, vocab_size=60)
    folders = {"text-dir": "text", "tokenizer-dir": "tokenizer", "eval-dir": "eval", "output-dir": "output"}
    return [
        *(f"--{option}={tmp_path / name}" for option, name in folders.items()),
        f"--config-file={tmp_path / 'config.json'}", "--seq-len=32", "--batch-size=8", "--micro-batch-size=4",
        "--max-steps=30", "--warmup-steps=2", "--learning-rate=0.01", "--eval-every=20",
    ]  # fmt: skip


@pytest.mark.slow
def test_steps_and_evaluations_are_recorded(arguments: list[str], tmp_path: Path) -> None:
    """The text repeats one order of 50 words, which the records do not: the model unlearns what is not in the text."""
    assert hugging_face_pretraining.main(arguments) == 0
    rows = [json.loads(line) for line in (tmp_path / "output/metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["event"] == "step"]
    assert [row["step"] for row in steps] == list(range(1, 31)) and all(row["seconds"] > 0 for row in steps)
    evaluations = [row for row in rows if row["event"] == "eval"]
    assert [(row["step"], row["samples"]) for row in evaluations] == [(20, 160), (30, 240)]
    assert evaluations[0]["masked_lm_loss"] != evaluations[1]["masked_lm_loss"]
    assert (tmp_path / "output/hf/model.safetensors").is_file()


def test_wrong_options(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--batch-size is 9"):
        hugging_face_pretraining.main([*arguments, "--batch-size=9"])
