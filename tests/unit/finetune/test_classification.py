"""The task of a user's own classes: files, columns, labels, and errors that name them."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.errors import DataError, InputError
from bert_large.finetune.classification import make_task

TRAIN = "sentence\tlabel\na\tsports news\nb\tpolitics\nc\tweather\n"


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def test_labels_are_those_of_the_training_file(tmp_path: Path) -> None:
    folder = write(tmp_path, train_tsv=TRAIN, dev_tsv=TRAIN, test_csv='sentence\n"x, y"\n')
    task = make_task(folder, None)
    splits = task.load(folder)
    assert task.model_settings()["id2label"] == {0: "politics", 1: "sports news", 2: "weather"}
    assert splits.train is not None and splits.train["label"][:] == [1, 0, 2]
    assert splits.test["test"]["first"][:] == ["x, y"]


def test_pairs_and_numbers_in_their_order(tmp_path: Path) -> None:
    rows = "".join(f"a,b,{label}\n" for label in (10, 9, 2))
    folder = write(
        tmp_path, train_csv="sentence1,sentence2,label\n" + rows, dev_csv="sentence1,sentence2,label\na,b,9\n"
    )
    task = make_task(folder, None)
    assert list(task.labels) == ["2", "9", "10"]
    assert task.load(folder).evaluation["validation"]["second"][:] == ["b"]


def test_predictions_need_no_training_file(tmp_path: Path) -> None:
    folder = write(tmp_path, test_tsv="text\na\nb\n")
    splits = make_task(folder, ["yes", "no"]).load(folder, training=False)
    assert (splits.train, splits.evaluation, len(splits.test["test"])) == (None, {}, 2)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"dev_tsv": TRAIN}, "train.tsv"),
        ({"train_tsv": TRAIN}, "dev.tsv"),
        ({"train_tsv": TRAIN, "train_csv": "a"}, "train.csv"),
        ({"train_tsv": "sentence\tlabel\na\tx\nb\tx\n", "dev_tsv": TRAIN}, "train.tsv: found the labels ['x']"),
        ({"train_tsv": "sentence\tlabel\na\t \n", "dev_tsv": TRAIN}, "train.tsv: line 2"),
        *(
            ({"train_csv": f'sentence,label\na,"x{character}y"\nb,z\n', "dev_tsv": TRAIN}, f"train.csv: line {line}: ")
            for character, line in (("\n", 3), ("\r", 2), ("\t", 2))
        ),
        ({"train_tsv": TRAIN, "dev_tsv": "sentence\tlabel\na\tart\n"}, "dev.tsv: line 2: found label 'art'"),
        ({"train_tsv": "words\tlabel\na\tx\nb\ty\n", "dev_tsv": TRAIN}, "train.tsv: line 1: found the columns words"),
        ({"train_tsv": "sentence\tclass\na\tx\n", "dev_tsv": TRAIN}, "train.tsv: line 1: found the columns"),
    ],
)
def test_errors_name_the_file(tmp_path: Path, files: dict[str, str], named: str) -> None:
    folder = write(tmp_path, **files)
    with pytest.raises((InputError, DataError)) as error:
        make_task(folder, None).load(folder)
    assert named in str(error.value)
