"""Checkpoints: what is saved is restored, and a failure while saving leaves the previous checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bert_large.errors import DamageError, InputError, WriteError
from bert_large.model.weight_files import NonFiniteWeightsError
from bert_large.train import checkpoint
from bert_large.train.bad_steps import LossTrend, SkippedSteps
from bert_large.train.checkpoint import (
    check_intact,
    later_checkpoints,
    list_checkpoints,
    load_checkpoint,
    newest_intact,
    read_state,
    remove_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
)
from bert_large.train.state import LossScale, TrainingState

from tests.support.training import flip_a_bit, names, trained

IDENTITY = {"seed": 1, "optimizer": {"beta_1": 0.9}}


def save(folder: Path, step: int, seed: int = 0) -> Path:
    return save_checkpoint(folder, *trained(seed), TrainingState(step, 8 * step), IDENTITY)


def test_round_trip(tmp_path: Path) -> None:
    """Weights, moments, state and identity are restored bit for bit; the next update is the same."""
    model, optimizer = trained()
    saved = save_checkpoint(tmp_path, model, optimizer, TrainingState(2, 16, True), IDENTITY)
    assert saved == tmp_path / "step-00000002" and list_checkpoints(tmp_path) == [saved]
    assert read_state(saved) == (TrainingState(2, 16, True), IDENTITY)
    other, other_optimizer = trained(seed=5, steps=0)
    assert load_checkpoint(saved, other, other_optimizer) == TrainingState(2, 16, True)
    for updated, its_optimizer in ((model, optimizer), (other, other_optimizer)):
        for parameter in updated.parameters():
            parameter.grad = torch.ones_like(parameter)
        its_optimizer.step()
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_loss_scale(tmp_path: Path) -> None:
    """It is part of the state, and the optimizer's count of updates leaves out the steps without an update."""
    model, optimizer = trained(steps=2)
    state = TrainingState(5, 40, False, LossScale(8192.0, 1), SkippedSteps(3, 2), LossTrend(120, 3.1, 1 / 3))
    saved = save_checkpoint(tmp_path, model, optimizer, state, IDENTITY)
    other, its_optimizer = trained(seed=5, steps=0)
    assert load_checkpoint(saved, other, its_optimizer) == state
    assert {values["step"] for values in its_optimizer.state.values()} == {2}


