"""`prepare_dataset.sh`: from WikiExtractor's output to a dataset folder for both phases."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from bert_large.data.dataset import Dataset
from bert_large.data.folders import find_eval_folder, find_training_folder
from bert_large.data.record import Record, RecordLimits, RecordShape
from bert_large.prepare.vocab import read_vocab

PROJECT = Path(__file__).resolve().parents[2]


# Some topics have the same text: each text once, with its paragraphs unwrapped.
ARTICLES = {
    "\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n")): name
    for name, text in sorted(topics.items())
}


def write_wiki(folder: Path) -> None:
    """Write Python's reference in WikiExtractor's form, to several files in two folders."""
    for number, (text, name) in enumerate(ARTICLES.items()):
        path = folder / f"A{'AB'[number % 2]}" / f"wiki_{number % 3:02d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        title, body = html.escape(name), html.escape(text)
        with path.open("a", encoding="utf-8") as file:
            file.write(f'<doc id="{number}" url="https://example.org/?curid={number}" title="{title}">\n')
            file.write(f"{title}\n\n{body}\n\n</doc>\n")


def prepare(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHON": sys.executable,
        "INPUT_DIR": str(tmp_path / "raw text"),
        "DATASET_DIR": str(tmp_path / "data set"),
        "VOCAB_SIZE": "2000",
        "DUPE_FACTOR": "2",
        "SHARDS": "4",
        "EVAL_ARTICLES": "10",
        "EVAL_RECORDS": "50",
        "WORKERS": "1",
    }
    return subprocess.run(
        [str(PROJECT / "quickstart" / "prepare_dataset.sh"), *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds `raw text` and the `data set` made from it."""
    folder = tmp_path_factory.mktemp("made")
    write_wiki(folder / "raw text")
    done = prepare(folder)
    assert done.returncode == 0, done.stderr
    return folder


def read_all(folder: Path, index_dir: Path) -> list[Record]:
    dataset = Dataset.open(folder, index_dir, build=True)
    return dataset.read_all(range(len(dataset)))


def test_both_phases_and_evaluation_open(made: Path, tmp_path: Path) -> None:
    data = made / "data set"
    vocabulary = read_vocab(data / "vocab.txt")
    assert 1000 < len(vocabulary.tokens) <= 2000
    for tokens, predictions, shards in ((128, 20, 3), (512, 76, 1)):
        limits = RecordLimits(len(vocabulary.tokens), tokens)
        dataset = Dataset.open(find_training_folder(data, tokens), tmp_path, build=True, limits=limits)
        assert len(dataset.shards) == shards
        assert {shard.shape for shard in dataset.shards} == {RecordShape(tokens, predictions)}
        assert len(dataset) > 30
    evaluation = find_eval_folder(data)
    assert evaluation is not None
    records = read_all(evaluation, tmp_path)
    assert len(records) == 50
    assert {record.next_sentence_label for record in records} == {0, 1}
    unknown = sum((record.input_ids == vocabulary.unk_id).sum() for record in records)
    assert unknown < 0.01 * sum(len(record.input_ids) for record in records)


def test_phases_and_evaluation_share_no_article(made: Path) -> None:
    texts = {
        folder: {article for path in (made / "data set" / "corpus" / folder).iterdir()
                 for article in path.read_text(encoding="utf-8").split("\n\n")}
        for folder in ("phase1", "phase2", "eval")
    }  # fmt: skip
    assert sum(map(len, texts.values())) == len(ARTICLES)
    assert len(texts["eval"]) == 10
    sizes = {folder: sum(map(len, articles)) for folder, articles in texts.items()}
    assert 0.8 < sizes["phase1"] / (sizes["phase1"] + sizes["phase2"]) < 0.95
    assert not texts["phase1"] & texts["phase2"]
    assert not texts["eval"] & (texts["phase1"] | texts["phase2"])
    everything = "".join("".join(sorted(articles)) for articles in texts.values())
    assert "&lt;" not in everything and "<doc" not in everything


def test_a_second_run_makes_only_what_is_missing(made: Path) -> None:
    data = made / "data set"
    shards = {path: path.stat().st_mtime_ns for folder in ("seq_128", "seq_512") for path in data.glob(f"{folder}/p*")}
    assert len(shards) == 4
    next(iter(shards)).unlink()
    done = prepare(made)
    assert done.returncode == 0, done.stderr
    assert "is complete" in done.stdout
    assert "(2 were finished before)" in done.stdout
    now = {path: path.stat().st_mtime_ns for path in shards}
    assert sum(now[path] != shards[path] for path in shards) == 1
    manifest = json.loads((data / "seq_128" / "manifest.json").read_text())
    assert len(manifest["outputs"]) == 3


def test_other_settings_are_refused(made: Path) -> None:
    refused = prepare(made, DUPE_FACTOR="3")
    assert refused.returncode == 2
    assert "dupe_factor was 2, now 3" in refused.stderr
    refused = prepare(made, SHARDS="5")
    assert refused.returncode == 2
    assert "shards was 4, now 5" in refused.stderr
