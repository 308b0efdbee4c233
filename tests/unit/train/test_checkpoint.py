"""Checkpoints: what is saved is restored, and a failure while saving leaves the one before."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from bert_large.config.training import OptimConfig
from bert_large.errors import DamageError, InputError, WriteError
from bert_large.model.bert import BertForPreTraining
from bert_large.model.pretrained import check_model_folder, load_model, load_weights, save_model
from bert_large.model.tensor_file import save_tensors
from bert_large.optim.build import build_optimizer
from bert_large.storage.integrity import check_checksums
from bert_large.train import checkpoint
from bert_large.train.bad_steps import LossTrend, SkippedSteps
from bert_large.train.checkpoint import (
    check_intact,
    list_checkpoints,
    load_checkpoint,
    newest_intact,
    read_state,
    remove_later_checkpoints,
    remove_old_checkpoints,
    save_checkpoint,
)
from bert_large.train.loss_scale import LossScale
from bert_large.train.progress import Progress
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.support.models import tiny_config, tiny_model

IDENTITY = {"seed": 1, "optimizer": {"beta_1": 0.9}}


def trained(seed: int = 0, steps: int = 2) -> tuple[BertForPreTraining, torch.optim.Optimizer]:
    """Return a model and its optimizer after some updates."""
    model = tiny_model(seed)
    optimizer = build_optimizer(model, OptimConfig(learning_rate=0.01, total_steps=10))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return model, optimizer


def save(folder: Path, step: int, seed: int = 0) -> Path:
    return save_checkpoint(folder, *trained(seed), Progress(step, 8 * step), IDENTITY)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip(tmp_path: Path) -> None:
    """Weights, moments, progress and identity, bit for bit; the next update is the same."""
    model, optimizer = trained()
    saved = save_checkpoint(tmp_path, model, optimizer, Progress(2, 16, True), IDENTITY)
    assert saved == tmp_path / "step-00000002" and list_checkpoints(tmp_path) == [saved]
    assert read_state(saved) == (Progress(2, 16, True), IDENTITY)
    other, its_optimizer = trained(seed=5, steps=0)
    assert load_checkpoint(saved, other, its_optimizer) == Progress(2, 16, True)
    for of, its in ((model, optimizer), (other, its_optimizer)):
        for parameter in of.parameters():
            parameter.grad = torch.ones_like(parameter)
        its.step()
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_loss_scale(tmp_path: Path) -> None:
    """It is kept with the progress, and the optimizer's count of updates goes without the steps that made none."""
    model, optimizer = trained(steps=2)
    progress = Progress(5, 40, False, LossScale(8192.0, 1), SkippedSteps(3, 2), LossTrend(120, 3.1, 1 / 3))
    saved = save_checkpoint(tmp_path, model, optimizer, progress, IDENTITY)
    other, its_optimizer = trained(seed=5, steps=0)
    assert load_checkpoint(saved, other, its_optimizer) == progress
    assert {state["step"] for state in its_optimizer.state.values()} == {2}


def test_before_the_first_update(tmp_path: Path) -> None:
    """Nothing but skipped steps so far: moments of 0, and the next update is the first."""
    saved = save_checkpoint(tmp_path, *trained(steps=0), Progress(1, 8, skipped=SkippedSteps(1, 1)), IDENTITY)
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
    assert read_state(saved) == (Progress(2, 16), IDENTITY)


@pytest.mark.parametrize("failing_write", [1, 2, 3])
def test_a_failure_while_saving_leaves_the_old_checkpoint(
    tmp_path: Path, failing_write: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file the disk is full at: weights, moments or state. What is left is not taken for a checkpoint."""
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
    monkeypatch.setattr(checkpoint, "write_atomically", failing(checkpoint.write_atomically))
    with pytest.raises(WriteError, match=r"step-00000002 could not be written: No space left on device; .* needed"):
        save(tmp_path, 2, seed=1)
    monkeypatch.undo()
    assert names(tmp_path) == ["step-00000001"]  # what was written is taken away: room for others
    assert list_checkpoints(tmp_path) == [old]
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    assert save(tmp_path, 2, seed=1) == tmp_path / "step-00000002"  # the next attempt is not in the way of the last
    remove_old_checkpoints(tmp_path, keep=2)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def test_a_checkpoint_takes_its_name_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill just before the rename leaves all files under another name, which nobody lists."""
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
    for parameter, its in zip(model.parameters(), trained(seed=2)[0].parameters(), strict=True):
        assert torch.equal(parameter, its)


def test_newest_last_and_old_ones_removed(tmp_path: Path) -> None:
    for step in (9, 100, 20, 123456789):
        save(tmp_path, step)
    remove_later_checkpoints(tmp_path, step=200)
    (tmp_path / ".partial-step-00000200").mkdir()
    assert [read_state(path)[0].step for path in list_checkpoints(tmp_path)] == [9, 20, 100]
    remove_old_checkpoints(tmp_path, keep=2)
    assert names(tmp_path) == ["step-00000020", "step-00000100"]
    remove_later_checkpoints(tmp_path, step=20)
    assert names(tmp_path) == ["step-00000020"]


def test_no_folder_is_no_checkpoints(tmp_path: Path) -> None:
    assert list_checkpoints(tmp_path / "none") == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    """Change one bit in the last quarter: of a tensor's values, where there are any."""
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)


FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "checksums.json")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [cut, Path.unlink, flip_a_bit], ids=["cut", "gone", "flipped"])
def test_damage_is_found_and_the_one_before_taken(tmp_path: Path, file: str, damage: Any) -> None:
    """Anywhere in a checkpoint. The message names the file; what is damaged stays for who wants to look."""
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    damage(bad / file)
    chosen, (error,) = newest_intact([good, bad])
    assert chosen == good
    assert str(bad) in str(error) and (file in str(error) or file == "checksums.json")
    with pytest.raises(DamageError) as caught:
        check_intact(bad)
    assert str(caught.value) == str(error)
    assert names(tmp_path) == [good.name, bad.name]


def test_both_checksums_are_told(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    noted = json.loads((saved / "checksums.json").read_text())["files"]["model.safetensors"]
    flip_a_bit(saved / "model.safetensors")
    message = (
        rf"model.safetensors is damaged: found (\d+) bytes with CRC-32C [0-9a-f]{{8}}, expected \1 .*{noted['crc32c']}"
    )
    with pytest.raises(DamageError, match=message):
        check_intact(saved)


def test_none_intact_is_an_error_that_deletes_nothing(tmp_path: Path) -> None:
    checkpoints = [save(tmp_path, step) for step in (1, 2)]
    for path in checkpoints:
        flip_a_bit(path / "optimizer.safetensors")
    with pytest.raises(
        InputError, match=r"none of the 2 checkpoints in .* is intact, nothing was deleted: .*step-00000002"
    ):
        newest_intact(checkpoints)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    assert newest_intact([]) == (None, [])


def test_a_checkpoint_is_read_back_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not give back what was written: an error, and the one before stays."""
    old = save(tmp_path, 1)
    drop = checkpoint.drop_from_page_cache

    def drop_and_damage(path: Path) -> None:
        if path.name == "optimizer.safetensors":
            flip_a_bit(path)
        drop(path)

    monkeypatch.setattr(checkpoint, "drop_from_page_cache", drop_and_damage)
    with pytest.raises(WriteError, match=r"the disk does not give back what was written.*optimizer.safetensors is dam"):
        save(tmp_path, 2)
    assert names(tmp_path) == [old.name]
    check_intact(old)


def test_a_kill_amid_a_deletion_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loses its name first, so that half of it is not taken for a damaged one."""
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


def test_too_little_room_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 5000, 5000))
    model, optimizer = trained()
    needed = f"{checkpoint.bytes_to_save(checkpoint.weights_of(model)) / 1000:.3g} kB"
    with pytest.raises(
        WriteError, match=rf"step-00000001 could not be written: No space left .*; 5 kB free there, {needed}"
    ):
        save_checkpoint(tmp_path, model, optimizer, Progress(1, 8), IDENTITY)
    assert names(tmp_path) == []


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "checksums.json"])
def test_a_damaged_model_is_refused(tmp_path: Path, file: str) -> None:
    """By the phase that starts from it; without checksums, as other systems leave it, it is taken as it is."""
    model = tiny_model(seed=1)
    save_model(tmp_path, model, tiny_config(), None)
    load_model(tmp_path, tiny_model())
    flip_a_bit(tmp_path / file)
    with pytest.raises(
        DamageError, match=rf"CHECKPOINT_DIR: {tmp_path}.*Put the folder back .* or remove its checksums"
    ):
        load_model(tmp_path, tiny_model())
    (tmp_path / "checksums.json").unlink()
    load_model(tmp_path, tiny_model())


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model.safetensors", "is damaged or no safetensors file"),
        ("optimizer.safetensors", "is damaged or no safetensors file"),
        ("state.json", "is damaged"),
    ],
)
@pytest.mark.parametrize("damage", [cut, Path.unlink, lambda path: path.write_bytes(b"")], ids=["cut", "gone", "empty"])
def test_damaged_files_are_named(tmp_path: Path, file: str, message: str, damage: Any) -> None:
    """One line that a user can act on, not a traceback from inside a library."""
    saved = save(tmp_path, 1)
    damage(saved / file)
    with pytest.raises(InputError) as caught:
        load_checkpoint(saved, *trained())
    if damage is Path.unlink:
        message = "does not exist" if file != "state.json" else "is no checkpoint to resume from: it has no state.json"
    assert str(saved) in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": "8"}, "samples is 8; remove that checkpoint"),
        ({"identity": None}, "identity is None"),
        ({"unknown": 1}, "expected loss_scale, masked_lm_accuracy, skipped, loss_trend, step"),
        ({"skipped": {"total": 1}}, "found {'total': 1}, expected total, in_a_row"),
        ({"loss_scale": {"scale": "2", "good_steps": 0}}, "scale is 2"),
        ({"loss_trend": {"steps": 1, "mean": None, "lowest": None}}, "mean is None"),
    ],
)
def test_wrong_state_is_damaged(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Whatever is missing, unknown or of another type; so is what is no state at all."""
    saved = save(tmp_path, 1)
    path = saved / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=r"state.json is damaged: .*; remove that checkpoint") as caught:
        read_state(saved)
    assert message in str(caught.value)
    for text in ('{"step": 1}', "1", "[" * 100_000, "", "{"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"state.json is damaged: .*; remove that checkpoint"):
            read_state(saved)


def test_weights_of_another_shape_are_refused_untouched(tmp_path: Path) -> None:
    """Every shape is checked before the first weight is copied."""
    save_model(tmp_path, tiny_model(hidden_size=32, intermediate_size=48), tiny_config(), None)
    model = tiny_model(seed=3)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(
        InputError, match=r"intermediate.dense.weight is \[48, 32\], .*makes it \[64, 32\]; .*another shape"
    ):
        load_weights(tmp_path / "model.safetensors", model)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_file({"some.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"lacks 46 tensors, bert.embeddings.LayerNorm.bias among them"):
        load_weights(tmp_path / "model.safetensors", tiny_model())


def test_saved_model_is_a_hugging_face_folder(tmp_path: Path) -> None:
    """`tests/parity/test_hugging_face.py` loads one; here: its files, and nothing beside."""
    vocab = tmp_path / "words.txt"
    vocab.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\n")
    model, folder = tiny_model(), tmp_path / "model_save"
    for _ in range(2):  # a second save replaces the first
        save_model(folder, model, tiny_config(), vocab)
    assert names(folder) == ["checksums.json", "config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"]
    config = json.loads((folder / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["BertForPreTraining"], "bert")
    assert (config["hidden_size"], config["hidden_act"], config["layer_norm_eps"]) == (32, "gelu_pytorch_tanh", 1e-12)
    assert (folder / "vocab.txt").read_bytes() == vocab.read_bytes()
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    assert (tokenizer["do_lower_case"], tokenizer["model_max_length"]) == (True, 512)
    weights = load_file(folder / "model.safetensors")
    assert sorted(weights) == sorted(name for name, _ in model.named_parameters())
    assert all(torch.equal(weights[name], parameter) for name, parameter in model.named_parameters())


def test_a_cased_vocabulary_is_noted(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nHello\n")
    save_model(tmp_path / "model", tiny_model(), tiny_config(), tmp_path / "vocab.txt")
    assert json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())["do_lower_case"] is False


def test_files_are_readable_by_those_who_may(tmp_path: Path) -> None:
    """Modes follow the umask: another user, or a container's, can read the model."""
    save_model(tmp_path / "model", tiny_model(), tiny_config(), None)
    (tmp_path / "plain").touch()
    expected = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    for path in (tmp_path / "model").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == expected, path.name


def test_tensors_are_written_in_the_order_they_come(tmp_path: Path) -> None:
    """The format's own library reads them by name; one of no elements and a transposed one too."""
    tensors = {
        "a": torch.randn(3, 5),
        "none": torch.zeros(0, 2),
        "b": torch.randn(4, 2).t(),
        "scalar": torch.tensor(7.0),
    }
    path = tmp_path / "tensors.safetensors"
    save_tensors(path, {name: its.shape for name, its in tensors.items()}, reversed(tensors.items()))
    found = load_file(path)
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], its) for name, its in tensors.items())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    with pytest.raises(AssertionError, match="scalar was not given"):
        save_tensors(path, {"scalar": (), "a": (3, 5)}, [("a", tensors["a"])])


