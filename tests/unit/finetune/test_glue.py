"""GLUE's tasks on files in the official form, their submissions, and errors that name file and line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bert_large.errors import DataError, InputError
from bert_large.finetune import data_files, squad
from bert_large.finetune.glue import GLUE_TASKS
from bert_large.finetune.registry import make_task
from datasets import ClassLabel, Dataset, DatasetDict

from tests.support.glue import FIRST, SECOND, write_glue, write_mrpc_original, write_single, write_tsv

PAIR_HEADER = ("sentence1", "sentence2", "gold_label")


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_glue(tmp_path_factory.mktemp("glue"))


@pytest.mark.parametrize(
    ("name", "labels", "is_pair"),
    [
        ("cola", [0, 1, 0, 1, 0, 1], False),
        ("sst2", [0, 1, 0, 1, 0, 1], False),
        ("mrpc", [1, 0, 1, 0, 1, 0], True),
        ("qqp", [0, 1, 0, 1, 0, 1], True),
        ("stsb", [5.0, 0.0, 2.5, 5.0, 0.0, 2.5], True),
        ("mnli", [1, 0, 2, 1, 0, 2], True),
        ("qnli", [0, 1, 0, 1, 0, 1], True),
        ("rte", [0, 1, 0, 1, 0, 1], True),
        ("wnli", [1, 0, 1, 0, 1, 0], True),
    ],
)
def test_each_reader(glue: Path, name: str, labels: list[float], is_pair: bool) -> None:
    """From the folder that holds all tasks, and from the task's own."""
    task = GLUE_TASKS[name]
    for folder in (glue, glue / task.folder):
        splits = task.load(folder)
        assert splits.train is not None and len(splits.train) == 12
        first = next(iter(splits.evaluation.values()))
        assert first["label"][:] == labels
        texts = {"first": [f"{FIRST} {number}" for number in range(6)]} | ({"second": [SECOND] * 6} if is_pair else {})
        assert {column: first[column][:] for column in ("first", "second") if column in first.column_names} == texts
        test = next(iter(splits.test.values()))
        assert (test["index"][:], "label" in test.column_names) == ([0, 1, 2, 3], False)
        assert task.model_settings()["num_labels"] == {"mnli": 3, "stsb": 1}.get(name, 2)


def test_mnli_has_two_validation_sets_and_the_diagnostic_one(glue: Path) -> None:
    splits = GLUE_TASKS["mnli"].load(glue)
    assert list(splits.evaluation) == ["validation_matched", "validation_mismatched"]
    assert {name: len(split) for name, split in splits.test.items()} == {
        "test_matched": 4, "test_mismatched": 4, "ax": 2,
    }  # fmt: skip


def test_test_files_may_be_missing(tmp_path: Path) -> None:
    write_single(tmp_path)
    (tmp_path / "SST-2" / "test.tsv").unlink()
    assert GLUE_TASKS["sst2"].load(tmp_path).test == {}


def test_mrpc_as_its_authors_have_it(tmp_path: Path) -> None:
    write_mrpc_original(tmp_path)
    splits = GLUE_TASKS["mrpc"].load(tmp_path)
    assert splits.train is not None
    assert splits.train["first"][:] == [f"{FIRST} {number}" for number in (0, 2, 3, 5)]
    assert splits.train["label"][:] == [0, 0, 1, 1]
    assert splits.evaluation["validation"]["label"][:] == [1, 0]
    assert splits.test["test"]["index"][:] == [0, 1, 2]
    assert "label" not in splits.test["test"].column_names
    (tmp_path / "dev_ids.tsv").unlink()
    with pytest.raises(InputError, match=r"dev_ids\.tsv"):
        GLUE_TASKS["mrpc"].load(tmp_path)


