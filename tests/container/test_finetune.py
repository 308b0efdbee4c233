"""Fine-tuning in the container by run.sh: a tiny model on a toy SST-2, and an image without the packages.

The tests' engine gives containers no network, so fine-tuning on local files needs none.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import pipeline

from tests.support.finetune import write_quick_model
from tests.support.glue import write_tsv

from .caller import Caller
from .engine import STOCK, Image

ROWS = [("the film was good", 1), ("the film was bad", 0), ("very good", 1), ("very bad", 0)] * 4
RUN_SECONDS = 600


@pytest.fixture
def learner(caller: Caller) -> Caller:
    """The caller with the settings of a short run: twenty steps and the evaluations between them."""
    dataset, model = caller.home / "data set", caller.home / "model save"
    for split in ("train", "dev"):
        write_tsv(dataset / "SST-2" / f"{split}.tsv", ("sentence", "label"), ROWS)
    write_tsv(dataset / "SST-2/test.tsv", ("index", "sentence"), [(0, "good film"), (1, "bad film")])
    write_quick_model(model)
    caller.variables = {
        "SCRIPT": "run_finetune.sh",
        "TASK": "sst2",
        "DATASET_DIR": str(dataset),
        "CHECKPOINT_DIR": str(model),
        "OUTPUT_DIR": str(caller.home / "out put"),
        "EPOCHS": "10",
        "BATCH_SIZE": "8",
        "LEARNING_RATE": "0.01",
        "MAX_SEQ_LENGTH": "16",
        "SAVE_EVERY": "5",
        "SEED": "7",
    }
    caller.own()
    return caller


def test_a_model_is_fine_tuned(learner: Caller, finetune_image: Image) -> None:
    """It runs as an ordinary user on a read-only image; the outputs belong to the user and load in transformers."""
    learner.variables["IMAGE_NAME"] = finetune_image.name
    result = learner.run(timeout=RUN_SECONDS)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in result.stderr and "Warning" not in result.stderr, result.stderr
    assert "validation accuracy" in result.stdout
    output = Path(learner.variables["OUTPUT_DIR"])
    (seed,) = json.loads((output / "results.json").read_text())["seeds"]
    assert (seed["seed"], seed["steps"], seed["metrics"]["validation"]["accuracy"]) == (7, 20, 1.0)
    assert (output / "predictions/SST-2.tsv").read_text().split() == ["index", "prediction", "0", "1", "1", "0"]
    classify = pipeline("text-classification", model=str(output / "model_save"), device="cpu")
    labels = [answer["label"] for answer in classify(["the film was good", "the film was bad"])]
    assert labels == ["positive", "negative"]
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in output.rglob("*")}
    assert owners == {(learner.uid, learner.uid)}

    # The health check reads this run's log.
    mount = f"type=bind,source={output},target={output},readonly"
    check = ["--env", f"OUTPUT_DIR={output}", finetune_image.name, "/workspace/bert-large/healthcheck.sh"]
    health = learner.engine.docker("run", "--rm", "--mount", mount, *check).stdout
    assert health == (output / "train.log").read_text().splitlines()[-1] + "\n"
    assert "seed 7 step 20/20" in health


def test_an_image_without_the_packages_is_named(learner: Caller) -> None:
    learner.variables["IMAGE_NAME"] = STOCK.name
    result = learner.run()
    assert result.returncode == 2
    assert "FINETUNE=1 ./build.sh" in result.stderr.splitlines()[-1]
