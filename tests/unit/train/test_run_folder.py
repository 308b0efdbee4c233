"""An output folder belongs to one run; a start is decided before the folder changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bert_large.config.training import STEPS_OF_TIME
from bert_large.errors import DamageError, InputError
from bert_large.model.pretrained import save_model
from bert_large.storage.integrity import write_checksums
from bert_large.train.checkpoint import save_checkpoint
from bert_large.train.run_folder import imported_identity, mark_ended, plan_start, reason_ended, require_same
from bert_large.train.state import TrainingState

from tests.support.models import tiny_config, tiny_model
from tests.support.training import identity, train_config, trained


def start(folder: Path, changes: dict[str, Any] | None = None, **config: Any) -> Path | None:
    """Start a run in its folder and return the checkpoint that it resumes from; `changes` are those of its identity."""
    plan = plan_start(train_config(folder, **config), identity(folder, **changes or {}))
    assert plan.ended is None
    plan.carry_out()
    return plan.resume_from


def run_in(folder: Path, *steps: int) -> None:
    """Start a run in a folder and leave checkpoints in it."""
    folder.mkdir(exist_ok=True)
    start(folder)
    for step in steps:
        save_checkpoint(folder / "checkpoints", *trained(), TrainingState(step, 8 * step), identity(folder))


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").iterdir())


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def damage(checkpoint: Path) -> None:
    (checkpoint / "optimizer.safetensors").write_bytes(b"")


def test_runs_of_versions_with_one_architecture(tmp_path: Path) -> None:
    """They resume as runs of that architecture, and of no other."""
    run_in(tmp_path, 3)
    paths = [tmp_path / "run.json", tmp_path / "checkpoints/step-00000003/state.json"]
    for path in paths:
        values = json.loads(path.read_text())
        del values.get("identity", values)["model"]["architecture"]
        path.write_text(json.dumps(values))
    write_checksums(paths[1].parent)
    assert start(tmp_path) == paths[1].parent
    other = identity(tmp_path)
    other["model"]["architecture"] = "BertForMaskedLM"
    with pytest.raises(InputError, match=r"model.architecture .*BertForPreTraining.*BertForMaskedLM"):
        plan_start(train_config(tmp_path), other)


def test_runs_of_versions_with_one_schedule(tmp_path: Path) -> None:
    """They resume with that schedule, and with no other; their identities lack the settings added since."""
    run_in(tmp_path, 3)
    paths = [tmp_path / "run.json", tmp_path / "checkpoints/step-00000003/state.json"]
    for path in paths:
        values = json.loads(path.read_text())
        for name in ("schedule", "decay_fraction", "warmup_fraction"):
            del values.get("identity", values)["optimizer"][name]
        path.write_text(json.dumps(values))
    write_checksums(paths[1].parent)
    assert start(tmp_path) == paths[1].parent
    with pytest.raises(InputError, match=r"optimizer.schedule .*polynomial.*cosine"):
        start(tmp_path, {"schedule": "cosine"})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_hours": 2.0}, "max_hours was none, is 2.0"),
        ({"start_batch_size": 4, "batch_ramp_steps": 3}, "start_batch_size was none, is 4"),
    ],
)
def test_hours_and_batch_ramp_identify_a_run(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    assert not set(changes) & set(identity(tmp_path))  # as in earlier versions, if they are not used
    run_in(tmp_path, 3)
    with pytest.raises(InputError, match=named):
        start(tmp_path, changes)


def test_an_empty_folder(tmp_path: Path) -> None:
    assert start(tmp_path) is None
    assert (tmp_path / "run.json").exists()
    assert start(tmp_path) is None


@pytest.mark.parametrize("resume", ["auto", "never", "step-00000005", "step-00000010"])
def test_a_restarted_run_resumes_from_its_newest_checkpoint(tmp_path: Path, resume: str) -> None:
    """The launcher repeats the command that the run was first started with."""
    run_in(tmp_path, 5, 10)
    checkpoints = tmp_path / "checkpoints"
    train = train_config(tmp_path, resume=str(checkpoints / resume) if resume.startswith("step") else resume)
    plan = plan_start(train, identity(tmp_path), restarted=True)
    assert plan.resume_from == checkpoints / "step-00000010" and not plan.obsolete


def test_a_run_restarted_before_its_first_checkpoint(tmp_path: Path) -> None:
    """It starts where it started before."""
    run_in(tmp_path / "other", 20)
    given = tmp_path / "other" / "checkpoints" / "step-00000020"
    for resume, expected in (("never", None), (str(given), given)):
        folder = tmp_path / Path(resume).name
        run_in(folder)
        plan = plan_start(train_config(folder, resume=resume), identity(folder), restarted=True)
        assert plan.resume_from == expected


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 0.02}, "optimizer.learning_rate was 0.01, is 0.02"),
        ({"seed": 7}, "seed was 42, is 7"),
        ({"global_batch_size": 16}, "global_batch_size was 8, is 16"),
        ({"precision": "bf16"}, "precision was fp32, is bf16"),
        ({"phase": 2}, "phase was 1, is 2"),
        ({"fingerprint": "xyz"}, "the shards in DATASET_DIR are others (their digest was abc, is xyz)"),
    ],
)
def test_another_run_is_refused_with_the_differences(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    run_in(tmp_path)
    with pytest.raises(InputError) as caught:
        start(tmp_path, changes)
    assert str(tmp_path) in str(caught.value) and named in str(caught.value)


def test_a_run_of_hours_and_one_of_steps(tmp_path: Path) -> None:
    """The schedule of the former has a length in steps too, which the user has never seen."""
    timed = {"max_hours": 2.0, "total_steps": STEPS_OF_TIME, "warmup_steps": STEPS_OF_TIME // 4}
    (tmp_path / "run.json").write_text(json.dumps(identity(tmp_path, **timed)))
    require_same(tmp_path, identity(tmp_path, **timed), identity(tmp_path, **timed, warmup_fraction=0.25))
    with pytest.raises(InputError) as caught:
        start(tmp_path)
    for named in ("max_hours was 2.0, is none", "total_steps was none, is 10", "warmup_fraction was 0.25, is none"):
        assert named in str(caught.value)
    assert str(STEPS_OF_TIME) not in str(caught.value)
    with pytest.raises(InputError, match=r"warmup_fraction was 0\.25, is 0\.5") as caught:
        start(tmp_path, timed | {"warmup_steps": STEPS_OF_TIME // 2})
    assert "warmup_steps" not in str(caught.value)


def test_another_window_is_not_another_data_set(tmp_path: Path) -> None:
    """With several windows, the digest of the data covers less."""
    run_in(tmp_path)
    other = identity(tmp_path, fingerprint="xyz") | {"shuffle_window": 1.0}
    with pytest.raises(InputError, match=r"shuffle_window was 0, is 1\.0") as caught:
        plan_start(train_config(tmp_path), other)
    assert "xyz" not in str(caught.value)


def test_a_run_of_another_command(tmp_path: Path) -> None:
    finetuning = {"task": "rte", "data": {"train": "abc"}}
    for found, expected, command in ((identity(tmp_path), finetuning, "pretrain"),
                                     (finetuning, identity(tmp_path), "finetune")):  # fmt: skip
        with pytest.raises(InputError, match=f"{tmp_path} .*bert-large {command}") as caught:
            require_same(tmp_path, found, expected)
        assert "abc" not in str(caught.value)


def test_a_longer_run(tmp_path: Path) -> None:
    """Raising --max-steps alone changes the rate schedule, so it is another run; the message names --total-steps."""
    run_in(tmp_path)
    with pytest.raises(InputError, match=r"total_steps was 10, is 20.*--total-steps"):
        start(tmp_path, {"max_steps": 20, "total_steps": 20}, max_steps=20)
    assert start(tmp_path, {"max_steps": 20}, max_steps=20) is None


def test_settings_that_do_not_identify_a_run_may_change(tmp_path: Path) -> None:
    run_in(tmp_path)
    changes = {"micro_batch_tokens": 99, "save_every": 1, "max_samples": 5, "target_accuracy": 0.5, "eval_samples": 3}
    start(tmp_path, changes, **changes)


def imported(folder: Path, **changes: Any) -> Path:
    """Write a checkpoint as a conversion does."""
    origin = imported_identity("model.ckpt-7", tiny_config(**changes))
    return save_checkpoint(folder, *trained(), TrainingState(7, samples=None), origin)


def test_an_imported_checkpoint_starts_any_run_of_its_model(tmp_path: Path) -> None:
    """Its settings are unknown; the run's are recorded from then on."""
    chosen, out = imported(tmp_path), tmp_path / "out"
    out.mkdir()
    for _ in range(2):
        assert start(out, {"global_batch_size": 16}, resume=str(chosen), global_batch_size=16) == chosen
    with pytest.raises(InputError, match="global_batch_size was 16, is 8"):
        start(out, resume=str(chosen))