def test_rows_that_qqp_has_cut_short_are_skipped(glue: Path, tmp_path: Path) -> None:
    header = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")
    rows = [(1, 2, 3, "a", "b", 1), (4, 5, 6, "only one"), (7, 8, 9, "c", "d", 0)]
    for name in ("train", "dev"):
        write_tsv(tmp_path / f"{name}.tsv", header, rows)
    splits = GLUE_TASKS["qqp"].load(tmp_path)
    assert splits.train is not None
    assert splits.train["label"][:] == splits.evaluation["validation"]["label"][:] == [1, 0]


@pytest.mark.parametrize(
    ("name", "file", "header", "row", "message"),
    [
        ("sst2", "train.tsv", ("sentence", "label"), ("x", "2"), "line 2: found label '2'"),
        ("sst2", "dev.tsv", ("text", "label"), ("x", "1"), "line 1: found the columns text, label"),
        ("sst2", "dev.tsv", ("sentence", "label"), ("x",), "line 2: found 1 field"),
        ("sst2", "test.tsv", ("index", "sentence"), ("x", "y"), "line 2: found index 'x'"),
        ("cola", "train.tsv", None, ("gj04", "yes", "", "x"), "line 1: found label 'yes'"),
        ("stsb", "dev.tsv", ("sentence1", "sentence2", "score"), ("x", "y", "5.1"), "line 2: found score '5.1'"),
        ("stsb", "dev.tsv", ("sentence1", "sentence2", "score"), ("x", "y", "nan"), "line 2: found score 'nan'"),
        ("stsb", "dev.tsv", ("sentence1", "sentence2", "score"), ("x", "y", "-"), "line 2: found score '-'"),
        ("mnli", "dev_matched.tsv", PAIR_HEADER, ("x", "y", "-"), "line 2: found gold_label '-'"),
    ],
)
def test_errors_name_file_and_line(
    tmp_path: Path, name: str, file: str, header: tuple[str, ...] | None, row: tuple[str, ...], message: str
) -> None:
    folder = write_glue(tmp_path) / GLUE_TASKS[name].folder
    write_tsv(folder / file, header, [row])
    with pytest.raises(DataError) as error:
        GLUE_TASKS[name].load(tmp_path)
    assert str(error.value).startswith(f"{folder / file}: {message}")


def test_missing_files_are_named(tmp_path: Path) -> None:
    write_tsv(tmp_path / "RTE" / "train.csv", ("a",), [])
    with pytest.raises(InputError, match=r"RTE has no train\.tsv; found train\.csv"):
        GLUE_TASKS["rte"].load(tmp_path)
    for folder in (Path("no/where"), tmp_path / ("x" * 300), tmp_path / "RTE" / "train.csv"):
        with pytest.raises(InputError) as error:
            GLUE_TASKS["rte"].load(folder)
        assert f"--data-dir {folder}" in str(error.value)


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    write_single(tmp_path)
    write_tsv(tmp_path / "SST-2" / "dev.tsv", ("sentence", "label"), [])
    with pytest.raises(DataError, match=r"dev\.tsv"):
        GLUE_TASKS["sst2"].load(tmp_path)


