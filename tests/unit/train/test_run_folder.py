"""An output folder belongs to one run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from bert_large.config.training import DataConfig, OptimConfig, TrainConfig
from bert_large.errors import DamageError, InputError
from bert_large.storage.integrity import write_checksums
from bert_large.train.checkpoint import save_checkpoint
from bert_large.train.progress import Progress
from bert_large.train.run_folder import claim, imported_identity, mark_ended, reason_ended, run_identity

from tests.support.models import tiny_config
from tests.unit.train.test_checkpoint import trained

OPTIM = OptimConfig(learning_rate=0.01, total_steps=10)
DATA = DataConfig(dataset_dir=Path("data"), max_seq_length=128)


def train_config(folder: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "output_dir": folder, "phase": 1, "global_batch_size": 8, "max_steps": 10, "eval_every_samples": 100,
        "save_every": 5,
    }  # fmt: skip
    return TrainConfig(**values | changes)


def identity(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return the identity of a run, with changes to its data's fingerprint, optimizer or training settings."""
    fingerprint = changes.pop("fingerprint", "abc")
    optim = {name: value for name, value in changes.items() if hasattr(OPTIM, name)}
    train = {name: value for name, value in changes.items() if name not in optim}
    return run_identity(
        tiny_config(), DATA, dataclasses.replace(OPTIM, **optim), train_config(folder, **train), fingerprint
    )


def claimed(folder: Path, *steps: int) -> None:
    """Claim a folder and leave checkpoints in it."""
    folder.mkdir(exist_ok=True)
    claim(train_config(folder), identity(folder))
    for step in steps:
        save_checkpoint(folder / "checkpoints", *trained(), Progress(step, 8 * step), identity(folder))


def test_runs_of_versions_that_knew_one_architecture(tmp_path: Path) -> None:
    """They go on as what they are, and not as anything else."""
    claimed(tmp_path, 3)
    paths = [tmp_path / "run.json", tmp_path / "checkpoints/step-00000003/state.json"]
    for path in paths:
        values = json.loads(path.read_text())
        del values.get("identity", values)["model"]["architecture"]
        path.write_text(json.dumps(values))
    write_checksums(paths[1].parent)
    assert claim(train_config(tmp_path), identity(tmp_path)) == paths[1].parent
    other = identity(tmp_path)
    other["model"]["architecture"] = "BertForMaskedLM"
    with pytest.raises(InputError, match=r"model.architecture was BertForPreTraining, is BertForMaskedLM"):
        claim(train_config(tmp_path), other)


def test_an_empty_folder_is_claimed(tmp_path: Path) -> None:
    assert claim(train_config(tmp_path), identity(tmp_path)) is None
    assert (tmp_path / "run.json").exists()
    assert claim(train_config(tmp_path), identity(tmp_path)) is None


@pytest.mark.parametrize("resume", ["auto", "never", "step-00000005", "step-00000010"])
def test_a_restarted_run_goes_on_from_its_newest(tmp_path: Path, resume: str) -> None:
    """The launcher repeats the command that the run was first started with."""
    claimed(tmp_path, 5, 10)
    checkpoints = tmp_path / "checkpoints"
    train = train_config(tmp_path, resume=str(checkpoints / resume) if resume.startswith("step") else resume)
    assert claim(train, identity(tmp_path), restarted=True) == checkpoints / "step-00000010"


def test_a_run_restarted_before_its_first_checkpoint(tmp_path: Path) -> None:
    """It begins where it began."""
    claimed(tmp_path / "other", 20)
    given = tmp_path / "other" / "checkpoints" / "step-00000020"
    for resume, expected in (("never", None), (str(given), given)):
        folder = tmp_path / Path(resume).name
        claimed(folder)
        assert claim(train_config(folder, resume=resume), identity(folder), restarted=True) == expected


