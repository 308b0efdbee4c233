"""MLCommons' own checkpoints, converted: equal to the last bit, and a run resumes with their moments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.parity.golden import GOLDEN, SAMPLE, hugging_face_name, load_tf_weights
from tests.parity.reference import Arrays, Recipe, Reference, read_batches
from tests.support.runs import options, run_here, step_rows

SHARD = SAMPLE / "seq_128" / "part-00000-of-00002_128"
pytestmark = pytest.mark.skipif(
    not (GOLDEN.is_dir() and SHARD.is_file()), reason=f"needs MLCommons' golden run in {GOLDEN}"
)
CONFIG_FILE = GOLDEN / "bert_config.json"
# Of the golden run, which test_golden.py repeats from its start.
RECIPE = Recipe(learning_rate=0.03, total_steps=40, warmup_steps=5)
BATCH_SIZE = 16


@pytest.fixture(scope="module", params=[0, 30])
def step(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def converted(step: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a step as a model folder with moments, made by the command."""
    folder = tmp_path_factory.mktemp("converted") / "model"
    given = options(tf_checkpoint=GOLDEN / f"model.ckpt-{step}", config_file=CONFIG_FILE, output_dir=folder)
    assert run_here("convert", *given, "--moments") == 0
    return folder


def load_tf_slots(prefix: Path, suffix: str) -> Arrays:
    """Read one moment of every weight under Hugging Face's names."""
    import tensorflow as tf

    reader, slots = tf.train.load_checkpoint(str(prefix)), {}
    for variable in reader.get_variable_to_shape_map():
        if variable.endswith(suffix):
            weight, values = variable.removesuffix(suffix), reader.get_tensor(variable)
            slots[hugging_face_name(weight)] = values.T if weight.endswith("kernel") else values
    return slots


def assert_same_bits(found: Arrays, expected: Arrays) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype == np.float32, name
        np.testing.assert_array_equal(found[name].view(np.int32), np.ascontiguousarray(values).view(np.int32), name)


def test_weights(converted: Path, step: int) -> None:
    expected = {name: values.numpy() for name, values in load_tf_weights(GOLDEN / f"model.ckpt-{step}").items()}
    assert_same_bits(load_file(converted / "model.safetensors"), expected)


def test_moments(converted: Path, step: int) -> None:
    moments = load_file(converted / "checkpoints" / f"step-{step:08d}" / "optimizer.safetensors")
    expected: Arrays = {}
    for moment, slot in (("exp_avg", "/LAMB"), ("exp_avg_sq", "/LAMB_1")):
        slots = load_tf_slots(GOLDEN / f"model.ckpt-{step}", slot)
        expected |= {f"{moment}.{name}": values for name, values in slots.items()}
    assert_same_bits(moments, expected)
    assert all(values.any() == (step > 0) for name, values in moments.items() if "key.bias" not in name)


def test_there_and_back(converted: Path, step: int, tmp_path: Path) -> None:
    """TensorFlow reads the same weights and step; slots are not written."""
    import tensorflow as tf

    given = options(to_tf=tmp_path / "model.ckpt", checkpoint_dir=converted, global_step=step)
    assert run_here("convert", *given) == 0
    theirs = tf.train.load_checkpoint(str(GOLDEN / f"model.ckpt-{step}"))
    ours = tf.train.load_checkpoint(str(tmp_path / "model.ckpt"))
    left_out = ("/LAMB", "/LAMB_1", "beta1_power", "beta2_power")
    names = [name for name in theirs.get_variable_to_shape_map() if not name.endswith(left_out)]
    assert sorted(ours.get_variable_to_shape_map()) == sorted(names)
    for name in names:
        found, expected = ours.get_tensor(name), theirs.get_tensor(name)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
        assert found.tobytes() == expected.tobytes(), name


def pretrain(output_dir: Path, max_steps: int, **more: Any) -> Path:
    """Train on the golden run's records and settings."""
    data = output_dir.parent / "data"
    if not data.exists():
        data.mkdir()
        (data / "part-0").symlink_to(SHARD)
    given = options(
        phase=1, dataset_dir=data, config_file=CONFIG_FILE, output_dir=output_dir, no_shuffle=True, eval_dir="none",
        data_workers=0, max_steps=max_steps, global_batch_size=BATCH_SIZE, learning_rate=RECIPE.learning_rate,
        total_steps=RECIPE.total_steps, warmup_steps=RECIPE.warmup_steps, **more,
    )  # fmt: skip
    assert run_here("pretrain", *given) == 0
    return output_dir


@pytest.mark.slow
def test_a_run_resumes(converted: Path, step: int, tmp_path: Path) -> None:
    """Two more steps, against the second reference with TensorFlow's slots as its moments.

    Without the moments, every parameter of the reference differs by more than ten tolerances.
    """
    checkpoint = converted / "checkpoints" / f"step-{step:08d}"
    out = pretrain(tmp_path / "out", step + 2, resume=checkpoint)

    prefix = GOLDEN / f"model.ckpt-{step}"
    weights = {name: values.numpy() for name, values in load_tf_weights(prefix).items()}
    reference = Reference(
        dict(weights), 2, RECIPE, step, load_tf_slots(prefix, "/LAMB"), load_tf_slots(prefix, "/LAMB_1")
    )
    batches = read_batches(SHARD, length=128, predictions=20, batch_size=BATCH_SIZE, skip=step * BATCH_SIZE, batches=2)
    expected_rows = [reference.train(batch) for batch in batches]

    rows = step_rows(out)
    assert [(row["step"], row["samples"]) for row in rows] == [(step + n, BATCH_SIZE * (step + n)) for n in (1, 2)]
    for metric in ("masked_lm_loss", "next_sentence_loss", "gradient_norm", "learning_rate"):
        assert [row[metric] for row in rows] == pytest.approx([row[metric] for row in expected_rows], rel=4e-6), metric
    found = load_file(out / "model_save" / "model.safetensors")
    for name, expected in reference.weights.items():
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-5, err_msg=name)

    if step:
        forgetful = Reference(weights, 2, RECIPE, step)
        for batch in batches:
            forgetful.train(batch)
        differences = {name: np.abs(forgetful.weights[name] - found[name]).max() for name in weights}
        assert all(values > 1e-4 for name, values in differences.items() if "key.bias" not in name), differences


@pytest.mark.slow
def test_starting_from_moments_of_zero(tmp_path: Path) -> None:
    """At step 0, where all moments are 0, resuming and starting give the same bits."""
    model = tmp_path / "model"
    given = options(tf_checkpoint=GOLDEN / "model.ckpt-0", config_file=CONFIG_FILE, output_dir=model, moments=True)
    assert run_here("convert", *given) == 0
    resumed = pretrain(tmp_path / "resumed", 2, resume=model / "checkpoints" / "step-00000000")
    started = pretrain(tmp_path / "started", 2, checkpoint_dir=model)
    for name in ("model_save/model.safetensors", "checkpoints/step-00000002/optimizer.safetensors"):
        assert (resumed / name).read_bytes() == (started / name).read_bytes(), name