@pytest.mark.parametrize(
    ("name", "split", "file", "logits", "words"),
    [
        ("cola", "test", "CoLA.tsv", [[0, 1], [1, 0]], ["1", "0"]),
        ("sst2", "test", "SST-2.tsv", [[0, 1], [1, 0]], ["1", "0"]),
        ("mrpc", "test", "MRPC.tsv", [[0, 1], [1, 0]], ["1", "0"]),
        ("qqp", "test", "QQP.tsv", [[0, 1], [1, 0]], ["1", "0"]),
        ("stsb", "test", "STS-B.tsv", [[5.25], [1.23456]], ["5.000", "1.235"]),
        ("mnli", "test_matched", "MNLI-m.tsv", [[0, 1, 0], [0, 0, 1]], ["neutral", "contradiction"]),
        ("mnli", "test_mismatched", "MNLI-mm.tsv", [[2, 1, 0], [0, 0, 1]], ["entailment", "contradiction"]),
        ("mnli", "ax", "AX.tsv", [[2, 1, 0], [0, 3, 1]], ["entailment", "neutral"]),
        ("qnli", "test", "QNLI.tsv", [[0, 1], [1, 0]], ["not_entailment", "entailment"]),
        ("rte", "test", "RTE.tsv", [[0, 1], [1, 0]], ["not_entailment", "entailment"]),
        ("wnli", "test", "WNLI.tsv", [[0, 1], [1, 0]], ["1", "0"]),
    ],
)
def test_submissions(
    tmp_path: Path, name: str, split: str, file: str, logits: list[list[float]], words: list[str]
) -> None:
    examples = Dataset.from_dict({"first": ["a", "b"], "index": [10, 11]})
    GLUE_TASKS[name].write_predictions(tmp_path, split, examples, examples, np.array(logits, np.float32))
    assert (tmp_path / file).read_text() == f"index\tprediction\n10\t{words[0]}\n11\t{words[1]}\n"
    GLUE_TASKS[name].write_predictions(tmp_path, "validation", examples, examples, np.array(logits))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "labels", "logits", "expected"),
    [
        ("cola", [1, 0, 1, 0], [[0, 1], [1, 0], [0, 1], [1, 0]], {"matthews_correlation": 1.0}),
        ("mnli", [0, 1, 2, 2], [[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]], {"accuracy": 0.5}),
        ("qqp", [1, 1, 0, 0], [[0, 1], [1, 0], [1, 0], [1, 0]], {"accuracy": 0.75, "f1": 2 / 3, "average": 17 / 24}),
        ("stsb", [0, 5, 5], [[-3], [6], [9]], {"pearson": 1.0, "spearman": 1.0, "average": 1.0}),
    ],
)
def test_metrics_from_logits(
    name: str, labels: list[float], logits: list[list[float]], expected: dict[str, float]
) -> None:
    """Scores are cut to their range first; otherwise those of the last case would have a lower correlation."""
    examples = Dataset.from_dict({"label": labels})
    found = GLUE_TASKS[name].compute_metrics(examples, examples, np.array(logits, np.float32))
    assert found == pytest.approx(expected, abs=1e-6)
    assert GLUE_TASKS[name].main_metric in found


def test_the_hubs_version_has_the_same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """The label -1 of its test splits is not a label."""
    label = ClassLabel(names=["entailment", "neutral", "contradiction"])

    def split(labels: list[int]) -> Dataset:
        rows = {
            "premise": ["p"] * len(labels),
            "hypothesis": ["h"] * len(labels),
            "label": labels,
            "idx": [5] * len(labels),
        }
        found = Dataset.from_dict(rows)
        return found.cast_column("label", label) if min(labels) >= 0 else found

    def load(name: str, configuration: str, **_: object) -> DatasetDict:
        assert name == "nyu-mll/glue"
        if configuration == "ax":
            return DatasetDict({"test": split([-1, -1])})
        assert configuration == "mnli"
        names = ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched")
        return DatasetDict({name: split([-1] if "test" in name else [0, 1, 2]) for name in names})

    monkeypatch.setattr("datasets.load_dataset", load)
    splits = GLUE_TASKS["mnli"].load(None)
    assert splits.train is not None and splits.train[1] == {"first": "p", "second": "h", "label": 1, "index": 5}
    assert set(splits.test) == {"ax", "test_matched", "test_mismatched"}
    assert splits.test["ax"].column_names == ["first", "second", "index"]


def test_without_a_network_the_error_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, configuration: str, **_: object) -> DatasetDict:
        raise ConnectionError("Couldn't reach 'nyu-mll/glue' on the Hub\nmore")

    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(InputError, match=r"nyu-mll/glue \(rte\).*Couldn't reach .*--data-dir"):
        data_files.load_from_hub("nyu-mll/glue", "rte")


def test_names_may_be_written_as_glue_does() -> None:
    arguments = SimpleNamespace(task="STS-B", **dict.fromkeys(squad.OPTIONS))
    assert make_task(arguments).name == "stsb"  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"--task 'SNLI'.*cola, sst2"):
        make_task(SimpleNamespace(task="SNLI"))  # type: ignore[arg-type]
