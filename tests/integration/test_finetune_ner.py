"""`bert-large finetune --task ner`, from CoNLL files to tags that conlleval reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.finetune import finetuned, write_quick_model
from tests.support.runs import options, run_here

SENTENCES = """abc NN O
pq NNP I-PER
xy NNP I-PER
in NN O
zz NNP I-LOC

zz NNP I-LOC
zz NNP B-LOC
abc NN O
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_quick_model(tmp_path_factory.mktemp("start") / "model_save")


def test_ner_learns_its_sentences(model: Path, tmp_path: Path) -> None:
    """With tags in IOB1, three columns, and a sentence that is longer than the sequence length."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "eng.train").write_text("-DOCSTART- -X- O\n\n" + f"{SENTENCES}\n" * 80)
    (data / "eng.testa").write_text(SENTENCES)
    (data / "eng.testb").write_text(
        SENTENCES.replace("\n\n", "\n").replace("I-LOC\nzz NNP I-LOC", "I-LOC\nzz NNP B-LOC")
    )
    settings = {"max_seq_length": 10, "batch_size": 16, "epochs": 3, "learning_rate": 3e-3}
    found = finetuned(tmp_path / "out", task="ner", data_dir=data, checkpoint_dir=model, **settings)
    assert list(found) == ["validation", "test"]
    assert found["validation"]["f1"] == found["validation"]["PER_recall"] == 100
    tagged = (tmp_path / "out/predictions/validation.conll").read_text().splitlines()
    assert tagged[:6] == ["abc O O", "pq B-PER B-PER", "xy I-PER I-PER", "in O O", "zz B-LOC B-LOC", ""]
    assert len((tmp_path / "out/predictions/test.conll").read_text().splitlines()) == 9
    labels = json.loads((tmp_path / "out/model_save/config.json").read_text())["id2label"]
    assert labels == {"0": "O", "1": "B-LOC", "2": "I-LOC", "3": "B-PER", "4": "I-PER"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.txt": SENTENCES}, "dev.txt or dev.conll or valid.txt"),
        ({"train.txt": SENTENCES, "dev.txt": SENTENCES, "valid.txt": SENTENCES}, "dev.txt and valid.txt"),
        ({"train.txt": "a O\n", "dev.txt": SENTENCES}, "B-PER"),
        ({"train.txt": SENTENCES, "dev.txt": "a O\nb\n"}, "dev.txt: line 2"),
        ({"train.txt": SENTENCES, "dev.txt": "a O\nb S-ORG\n"}, "dev.txt: line 2: found the tag 'S-ORG'"),
        ({"train.txt": SENTENCES, "dev.txt": SENTENCES, "test.txt": "a I-ORG\n"}, "test.txt: line 1"),
    ],
)
def test_wrong_data(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], files: dict[str, str], message: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    values = {"task": "ner", "data_dir": tmp_path, "checkpoint_dir": model, "output_dir": tmp_path / "out"}
    assert run_here("finetune", *options(**values)) == 2
    assert message in capsys.readouterr().err