def test_a_failed_model_save_leaves_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path, tiny_model(seed=1), tiny_config(), None)
    before = (tmp_path / "model.safetensors").read_bytes()

    def half(path: Path, *what: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_tensors", half)
    with pytest.raises(WriteError, match="No space left"):
        save_model(tmp_path, tiny_model(seed=2), tiny_config(), None)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    check_checksums(tmp_path)
    assert names(tmp_path) == ["checksums.json", "config.json", "model.safetensors"]


def test_what_is_no_model_folder(tmp_path: Path) -> None:
    """The variable, the folder and what it lacks."""
    save_model(tmp_path / "good", tiny_model(), tiny_config(), None)
    assert check_model_folder(tmp_path / "good") == tmp_path / "good" / "model.safetensors"
    for missing in ("config.json", "model.safetensors"):
        shutil.copytree(tmp_path / "good", tmp_path / missing)
        (tmp_path / missing / missing).unlink()
        with pytest.raises(InputError, match=rf"CHECKPOINT_DIR .* has no {missing}; give the model_save folder"):
            check_model_folder(tmp_path / missing)
    for no_folder in ("nowhere", "good/config.json"):
        with pytest.raises(InputError, match=r"CHECKPOINT_DIR .* does not exist or is no folder"):
            check_model_folder(tmp_path / no_folder)


def test_links_among_the_checkpoints(tmp_path: Path) -> None:
    """In a folder from elsewhere: what they lead to is neither deleted nor written to, and saving goes on."""
    other = save(tmp_path / "other", 9)
    kept = {path.name: path.read_bytes() for path in other.iterdir()}
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("step-00000001", "step-00000003", "step-00000009", ".partial-step-00000003", ".partial-x"):
        (folder / name).symlink_to(other)
    (folder / "step-00000002").symlink_to("nowhere")
    save(folder, 2)
    save(folder, 3)
    remove_later_checkpoints(folder, 3)
    remove_old_checkpoints(folder, keep=1)
    assert {path.name: path.read_bytes() for path in other.iterdir()} == kept
    (newest,) = list_checkpoints(folder)
    assert not newest.is_symlink()


def test_a_link_in_place_of_the_temporary_model(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"keep")
    (tmp_path / "model_save").mkdir()
    (tmp_path / "model_save" / ".partial-model.safetensors").symlink_to(other)
    save_model(tmp_path / "model_save", tiny_model(), tiny_config(), None)
    assert other.read_bytes() == b"keep"
    assert not (tmp_path / "model_save" / "model.safetensors").is_symlink()


@pytest.mark.parametrize(("name", "value"), [("step", "../../x"), ("step", -1), ("step", 1.5), ("samples", "8")])
def test_counts_that_are_none_are_damage(tmp_path: Path, name: str, value: object) -> None:
    """They are compared, and become names of folders."""
    saved = save(tmp_path, 1)
    state = json.loads((saved / "state.json").read_text())
    (saved / "state.json").write_text(json.dumps(state | {name: value}))
    with pytest.raises(InputError, match=f"state.json is damaged: {name} is "):
        read_state(saved)


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("nowhere")], ids=["file", "link"])
def test_what_only_has_a_checkpoints_name_is_passed_over(tmp_path: Path, make: Any) -> None:
    good = save(tmp_path, 1)
    other = tmp_path / "step-00000002"
    make(other)
    chosen, (error,) = newest_intact(list_checkpoints(tmp_path))
    assert chosen == good and str(error) == f"{other} is no checkpoint to resume from: it is no folder"
    remove_later_checkpoints(tmp_path, 1)
    assert names(tmp_path) == [good.name]


def test_checksums_of_nothing_prove_nothing(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    (saved / "checksums.json").write_text('{"files": {}}')
    with pytest.raises(DamageError, match=r"checksums.json is damaged: it does not name model.safetensors"):
        check_intact(saved)
