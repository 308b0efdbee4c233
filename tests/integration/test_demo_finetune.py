"""Fine-tuning the demo's model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.integration.conftest import Demo
from tests.support.finetune import finetune
from tests.support.glue import write_tsv

pytestmark = pytest.mark.slow
NEUTRAL = ("the", "a", "of", "and", "value", "name", "module", "class", "string", "list", "object", "file", "in", "to")
SIDES = (("error", "false", "fails", "invalid", "not"), ("true", "returns", "valid", "new", "same"))


def write_learnable_task(folder: Path, *, train: int, dev: int) -> float:
    """Write SST-2 with sentences whose label depends on one word; return the share of the majority label in dev.tsv."""
    draw = random.Random(0)
    shares = []
    for split, count in (("train", train), ("dev", dev)):
        rows = []
        for _ in range(count):
            label = int(draw.random() < 0.6)
            words = [draw.choice(NEUTRAL) for _ in range(draw.randint(5, 15))]
            words.insert(draw.randrange(len(words) + 1), draw.choice(SIDES[label]))
            rows.append((" ".join(words), label))
        write_tsv(folder / f"{split}.tsv", ("sentence", "label"), rows)
        shares.append(sum(label for _, label in rows) / count)
    return max(shares[1], 1 - shares[1])


@pytest.mark.timeout(1500)
def test_it_learns_from_the_demos_model(demo: Demo, tmp_path: Path) -> None:
    """A task that single words decide is nearly solved, with two seeds."""
    majority = write_learnable_task(tmp_path / "data", train=1500, dev=300)
    settings = {"epochs": 3, "learning_rate": 3e-4, "max_seq_length": 32, "seeds": "1,2"}
    model = demo.folder / "phase2" / "model_save"
    assert finetune(tmp_path / "out", task="sst2", data_dir=tmp_path / "data", checkpoint_dir=model, **settings) == 0
    for seed in json.loads((tmp_path / "out" / "results.json").read_text())["seeds"]:
        assert seed["metrics"]["validation"]["accuracy"] > 0.95 > majority + 0.2
