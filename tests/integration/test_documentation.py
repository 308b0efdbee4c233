"""The README and the guides: their links, and their commands on small data and a small model.

An HTML comment on the line before a block of commands says how it is tested. `<!-- run: group -->`: a test below runs
the blocks of a group in order, as one script. `<!-- needs: … -->`: the commands need something that a test lacks.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from bert_large.convert.from_tensorflow import to_tensorflow
from bert_large.model import pretrained

from tests.support import documents
from tests.support.mlperf import events, values
from tests.support.models import tiny_model, write_config
from tests.support.records import PHASE_2_SHAPE, VOCAB_SIZE, make_records, write_folder
from tests.support.runs import step_rows

SMALL = {"BATCH_SIZE": "8", "MAX_STEPS": "3"}
GUIDES = [name for name in documents.DOCUMENTS if not name.startswith(("benchmarks/", "docs/settings.md"))]


@pytest.fixture
def workshop(tmp_path: Path) -> Path:
    """A folder like the project after `make setup`; the documents' /data/bert holds tiny records and a tiny model."""
    documents.make_workshop(tmp_path)
    data = tmp_path / "data" / "bert"
    write_folder(data / "seq_128", make_records(40))
    write_folder(data / "seq_512", make_records(40, lengths=(100, 300)), shape=PHASE_2_SHAPE)
    write_folder(data / "eval", make_records(20, seed=1))
    write_config(data / "bert_config.json")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(number) for number in range(0x61, 0x61 + 26))]
    words += [f"##{word}" for word in words[5:]] + [f"w{number}" for number in range(VOCAB_SIZE - len(words) - 26)]
    (data / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return tmp_path


@pytest.fixture
def text(workshop: Path) -> Path:
    """The documents' /data/text: sixty short articles."""
    folder = workshop / "data" / "text"
    folder.mkdir()
    articles = [[f"the cat number {i} sat on the mat .", "then it ran away .", f"{i} dogs slept ."] for i in range(60)]
    joined = "\n\n".join("\n".join(article) for article in articles)
    (folder / "part-00000-of-00001").write_text(joined, encoding="utf-8")
    return folder


@pytest.mark.parametrize("document", documents.DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    assert documents.broken_links(document) == []


@pytest.mark.parametrize("document", GUIDES)
def test_every_block_is_marked_and_parses(document: str) -> None:
    for block in documents.blocks(document):
        assert block.mark, f"{block.place}: write <!-- run: group --> or <!-- needs: … --> on the line before"
        subprocess.run(["bash", "-n", "-c", block.text], check=True)


def test_the_readme_links_every_guide() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)", documents.read("README.md")))
    assert {name for name in GUIDES if name.startswith(("docs/", "jobs/"))} <= linked


def test_readme_makes_records(workshop: Path, text: Path) -> None:
    """A vocabulary and the records of both phases from a folder of text."""
    documents.run_group("README.md", "text", workshop, {})
    records = workshop / "data" / "own"
    for folder, name in (("seq_128", "part-00000-of-00002_128"), ("seq_512", "part-00001-of-00002")):
        visible = [path.name for path in (records / folder).iterdir() if not path.name.startswith(".")]
        assert sorted(visible) == ["manifest.json", name]
    assert (records / "vocab.txt").read_text().startswith("[PAD]\n")


def test_ranks_are_shown(workshop: Path) -> None:
    printed = documents.run_group("docs/cluster.md", "ranks", workshop, {"RANKS_PER_NODE": "1"})
    assert len(re.findall(r"^rank 0 here: \d+ thread", printed, re.MULTILINE)) == 2


@pytest.mark.slow
def test_readme_trains(workshop: Path) -> None:
    """Both phases, an evaluation, a report and exports; then the commands that look at the outputs."""
    printed = documents.run_group("README.md", "train", workshop, SMALL)
    runs = workshop / "runs"
    for phase in ("phase1", "phase2"):
        assert len(step_rows(runs / phase)) == 3
        config = json.loads((runs / phase / "model_save" / "config.json").read_text())
        assert config["vocab_size"] == VOCAB_SIZE
    assert re.search(r"masked_lm_accuracy 0\.\d+", printed)
    assert (runs / "report.html").stat().st_size > 10_000
    assert (runs / "curves" / "masked_lm_loss.png").stat().st_size > 1000
    assert (runs / "hugging-face" / "tokenizer.json").exists()
    assert (runs / "onnx" / "encoder.onnx").exists()
    printed = documents.run_group("docs/troubleshooting.md", "look", workshop, {})
    assert json.loads(printed.splitlines()[-1])["masked_lm_accuracy"] >= 0


@pytest.mark.slow
def test_performance_guide(workshop: Path) -> None:
    """Steps are timed without saving anything; each benchmark prints one JSON object."""
    documents.run_group("docs/performance.md", "choose", workshop, SMALL)
    assert "BERT;training phase1 throughput;fp32; 8;" in (workshop / "runs" / "speed" / "summary.log").read_text()
    assert not (workshop / "runs" / "speed" / "checkpoints").exists()
    small = {"--json": "--json --hidden-size 32 --rounds 1 --compare"}
    printed = documents.run_group("docs/performance.md", "bench", workshop, {}, small)
    step, train = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert step["step_over_gemm"]["median"] > 0 and train["sequences_per_second"]["median"] > 0


@pytest.mark.slow
def test_inference_guide(workshop: Path, text: Path) -> None:
    """Embeddings of three texts in both formats, and candidates for a masked token."""
    (workshop / "data" / "texts.txt").write_text("the cat\na dog sat on the mat .\n\n")
    model = tiny_model()
    pretrained.save_model(
        workshop / "runs" / "phase2" / "model_save", model, model.config, workshop / "data" / "bert" / "vocab.txt"
    )
    printed = documents.run_group("docs/finetuning_and_export.md", "inference", workshop, {})
    assert printed.count("3 embeddings of 32 values") == 2
    assert printed.count("mask 1 ") == 3
    assert {"texts.npy", "texts.parquet"} <= {path.name for path in (workshop / "runs").iterdir()}


@pytest.mark.slow
def test_mlperf_guide(workshop: Path, text: Path) -> None:
    """From text and a TensorFlow checkpoint of a tiny model to a log; test_mlperf.py runs the guide's checker."""
    data = workshop / "data" / "mlperf"
    data.mkdir()
    for name in ("text", "eval_text"):
        (data / name).symlink_to(text)
    for name in ("vocab.txt", "bert_config.json"):
        shutil.copy(workshop / "data" / "bert" / name, data)
    model = tiny_model()
    pretrained.save_model(data / "model", model, model.config, None)
    to_tensorflow(data / "model", data / "tf1_ckpt" / "model.ckpt-28252", step=0, overwrite=False)
    smaller = {"--count 10000": "--count 20"}
    printed = documents.run_group("docs/mlperf.md", "mlperf", workshop, SMALL, smaller)
    assert re.search(r"masked_lm_accuracy 0\.\d+ .*on 20 samples", printed)
    log = workshop / "runs" / "mlperf" / "1" / "result_0.txt"
    assert values(log)["submission_org"] == "An Organisation"
    assert events(log)[-1]["metadata"]["status"] == "aborted"


@pytest.mark.slow
def test_tutorial(workshop: Path) -> None:
    """All steps, with fewer training steps and records than the tutorial has."""
    fewer = SMALL | {"DUPE_FACTOR": "1", "EVAL_RECORDS": "20", "PHASE1_FRACTION": "1"}
    fewer |= {"EPOCHS": "1", "MAX_TRAIN_SAMPLES": "64"}
    printed = documents.run_group("docs/tutorial.md", "own", workshop, fewer)
    runs = workshop / "runs" / "own"
    for phase in ("phase1", "phase2"):
        assert len(step_rows(runs / phase)) == 3
    assert len(json.loads((runs / "task" / "results.json").read_text())["seeds"]) == 2
    assert (runs / "report.html").exists() and (runs / "onnx" / "pretraining.onnx").exists()
    assert len(re.findall(r"^0\.\d{3} the", printed, re.MULTILINE)) == 5


@pytest.mark.slow
def test_a_published_model_is_trained_on(workshop: Path, text: Path) -> None:
    """From raw text and a model folder, whose tokenizer makes the records."""
    data = workshop / "data"
    (data / "own").mkdir()
    (data / "own" / "text").symlink_to(text)
    model = tiny_model()
    pretrained.save_model(data / "models" / "minilm", model, model.config, data / "bert" / "vocab.txt")
    documents.run_group("docs/data.md", "published", workshop, {}, {"--max-steps 1000": "--max-steps 3"})
    assert len(step_rows(data / "minilm" / "out")) == 3