def test_an_imported_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    chosen, out = imported(tmp_path, hidden_act="gelu"), tmp_path / "out"
    out.mkdir()
    with pytest.raises(InputError, match=r"model.hidden_act was gelu, is gelu_pytorch_tanh"):
        start(out, resume=str(chosen))
    assert list(out.iterdir()) == []


def test_a_named_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    run_in(tmp_path / "other", 5)
    chosen = tmp_path / "other" / "checkpoints" / "step-00000005"
    (tmp_path / "new").mkdir()
    with pytest.raises(InputError, match=r"step-00000005 .*seed was 42, is 7"):
        start(tmp_path / "new", {"seed": 7}, resume=str(chosen))
    assert start(tmp_path / "new", resume=str(chosen)) == chosen


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is deleted, with a warning, as the run's metrics go back behind it."""
    run_in(tmp_path, 5, 10, 15)
    damage(tmp_path / "checkpoints" / "step-00000015")
    with caplog.at_level("WARNING", "bert_large"):
        assert start(tmp_path) == tmp_path / "checkpoints" / "step-00000010"
    (line,) = caplog.messages
    assert "step-00000015/optimizer.safetensors" in line and "step-00000010" in line
    assert steps_in(tmp_path) == [5, 10]


def test_when_all_checkpoints_are_damaged_nothing_is_deleted(tmp_path: Path) -> None:
    run_in(tmp_path, 5, 10)
    for path in (tmp_path / "checkpoints").iterdir():
        damage(path)
    with pytest.raises(InputError, match="2 checkpoints"):
        start(tmp_path)
    assert steps_in(tmp_path) == [5, 10]