def test_before_the_first_update(tmp_path: Path) -> None:
    """After skipped steps only, moments are 0, and the next update is the first."""
    saved = save_checkpoint(tmp_path, *trained(steps=0), TrainingState(1, 8, skipped=SkippedSteps(1, 1)), IDENTITY)
    restored, untouched = trained(seed=5, steps=0), trained(steps=0)
    load_checkpoint(saved, *restored)
    for model, optimizer in (restored, untouched):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    for ours, theirs in zip(restored[0].parameters(), untouched[0].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_checkpoint_of_an_older_version(tmp_path: Path) -> None:
    saved = save(tmp_path, 2)
    state = json.loads((saved / "state.json").read_text())
    for name in ("loss_scale", "skipped", "loss_trend"):
        del state[name]
    (saved / "state.json").write_text(json.dumps(state))
    assert read_state(saved) == (TrainingState(2, 16), IDENTITY)


@pytest.mark.parametrize("failing_write", [1, 2, 3])
def test_a_failure_while_saving_leaves_the_old_checkpoint(
    tmp_path: Path, failing_write: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file the disk is full at: weights, moments or state. The remains are not taken for a checkpoint."""
    old = save(tmp_path, 1)
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    writes = 0

    def failing(write: Any) -> Any:
        def count_and_write(*arguments: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == failing_write:
                raise OSError(28, "No space left on device")
            return write(*arguments)

        return count_and_write

    monkeypatch.setattr(checkpoint, "save_tensors", failing(checkpoint.save_tensors))
    monkeypatch.setattr(checkpoint, "write_json", failing(checkpoint.write_json))
    with pytest.raises(WriteError, match=r"step-00000002 .*No space left on device"):
        save(tmp_path, 2, seed=1)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-00000001"]  # the written part is deleted, which frees space
    assert list_checkpoints(tmp_path) == [old]
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    assert save(tmp_path, 2, seed=1) == tmp_path / "step-00000002"
    remove_old_checkpoints(tmp_path, keep=2)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def test_a_checkpoint_takes_its_name_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill just before the rename leaves all files under another name, which is not listed."""
    monkeypatch.setattr(Path, "rename", lambda self, target: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 1)
    assert names(tmp_path) == [".partial-step-00000001"]
    assert names(tmp_path / ".partial-step-00000001") == [
        "checksums.json", "model.safetensors", "optimizer.safetensors", "state.json"
    ]  # fmt: skip
    assert list_checkpoints(tmp_path) == []


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 1, seed=1)
    saved = save(tmp_path, 1, seed=2)
    model, optimizer = trained(seed=1)
    load_checkpoint(saved, model, optimizer)
    for found, expected in zip(model.parameters(), trained(seed=2)[0].parameters(), strict=True):
        assert torch.equal(found, expected)


def test_newest_last_and_old_ones_removed(tmp_path: Path) -> None:
    for step in (9, 100, 20, 123456789):
        save(tmp_path, step)
    assert later_checkpoints(tmp_path, step=100) == [tmp_path / "step-123456789"]
    (tmp_path / ".partial-step-00000200").mkdir()
    assert [read_state(path)[0].step for path in list_checkpoints(tmp_path)] == [9, 20, 100, 123456789]
    remove_old_checkpoints(tmp_path, keep=2)
    assert names(tmp_path) == ["step-00000100", "step-123456789"]


def test_a_missing_folder_has_no_checkpoints(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path / "none") == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "checksums.json")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [cut, Path.unlink, flip_a_bit], ids=["cut", "gone", "flipped"])
def test_damage_is_found_and_the_one_before_taken(tmp_path: Path, file: str, damage: Any) -> None:
    """Anywhere in a checkpoint. The message names the file, and the damaged checkpoint stays for inspection."""
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    damage(bad / file)
    chosen, (error,) = newest_intact([good, bad])
    assert chosen == good
    assert str(bad) in str(error) and (file in str(error) or file == "checksums.json")
    with pytest.raises(DamageError) as caught:
        check_intact(bad)
    assert str(caught.value) == str(error)
    assert names(tmp_path) == [good.name, bad.name]


def test_both_checksums_are_named(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    recorded = json.loads((saved / "checksums.json").read_text())["files"]["model.safetensors"]
    flip_a_bit(saved / "model.safetensors")
    with pytest.raises(DamageError, match=rf"model.safetensors .*[0-9a-f]{{8}}.*{recorded['crc32c']}"):
        check_intact(saved)


def test_none_intact_is_an_error_that_deletes_nothing(tmp_path: Path) -> None:
    checkpoints = [save(tmp_path, step) for step in (1, 2)]
    for path in checkpoints:
        flip_a_bit(path / "optimizer.safetensors")
    with pytest.raises(InputError, match=r"2 checkpoints .*step-00000002"):
        newest_intact(checkpoints)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    assert newest_intact([]) == (None, [])


def test_a_checkpoint_is_read_back_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk returns other data than was written, that is an error, and the previous checkpoint stays."""
    old = save(tmp_path, 1)
    drop = checkpoint.drop_from_page_cache

    def drop_and_damage(path: Path) -> None:
        if path.name == "optimizer.safetensors":
            flip_a_bit(path)
        drop(path)

    monkeypatch.setattr(checkpoint, "drop_from_page_cache", drop_and_damage)
    with pytest.raises(WriteError, match=r"optimizer.safetensors"):
        save(tmp_path, 2)
    assert names(tmp_path) == [old.name]
    check_intact(old)


def test_a_kill_amid_a_deletion_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is renamed first, so that its half is not taken for a damaged checkpoint."""
    save(tmp_path, 1), save(tmp_path, 2)
    remove = shutil.rmtree

    def remove_half(path: Path, **options: Any) -> None:
        if path.exists():
            (path / "model.safetensors").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", remove_half)
    with pytest.raises(KeyboardInterrupt):
        remove_old_checkpoints(tmp_path, keep=1)
    monkeypatch.setattr(shutil, "rmtree", remove)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000002"]
    remove_old_checkpoints(tmp_path, keep=1)
    assert names(tmp_path) == ["step-00000002"]


def test_too_little_space_is_found_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 5000, 5000))
    model, optimizer = trained()
    needed = f"{checkpoint.bytes_to_save(checkpoint.weights_of(model)) / 1000:.3g} kB"
    with pytest.raises(WriteError, match=rf"step-00000001 .*5 kB .*{needed}"):
        save_checkpoint(tmp_path, model, optimizer, TrainingState(1, 8), IDENTITY)
    assert names(tmp_path) == []


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", [cut, Path.unlink, lambda path: path.write_bytes(b"")], ids=["cut", "gone", "empty"])
def test_damaged_files_are_named(tmp_path: Path, file: str, damage: Any) -> None:
    """In one line that a user can act on, instead of a traceback from inside a library."""
    saved = save(tmp_path, 1)
    damage(saved / file)
    with pytest.raises(InputError) as caught:
        load_checkpoint(saved, *trained())
    assert str(saved) in str(caught.value) and file in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["weights", "moments"])