def test_auto_resumes_from_the_newest(tmp_path: Path) -> None:
    claimed(tmp_path, 5, 10)
    assert claim(train_config(tmp_path), identity(tmp_path)) == tmp_path / "checkpoints" / "step-00000010"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 0.02}, "optimizer.learning_rate was 0.01, is 0.02"),
        ({"seed": 7}, "seed was 42, is 7"),
        ({"global_batch_size": 16}, "global_batch_size was 8, is 16"),
        ({"precision": "bf16"}, "precision was fp32, is bf16"),
        ({"phase": 2}, "phase was 1, is 2"),
        ({"fingerprint": "xyz"}, "data was abc, is xyz"),
    ],
)
def test_another_run_is_refused_by_what_differs(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    claimed(tmp_path)
    with pytest.raises(InputError) as caught:
        claim(train_config(tmp_path), identity(tmp_path, **changes))
    assert str(caught.value).startswith(f"{tmp_path} is of another run: {named}. Give an empty OUTPUT_DIR")


def imported(folder: Path, **changes: Any) -> Path:
    """Write a checkpoint as a conversion leaves it."""
    origin = imported_identity("model.ckpt-7", tiny_config(**changes))
    return save_checkpoint(folder, *trained(), Progress(7, samples=None), origin)


def test_an_imported_checkpoint_starts_any_run_of_its_model(tmp_path: Path) -> None:
    """Its settings are not known; the run's own are, from then on."""
    chosen, out = imported(tmp_path), tmp_path / "out"
    out.mkdir()
    train = train_config(out, resume=str(chosen), global_batch_size=16)
    assert claim(train, identity(out, global_batch_size=16)) == chosen
    assert claim(train, identity(out, global_batch_size=16)) == chosen
    with pytest.raises(InputError, match="global_batch_size was 16, is 8"):
        claim(train_config(out, resume=str(chosen)), identity(out))


def test_an_imported_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    chosen, out = imported(tmp_path, hidden_act="gelu"), tmp_path / "out"
    out.mkdir()
    with pytest.raises(InputError, match=r"another run: model.hidden_act was gelu, is gelu_pytorch_tanh\."):
        claim(train_config(out, resume=str(chosen)), identity(out))
    assert list(out.iterdir()) == []


def test_a_longer_run_is_told_how_to_go_on(tmp_path: Path) -> None:
    """Raising --max-steps alone changes the rate schedule, so it is another run; the message says what to keep."""
    claimed(tmp_path)
    with pytest.raises(InputError, match=r"total_steps was 10, is 20.*keep --total-steps when you raise --max-steps"):
        claim(train_config(tmp_path, max_steps=20), identity(tmp_path, max_steps=20, total_steps=20))
    assert claim(train_config(tmp_path, max_steps=20), identity(tmp_path, max_steps=20)) is None


def test_settings_that_do_not_change_the_run_may_change(tmp_path: Path) -> None:
    claimed(tmp_path)
    changes = {"micro_batch_tokens": 99, "save_every": 1, "max_samples": 5, "target_accuracy": 0.5, "eval_samples": 3}
    claim(train_config(tmp_path, **changes), identity(tmp_path, **changes))


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    """Also when it lies elsewhere and is named."""
    claimed(tmp_path / "other", 5)
    chosen = tmp_path / "other" / "checkpoints" / "step-00000005"
    config = train_config(tmp_path / "new", resume=str(chosen))
    (tmp_path / "new").mkdir()
    with pytest.raises(InputError, match=r"step-00000005 is of another run: seed was 42, is 7"):
        claim(config, identity(tmp_path / "new", seed=7))
    assert claim(config, identity(tmp_path / "new")) == chosen


def damage(checkpoint: Path) -> None:
    (checkpoint / "optimizer.safetensors").write_bytes(b"")


def test_a_damaged_checkpoint_is_passed_over_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The one before is taken; the damaged one goes, as the run's metrics go back behind it."""
    claimed(tmp_path, 5, 10, 15)
    folder = tmp_path / "checkpoints"
    damage(folder / "step-00000015")
    with caplog.at_level("WARNING", "bert_large"):
        assert claim(train_config(tmp_path), identity(tmp_path)) == folder / "step-00000010"
    (line,) = caplog.messages
    assert "step-00000015/optimizer.safetensors is damaged: found 0 bytes with CRC-32C 00000000, expected" in line
    assert line.endswith(f"removing that checkpoint and going on from {folder / 'step-00000010'}")
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000005", "step-00000010"]


def test_what_a_kill_left_of_checkpoints_goes(tmp_path: Path) -> None:
    """At the next start, as a run that has only its results to leave writes no checkpoint any more."""
    claimed(tmp_path, 5)
    (tmp_path / "checkpoints" / ".partial-removed-step-00000001").mkdir()
    claim(train_config(tmp_path), identity(tmp_path))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]


def test_when_all_are_damaged_nothing_is_deleted(tmp_path: Path) -> None:
    claimed(tmp_path, 5, 10)
    for path in (tmp_path / "checkpoints").iterdir():
        damage(path)
    with pytest.raises(InputError, match="none of the 2 checkpoints"):
        claim(train_config(tmp_path), identity(tmp_path))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_named_checkpoint_that_is_damaged_is_refused(tmp_path: Path) -> None:
    """Who names one is not given another."""
    claimed(tmp_path, 5, 10)
    chosen = tmp_path / "checkpoints" / "step-00000010"
    damage(chosen)
    with pytest.raises(InputError, match=r"optimizer.safetensors is damaged"):
        claim(train_config(tmp_path, resume=str(chosen)), identity(tmp_path))
    assert chosen.exists()


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere is no checkpoint to resume from"):
        claim(train_config(tmp_path, resume=str(tmp_path / "nowhere")), identity(tmp_path))