def test_a_named_checkpoint_that_is_damaged_or_missing_is_refused(tmp_path: Path) -> None:
    """No other one is taken in its place."""
    run_in(tmp_path, 5, 10)
    chosen = tmp_path / "checkpoints" / "step-00000010"
    damage(chosen)
    with pytest.raises(InputError, match=r"optimizer.safetensors"):
        start(tmp_path, resume=str(chosen))
    (tmp_path / "new").mkdir()
    with pytest.raises(InputError, match=r"nowhere"):
        start(tmp_path / "new", resume=str(tmp_path / "nowhere"))
    assert steps_in(tmp_path) == [5, 10]


def test_going_back_deletes_later_checkpoints(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A later one would resume beyond the metrics. The warning is not repeated when there are none."""
    run_in(tmp_path, 5, 10, 15)
    chosen = tmp_path / "checkpoints" / "step-00000010"
    with caplog.at_level("WARNING", "bert_large"):
        assert [start(tmp_path, resume=str(chosen)) for _ in range(2)] == [chosen, chosen]
    assert steps_in(tmp_path) == [5, 10]
    assert len(caplog.messages) == 1 and "step 10" in caplog.text


@pytest.mark.parametrize("config", [{}, {"resume": "step-00000005"}, {"max_steps": 20, "resume": "step-00000005"}])
def test_a_plan_changes_nothing(tmp_path: Path, config: dict[str, Any]) -> None:
    """Whatever the run decides; a later refusal finds all checkpoints, and an ended run stays complete."""
    run_in(tmp_path, 5, 10)
    mark_ended(train_config(tmp_path), "all 10 steps done")
    damage(tmp_path / "checkpoints" / "step-00000010")
    before = content(tmp_path)
    if "resume" in config:
        config = {**config, "resume": str(tmp_path / "checkpoints" / config["resume"])}
    plan = plan_start(train_config(tmp_path, **config), identity(tmp_path))
    assert (plan.ended is None) == ("max_steps" in config)
    assert content(tmp_path) == before


@pytest.mark.parametrize("changes", [{"resume": "never"}, {"benchmark": True}])
def test_a_run_is_not_overwritten(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Neither by --resume never nor by a benchmark, both of which work in an empty folder."""
    assert start(tmp_path, **changes) is None
    assert (tmp_path / "run.json").exists() is not changes.get("benchmark", False)
    run_in(tmp_path, 5)
    with pytest.raises(InputError, match=rf"OUTPUT_DIR {tmp_path} holds a run") as raised:
        start(tmp_path, **changes)
    assert ("--resume auto" in str(raised.value)) is not changes.get("benchmark", False)  # which does not resume


def test_an_ended_run_stays_ended_until_it_is_extended(tmp_path: Path) -> None:
    """A run under way again must not be reported as ended."""
    run_in(tmp_path, 10)
    config = train_config(tmp_path)
    assert reason_ended(config) is None
    mark_ended(config, "all 10 steps done")
    assert plan_start(config, identity(tmp_path)).ended == "all 10 steps done"
    assert reason_ended(train_config(tmp_path, save_every=1)) == "all 10 steps done"
    for further in ({"max_samples": 1000}, {"target_accuracy": 0.9}):
        assert reason_ended(train_config(tmp_path, **further)) is None
    start(tmp_path, max_steps=20)
    assert not (tmp_path / "ended.json").exists()


def test_a_damaged_record_of_the_run(tmp_path: Path) -> None:
    """Refused; once it is deleted, the checkpoints identify the run."""
    run_in(tmp_path, 5)
    before = (tmp_path / "run.json").read_bytes()
    (tmp_path / "run.json").write_text('{"phase": 1')
    with pytest.raises(DamageError, match=f"{tmp_path}/run.json"):
        start(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(InputError, match=r"step-00000005 .*seed was 42, is 7"):
        start(tmp_path, {"seed": 7})
    assert start(tmp_path) == tmp_path / "checkpoints" / "step-00000005"
    assert (tmp_path / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        '{"reason": "x", "max_steps": 10}',
        '{"reason": 1, "max_steps": 10, "max_samples": null, "target_accuracy": null}',
    ],
)
def test_a_damaged_record_of_the_end_is_ignored_with_a_warning(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The run resumes from its last checkpoint, which is at the end, and records it again."""
    (tmp_path / "ended.json").write_text(text)
    with caplog.at_level("WARNING", "bert_large"):
        assert reason_ended(train_config(tmp_path)) is None
    assert len(caplog.messages) == 1 and f"{tmp_path}/ended.json" in caplog.text


def test_identity_survives_json(tmp_path: Path) -> None:
    """It is compared with an identity read from a file."""
    found = identity(tmp_path)
    assert json.loads(json.dumps(found)) == found
    assert found["model"]["hidden_size"] == 32 and found["optimizer"]["total_steps"] == 10


def test_the_same_command_again_resumes_from_the_runs_checkpoints(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that started from a checkpoint elsewhere loses nothing when its command is repeated."""
    run_in(tmp_path / "other", 5)
    run_in(tmp_path / "out", 10)
    first = tmp_path / "other" / "checkpoints" / "step-00000005"
    with caplog.at_level("INFO", "bert_large"):
        assert start(tmp_path / "out", resume=str(first)) == tmp_path / "out" / "checkpoints" / "step-00000010"
    assert len(caplog.messages) == 1 and str(first) in caplog.text


def test_other_initial_weights_are_refused(tmp_path: Path) -> None:
    """A CHECKPOINT_DIR whose weights the run in the folder did not start from would be ignored."""
    first, second, out, random = (tmp_path / name for name in ("first", "second", "out", "random"))
    save_model(first, tiny_model(seed=1), tiny_config(), None)
    save_model(second, tiny_model(seed=2), tiny_config(), None)
    out.mkdir()
    plan_start(train_config(out), identity(out), first).carry_out()
    save_checkpoint(out / "checkpoints", *trained(), TrainingState(5, 40), identity(out))
    moved = first.rename(tmp_path / "moved")
    for given in (moved, None):
        assert plan_start(train_config(out), identity(out), given).resume_from is not None
    with pytest.raises(InputError, match=f"CHECKPOINT_DIR {second} .*OUTPUT_DIR {out}"):
        plan_start(train_config(out), identity(out), second)
    run_in(random, 5)
    with pytest.raises(InputError, match=f"CHECKPOINT_DIR {second} .*OUTPUT_DIR {random} .*random weights"):
        plan_start(train_config(random), identity(random), second)
    values = json.loads((random / "run.json").read_text())
    del values["initial_weights"]  # as older versions wrote it
    (random / "run.json").write_text(json.dumps(values))
    assert plan_start(train_config(random), identity(random), second).resume_from is not None