def test_values_that_are_not_finite_are_not_resumed_from(tmp_path: Path, kind: str) -> None:
    """A checkpoint of an older version may hold them."""
    model, optimizer = trained()
    parameter = model.cls.predictions.bias
    tensor = parameter.data if kind == "weights" else optimizer.state[parameter]["exp_avg_sq"]
    tensor[0] = float("nan")
    saved = save_checkpoint(tmp_path, model, optimizer, TrainingState(2, 16), IDENTITY)
    with pytest.raises(NonFiniteWeightsError, match=rf"{saved}.*cls.predictions.bias"):
        load_checkpoint(saved, *trained())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": "8"}, "samples is 8"),
        ({"identity": None}, "identity is None"),
        ({"unknown": 1}, "expected loss_scale, masked_lm_accuracy, skipped, loss_trend, step"),
        ({"skipped": {"total": 1}}, "found {'total': 1}, expected total, in_a_row"),
        ({"loss_scale": {"scale": "2", "good_steps": 0}}, "scale is 2"),
        ({"loss_trend": {"steps": 1, "mean": None, "lowest": None}}, "mean is None"),
    ],
)
def test_wrong_state_is_damaged(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Missing, unknown and mistyped values are damage, and so are files that hold no state at all."""
    saved = save(tmp_path, 1)
    path = saved / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=r"state.json") as caught:
        read_state(saved)
    assert message in str(caught.value)
    for text in ('{"step": 1}', "1", "[" * 100_000, "", "{"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"state.json"):
            read_state(saved)


def test_links_among_the_checkpoints(tmp_path: Path) -> None:
    """In a folder from elsewhere, their targets are neither deleted nor written to, and saving works."""
    other = save(tmp_path / "other", 9)
    kept = {path.name: path.read_bytes() for path in other.iterdir()}
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("step-00000001", "step-00000003", "step-00000009", ".partial-step-00000003", ".partial-x"):
        (folder / name).symlink_to(other)
    (folder / "step-00000002").symlink_to("nowhere")
    save(folder, 2)
    save(folder, 3)
    for path in later_checkpoints(folder, 3):
        remove_checkpoint(path)
    remove_old_checkpoints(folder, keep=1)
    assert {path.name: path.read_bytes() for path in other.iterdir()} == kept
    (newest,) = list_checkpoints(folder)
    assert not newest.is_symlink()


@pytest.mark.parametrize(("name", "value"), [("step", "../../x"), ("step", -1), ("step", 1.5), ("samples", "8")])
def test_wrong_counts_are_damage(tmp_path: Path, name: str, value: object) -> None:
    """They are compared, and become part of folder names."""
    saved = save(tmp_path, 1)
    state = json.loads((saved / "state.json").read_text())
    (saved / "state.json").write_text(json.dumps(state | {name: value}))
    with pytest.raises(InputError, match=f"state.json.* {name} is "):
        read_state(saved)


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")], ids=["file", "link"])
def test_entries_that_only_have_a_checkpoints_name_are_damaged_ones(tmp_path: Path, make: Any) -> None:
    good = save(tmp_path, 1)
    other = tmp_path / "step-00000002"
    make(other)
    chosen, (error,) = newest_intact(list_checkpoints(tmp_path))
    assert chosen == good and str(other) in str(error)
    for path in later_checkpoints(tmp_path, 1):
        remove_checkpoint(path)
    assert names(tmp_path) == [good.name]


def test_checksums_must_list_all_files(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    (saved / "checksums.json").write_text('{"files": {}}')
    with pytest.raises(DamageError, match=r"checksums.json .*model.safetensors"):
        check_intact(saved)