def test_going_back_drops_what_lies_ahead(tmp_path: Path) -> None:
    """Metrics after the chosen step are dropped; a later checkpoint would resume without them."""
    claimed(tmp_path, 5, 10, 15)
    folder = tmp_path / "checkpoints"
    chosen = folder / "step-00000010"
    assert claim(train_config(tmp_path, resume=str(chosen)), identity(tmp_path)) == chosen
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000005", "step-00000010"]


@pytest.mark.parametrize("changes", [{"resume": "never"}, {"benchmark": True}])
def test_a_run_is_not_overwritten(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Neither by --resume never nor by a benchmark; in an empty folder both are fine, a benchmark claims nothing."""
    assert claim(train_config(tmp_path, **changes), identity(tmp_path)) is None
    assert (tmp_path / "run.json").exists() is not changes.get("benchmark", False)
    claimed(tmp_path, 5)
    with pytest.raises(InputError, match=rf"OUTPUT_DIR {tmp_path} holds a run; give an empty folder"):
        claim(train_config(tmp_path, **changes), identity(tmp_path))


def test_an_ended_run_stays_ended(tmp_path: Path) -> None:
    """Started again it has nothing to do, unless asked to go further."""
    config = train_config(tmp_path)
    assert reason_ended(config) is None
    mark_ended(config, "all 10 steps done")
    assert reason_ended(config) == "all 10 steps done"
    assert reason_ended(train_config(tmp_path, save_every=1)) == "all 10 steps done"
    for further in ({"max_steps": 20}, {"max_samples": 1000}, {"target_accuracy": 0.9}):
        assert reason_ended(train_config(tmp_path, **further)) is None


def test_a_damaged_note_of_which_run_it_is(tmp_path: Path) -> None:
    """Refused with what to do; done so, the checkpoints tell which run it is."""
    claimed(tmp_path, 5)
    (tmp_path / "run.json").write_text('{"phase": 1')
    with pytest.raises(DamageError) as caught:
        claim(train_config(tmp_path), identity(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path}/run.json is damaged: it is no JSON: Expecting ',' delimiter: line 1 column 12 (char 11). It says "
        "which run OUTPUT_DIR holds: put it back from a copy, or remove it. Without it the checkpoints there say so; a "
        "run that has none begins anew"
    )
    (tmp_path / "run.json").unlink()
    with pytest.raises(InputError, match="step-00000005 is of another run: seed was 42, is 7"):
        claim(train_config(tmp_path), identity(tmp_path, seed=7))
    assert claim(train_config(tmp_path), identity(tmp_path)) == tmp_path / "checkpoints" / "step-00000005"
    assert json.loads((tmp_path / "run.json").read_text()) == identity(tmp_path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "it is no JSON: Expecting value"),
        ("7", "found '7', expected a JSON object"),
        ('{"reason": "x", "max_steps": 10}', "it lacks max_samples, target_accuracy"),
        ('{"reason": 1, "max_steps": 10, "max_samples": null, "target_accuracy": null}', "it lacks a reason in words"),
    ],
)
def test_a_damaged_note_of_the_end_is_passed_over_loudly(
    tmp_path: Path, content: str, found: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its run goes on from its last checkpoint, which is at the end, and notes it again."""
    (tmp_path / "ended.json").write_text(content)
    with caplog.at_level("WARNING", "bert_large"):
        assert reason_ended(train_config(tmp_path)) is None
    (line,) = caplog.messages
    assert line.startswith(f"warning: {tmp_path}/ended.json is damaged: {found}")
    assert line.endswith("; taking the run for one that has not ended")


def test_identity_survives_json(tmp_path: Path) -> None:
    """It is compared with what was read back from a file."""
    found = identity(tmp_path)
    assert json.loads(json.dumps(found)) == found
    assert found["model"]["hidden_size"] == 32 and found["optimizer"]["total_steps"] == 10


def test_the_same_command_again_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run that began from a checkpoint elsewhere loses nothing when it is started as before."""
    claimed(tmp_path / "other", 5)
    claimed(tmp_path / "out", 10)
    first = tmp_path / "other" / "checkpoints" / "step-00000005"
    train = train_config(tmp_path / "out", resume=str(first))
    with caplog.at_level("INFO", "bert_large"):
        assert claim(train, identity(tmp_path)) == tmp_path / "out" / "checkpoints" / "step-00000010"
    assert caplog.messages == [
        f"{tmp_path / 'out'} has checkpoints of its own: going on from those, not again from {first}"
    ]


def test_going_back_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    claimed(tmp_path, 5, 10)
    chosen = tmp_path / "checkpoints" / "step-00000005"
    with caplog.at_level("WARNING", "bert_large"):
        claim(train_config(tmp_path, resume=str(chosen)), identity(tmp_path))
        claim(train_config(tmp_path, resume=str(chosen)), identity(tmp_path))
    assert caplog.messages == ["warning: going back to step 5: later checkpoints are removed"]
