"""One command from a folder of text to a model, uncased and cased."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import transformers
from bert_large.data.dataset import Dataset
from bert_large.data.record import RecordShape
from bert_large.prepare.casing import Casing, casing_of
from bert_large.prepare.tokenizer import WordPieceTokenizer
from bert_large.prepare.vocab import read_vocab

from tests.support.models import write_config
from tests.support.runs import (
    RANKS_TOLERANCE,
    eval_rows,
    options,
    run_here,
    run_torchrun,
    start_process,
    step_rows,
    without_timings,
)

VOCAB_SIZE = 600
ARTICLES = {
    name: "\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    for name, text in sorted(topics.items())
}
SETTINGS = {
    "global_batch_size": 4,
    "max_steps": 2,
    "total_steps": 4,
    "learning_rate": 0.01,
    "data_workers": 0,
    "eval_every_samples": 8,
}


def write_text(folder: Path, articles: int = 40) -> Path:
    """Write some articles of Python's reference, one paragraph per line, to two files."""
    texts = list(dict.fromkeys(ARTICLES.values()))[:articles]
    folder.mkdir(parents=True)
    for number in range(2):
        (folder / f"part {number}.txt").write_text("\n\n".join(texts[number::2]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text and the configuration of a tiny model."""
    folder = tmp_path_factory.mktemp("text")
    write_text(folder / "some text", articles=120)
    write_config(folder / "config.json", vocab_size=VOCAB_SIZE)
    return folder


def arguments(place: Path, output_dir: Path, **changes: Any) -> list[str]:
    given = {"text_dir": place / "some text", "config_file": place / "config.json", **SETTINGS, **changes}
    return ["pretrain", *options(output_dir=output_dir, **given)]


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    """The output folder of phase 1 with dynamic masking, from text alone."""
    assert run_here(*arguments(place, place / "out", dynamic_masking=True)) == 0
    return place / "out"


def times(folder: Path) -> dict[Path, int]:
    """Return the modification time of each file that is not written at every start."""
    kept = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "manifest.json"))
    return {path: path.stat().st_mtime_ns for path in kept}


def test_it_trains_and_evaluates(trained: Path) -> None:
    """On one copy of all articles but the held-out ones; `transformers` loads the saved model."""
    assert len(step_rows(trained)) == 2
    assert len(eval_rows(trained)) == 1
    records = trained / "records"
    manifest = json.loads((records / "seq_128" / "manifest.json").read_text())
    assert (manifest["settings"]["dupe_factor"], manifest["settings"]["max_predictions_per_seq"]) == (1, 20)
    assert json.loads((records / "eval_all" / "manifest.json").read_text())["settings"]["dupe_factor"] == 10
    assert Dataset.open(records / "eval", trained / "data_index", build=True).shape == RecordShape(128, 20)
    assert not (records / "corpus" / "phase1").exists()
    vocabulary = read_vocab(trained / "model_save" / "vocab.txt")
    assert len(vocabulary.tokens) == VOCAB_SIZE and casing_of(vocabulary.tokens) == Casing(True, True)
    assert "articles held out" in (trained / "train.log").read_text()
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained / "model_save")
    assert tokenizer.tokenize("The CLASS") == ["the", "class"]


def test_a_second_start_continues(place: Path, trained: Path) -> None:
    """Nothing is prepared again."""
    before = times(trained / "records")
    assert run_here(*arguments(place, trained, dynamic_masking=True, max_steps=4)) == 0
    assert len(step_rows(trained)) == 4
    assert times(trained / "records") == before
    assert "records/corpus is complete" in (trained / "train.log").read_text()


@pytest.mark.slow
def test_killed_while_records_are_made(place: Path, trained: Path, tmp_path: Path) -> None:
    """Complete files are kept, and the others are the same as without the kill."""
    vocab_file = tmp_path / "records" / "vocab.txt"
    process = start_process(*arguments(place, tmp_path, dynamic_masking=True))
    while not vocab_file.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    made = vocab_file.stat().st_mtime_ns
    assert not (tmp_path / "metrics.jsonl").exists()
    assert run_here(*arguments(place, tmp_path, dynamic_masking=True)) == 0
    assert vocab_file.stat().st_mtime_ns == made
    assert without_timings(step_rows(tmp_path)) == without_timings(step_rows(trained))[:2]


def test_phase_2_from_the_same_text(place: Path, trained: Path, tmp_path: Path) -> None:
    """With phase 1's vocabulary, and the same articles held out."""
    assert run_here(*arguments(place, tmp_path, phase=2, config_file=None, checkpoint_dir=trained / "model_save")) == 0
    assert not (tmp_path / "records" / "vocab.txt").exists()
    vocabularies = [(folder / "model_save" / "vocab.txt").read_bytes() for folder in (tmp_path, trained)]
    assert vocabularies[0] == vocabularies[1]
    held_out = [next((folder / "records/corpus/eval").iterdir()).read_bytes() for folder in (tmp_path, trained)]
    assert held_out[0] == held_out[1]
    dataset = Dataset.open(tmp_path / "records" / "seq_512", tmp_path / "data_index", build=True)
    assert dataset.shape == RecordShape(512, 76)
    manifest = json.loads((tmp_path / "records" / "seq_512" / "manifest.json").read_text())
    assert manifest["settings"]["dupe_factor"] == 10  # without --dynamic-masking: copies with masks of their own
    assert len(eval_rows(tmp_path)) == 1


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with little text, and a finished run on it."""
    folder = tmp_path_factory.mktemp("small")
    write_text(folder / "some text", articles=8)
    write_config(folder / "config.json", vocab_size=VOCAB_SIZE)
    assert run_here(*arguments(folder, folder / "out")) == 0
    return folder


def change_text(place: Path) -> None:
    (place / "some text" / "part 0.txt").open("a").write("\n\nOne more article. It is short.\n")


def clear_text(place: Path) -> None:
    for path in (place / "some text").iterdir():
        path.write_text("")


def cut_manifest(place: Path) -> None:
    path = place / "out" / "records" / "seq_128" / "manifest.json"
    path.write_bytes(path.read_bytes()[:-20])


def break_text(place: Path) -> None:
    (place / "some text" / "part 1.txt").write_bytes(b"An article. Its end is binary:" + bytes(range(32)))


def other_field(place: Path) -> None:
    for path in (place / "some text").iterdir():
        path.write_text('{"body": "An article."}\n')


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (change_text, {}, r"error: .*/out/records .* TEXT_DIR .*some text .* the text part 0\.txt was \d+ bytes"),
        (lambda place: None, {"dynamic_masking": True}, r"/out/records .*dupe_factor was 10, now 1"),
        (lambda place: None, {"do_lower_case": True, "max_seq_length": 64}, "max_seq_length was 128, now 64"),
        (
            cut_manifest,
            {},
            r"seq_128/manifest.json is damaged: .*/out/records",
        ),
        (clear_text, {}, r"error: TEXT_DIR .*some text: .* 2 files are empty"),
        (clear_text, {"output": "new"}, r"error: TEXT_DIR .*some text: .* 2 files are empty"),
        (break_text, {"output": "new"}, r"error: TEXT_DIR .*part 1\.txt: line 1: .*binary"),
        (other_field, {"output": "new"}, r"error: TEXT_DIR .*part 0\.txt: .*'body'.*prepare_dataset\.sh.*DATASET_DIR"),
        (lambda place: None, {"dataset_dir": "."}, "--dataset-dir and --text-dir"),
        (lambda place: None, {"text_dir": "nowhere", "output": "new"}, "TEXT_DIR nowhere: found nothing"),
    ],
)
def test_refusals(
    small: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    settings: dict[str, Any],
    message: str,
) -> None:
    place = tmp_path / "place"
    shutil.copytree(small, place)
    change(place)
    output = place / settings.pop("output", "out")
    assert run_here(*arguments(place, output, **settings)) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error


def test_records_made_again_are_the_same(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So damaged records can be removed, as the errors advise: the run continues with the same records."""
    shutil.rmtree(small / "out" / "records")
    assert run_here(*arguments(small, small / "out")) == 0
    assert "nothing to do: the run in" in capsys.readouterr().out


def test_a_model_without_a_vocabulary(
    place: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records with a newly trained vocabulary would have the wrong ids for it."""
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).hardlink_to(trained / "model_save" / name)
    assert run_here(*arguments(place, tmp_path / "out", checkpoint_dir=tmp_path / "model")) == 2
    assert "VOCAB_FILE" in capsys.readouterr().err


def test_text_too_small_to_hold_out_articles(small: Path) -> None:
    assert eval_rows(small / "out") == []
    assert "no evaluation: the text is too small" in (small / "out" / "train.log").read_text()


def test_cased(place: Path, tmp_path: Path) -> None:
    """Capitals and accents have their own tokens, and `transformers` tokenizes as the records were made."""
    words = arguments(place, tmp_path / "out", dynamic_masking=True, max_steps=1)
    assert run_here(*words, "--no-do-lower-case") == 0
    model = tmp_path / "out" / "model_save"
    vocabulary = read_vocab(model / "vocab.txt")
    assert "The" in vocabulary.tokens and "the" in vocabulary.tokens
    settings = json.loads((model / "tokenizer_config.json").read_text())
    assert (settings["do_lower_case"], settings["strip_accents"]) == (False, False)
    text = (tmp_path / "out/records/corpus/both").iterdir()
    lines = [line for line in next(text).read_text(encoding="utf-8").splitlines() if line][:200]
    ours = WordPieceTokenizer(vocabulary, do_lower_case=False).encode(lines)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    assert [tokenizer(line, add_special_tokens=False)["input_ids"] for line in lines] == ours
    dataset = Dataset.open(tmp_path / "out/records/seq_128", tmp_path / "index", build=True)
    seen = np.unique(np.concatenate([dataset.read(number).input_ids for number in range(len(dataset))]))
    assert vocabulary.tokens.index("The") in seen
    # Phase 2 takes the casing from the model.
    assert run_here(*arguments(place, tmp_path / "two", checkpoint_dir=model, max_steps=1)) == 0
    settings = json.loads((tmp_path / "two/records/seq_128/manifest.json").read_text())["settings"]
    assert settings["do_lower_case"] is False


@pytest.mark.slow
def test_on_two_ranks(place: Path, trained: Path, tmp_path: Path) -> None:
    """One rank makes the records while the other waits."""
    done = run_torchrun(2, *arguments(place, tmp_path, dynamic_masking=True))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "train.log").read_text().count("articles held out") == 1
    for ours, theirs in zip(step_rows(tmp_path), step_rows(trained), strict=False):
        assert ours["masked_lm_loss"] == pytest.approx(theirs["masked_lm_loss"], rel=RANKS_TOLERANCE)
