"""A full, read-only or damaged disk: an error of one line, no loss, and the same result once it is repaired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bert_large.finetune.seed_run import SeedRun
from bert_large.finetune.seeds import FinetuneRun
from bert_large.train import checkpoint
from bert_large.train.checkpoint import check_intact, list_checkpoints
from bert_large.train.step import StepRunner
from transformers import Trainer

from tests.fault.conftest import SmallDisk
from tests.support.finetune import write_model
from tests.support.glue import write_glue
from tests.support.recorded_runs import record_run
from tests.support.records import make_records, write_shard
from tests.support.runs import Task, assert_same_run, options, run_here, run_torchrun, step_rows


def fill_at(disk: SmallDisk, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill the disk within a step of the next run."""
    run = StepRunner.run

    def fill_and_run(self: StepRunner, number: int, *arguments: object) -> object:
        if number + 1 == step:
            disk.fill()
        return run(self, number, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(StepRunner, "run", fill_and_run)


@pytest.mark.parametrize("place", ["checkpoints", "tensorboard", "model_save", "metrics.jsonl", "train.log", "all"])
def test_a_full_disk(
    task: Task, finished: Path, small_disk: SmallDisk, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """For every file: exit code 1, a line that names it, intact checkpoints, and the same result in the end."""
    output = small_disk.folder if place == "all" else tmp_path / "out"
    if place != "all":
        output.mkdir()
        if "." not in place:
            (small_disk.folder / place).mkdir()
        (output / place).symlink_to(small_disk.folder / place)
    settings = {"save_every": 2}
    with monkeypatch.context() as patch:
        fill_at(small_disk, 5, patch)
        assert run_here(*task.arguments(output, **settings)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    named = str(output) if place == "all" else str(output / place)
    assert line.startswith(f"bert-large pretrain: error: {named}") and "continues" in line
    assert "No space left on device" in line and "0 bytes free" in line
    kept = list_checkpoints(output / "checkpoints")
    assert [path.name for path in kept][:2] == (
        ["step-00000006", "step-00000008"] if place == "model_save" else ["step-00000002", "step-00000004"]
    )
    for path in kept:
        check_intact(path)
    assert not (output / "ended.json").exists()
    small_disk.free_space()
    task.run(output, **settings)
    assert_same_run(output, finished)


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(
    task: Task, finished: Path, small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The space was there before, so that the write itself fails; the unfinished checkpoint is deleted."""
    folder = small_disk.folder / "out"
    save_tensors = checkpoint.save_tensors
    saves = 0

    def fill_and_save(*arguments: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == 4:  # the second checkpoint's moments
            small_disk.fill()
        save_tensors(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_tensors", fill_and_save)
        assert run_here(*task.arguments(folder, save_every=2)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "optimizer.safetensors" in line and "No space left on device" in line
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000002"]
    small_disk.free_space()
    task.run(folder, save_every=2)
    assert_same_run(folder, finished)


@pytest.mark.slow
def test_a_full_disk_ends_all_ranks(task: Task, tmp_path: Path) -> None:
    """Only one of them writes; none waits for it forever."""
    (tmp_path / "train.log").symlink_to("/dev/full")
    done = run_torchrun(2, *task.arguments(tmp_path))
    assert done.returncode == 1
    assert f"error: {tmp_path / 'train.log'} " in done.stderr and "No space left on device" in done.stderr


def test_too_little_space_for_a_checkpoint_is_an_error_at_the_start(
    task: Task, small_disk: SmallDisk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "checkpoints").symlink_to(small_disk.folder)
    small_disk.fill()
    assert run_here(*task.arguments(output)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(output / "checkpoints") in line and "0 bytes free" in line
    assert not (output / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", [".", "new"])
def test_a_read_only_folder_is_refused_at_the_start(
    task: Task, small_disk: SmallDisk, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small_disk.make_read_only()
    assert run_here(*task.arguments(small_disk.folder / name)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(small_disk.folder / name) in line and "Read-only file system" in line


def write_text_and_records(folder: Path) -> None:
    """Write text/ with a corpus, records/ with a record file, run/ with a run and model_save/."""
    (folder / "text").mkdir()
    (folder / "text" / "part.txt").write_text("A cat sat on the mat.\n\n" * 50)
    write_shard(folder / "records" / "part-0", make_records(4))
    record_run(folder / "run")
    write_model(folder / "model_save")


COMMANDS: dict[str, tuple[str, dict[str, str]]] = {
    "vocab": ("output-file", {"input-dir": "text"}),
    "pick": ("output-file", {"input-dir": "records", "count": "=2"}),
    "corpus": ("output-dir", {"input-dir": "text"}),
    "export": ("output-dir", {"checkpoint-dir": "model_save", "format": "=hugging-face"}),
    "convert": ("to-tf", {"checkpoint-dir": "model_save"}),
    "report": ("output-file", {}),
    "report pictures": ("png-dir", {"output-file": "page.html"}),
}
"""The option for the output of each command, and its other options; names are in the test's folder unless after `=`."""


@pytest.mark.parametrize("case", COMMANDS)
@pytest.mark.parametrize("place", [".", "new"])
def test_a_read_only_disk(
    case: str, place: str, small_disk: SmallDisk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A repeated command would fail again: exit code 2, and a line that names the folder."""
    if case == "convert":
        pytest.importorskip("tensorflow", reason="needs the extra tensorflow")
    write_text_and_records(tmp_path)
    capsys.readouterr()
    small_disk.make_read_only()
    option, others = COMMANDS[case]
    command = case.partition(" ")[0]
    words = [command, *([str(tmp_path / "run")] if command == "report" else []), f"--{option}"]
    words.append(str(small_disk.folder / place / "output"))
    for name, value in others.items():
        words += [f"--{name}", value[1:] if value.startswith("=") else str(tmp_path / value)]
    assert run_here(*words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"bert-large {command}: error: ") and "Read-only file system" in line
    assert str(small_disk.folder / place) in line and "/." not in line


def test_doctor_on_a_read_only_disk(task: Task, small_disk: SmallDisk, capsys: pytest.CaptureFixture[str]) -> None:
    small_disk.make_read_only()
    given = {"config_file": task.config_file, "dataset_dir": task.dataset_dir, "output_dir": small_disk.folder}
    assert run_here("doctor", *options(**given)) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "Read-only file system" in line]
    assert str(small_disk.folder) in line and "/." not in line


def test_an_export_that_does_not_fit(
    small_disk: SmallDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither of two graphs is kept, and the same command succeeds once there is space."""
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    from bert_large.export import onnx_graph

    out, write = small_disk.folder / "out", onnx_graph._write
    words = ["export", *options(checkpoint_dir=write_model(tmp_path / "model_save"), format="onnx", output_dir=out)]

    def fill_and_write(path: Path, *arguments: Any) -> None:
        if path.stem == "pretraining":
            small_disk.fill()
        write(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(onnx_graph, "_write", fill_and_write)
        assert run_here(*words) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"bert-large export: error: {out}") and "No space left on device" in line
    assert "continues" not in line
    assert list(out.iterdir()) == []
    small_disk.free_space()
    assert run_here(*words) == 0
    assert sorted(path.name for path in out.iterdir()) == ["encoder.onnx", "pretraining.onnx"]


@pytest.mark.parametrize(
    ("owner", "name"),
    [(SeedRun, "save_best"), (Trainer, "_save_optimizer_and_scheduler"), (FinetuneRun, "_publish")],
)
def test_fine_tuning_on_a_full_disk(
    small_disk: SmallDisk, tmp_path: Path, owner: type, name: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """In the best weights, in a checkpoint and in the results, errors of the libraries become one line too."""
    out, original = small_disk.folder / "out", getattr(owner, name)
    model, data = write_model(tmp_path / "start" / "model_save"), write_glue(tmp_path / "glue")
    small = {"epochs": 1, "batch_size": 4, "max_seq_length": 16, "save_every": 2}
    words = ["finetune", *options(output_dir=out, task="sst2", data_dir=data, checkpoint_dir=model, **small)]

    def fill_and_continue(*values: Any, **given: Any) -> Any:
        small_disk.fill()
        return original(*values, **given)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fill_and_continue)
        assert run_here(*words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bert-large finetune: error: {out}") and "0 bytes free" in line
    assert not (out / "results.json").exists()
    small_disk.free_space()
    assert run_here(*words) == 0
    assert (out / "results.json").exists()


def test_text_that_does_not_fit(small_disk: SmallDisk, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").mkdir()
    sentences = (f"Article {number} describes a thing.\n" * 500 for number in range(300))
    (tmp_path / "text" / "part.txt").write_text("\n".join(sentences))
    given = options(input_dir=tmp_path / "text", output_dir=small_disk.folder / "corpus")
    assert run_here("corpus", *given) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"bert-large corpus: error: {small_disk.folder / 'corpus'}")
    assert list(small_disk.folder.iterdir()) == []


def test_a_conversion_that_does_not_fit(
    small_disk: SmallDisk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """TensorFlow's error becomes a line like the others."""
    pytest.importorskip("tensorflow", reason="needs the extra tensorflow")
    model = write_model(tmp_path / "start" / "model_save")
    small_disk.fill()
    assert run_here("convert", *options(to_tf=small_disk.folder / "ckpt", checkpoint_dir=model)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bert-large convert: error: {small_disk.folder / 'ckpt'}") and "0 bytes free" in line
    assert "continues" not in line
    assert [path.name for path in small_disk.folder.iterdir()] == ["filler"]


def test_a_damaged_checkpoint(task: Task, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One flipped bit in the newest: a warning, the run resumes from the one before, with the same result."""
    task.run(tmp_path, max_steps=6, total_steps=8, save_every=2, eval_dir="none")
    newest = tmp_path / "checkpoints" / "step-00000006" / "optimizer.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1000] ^= 16
    newest.write_bytes(data)
    capsys.readouterr()
    task.run(tmp_path, save_every=2, eval_dir="none")
    printed = capsys.readouterr().out
    assert str(newest) in printed and "resuming after step 4" in printed
    assert [row["step"] for row in step_rows(tmp_path)] == list(range(1, 9))
    for name in ("model_save/model.safetensors", "checkpoints/step-00000008/optimizer.safetensors"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes(), name


def test_phase_2_refuses_a_damaged_model(
    task: Task, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model_save"
    model.mkdir()
    for path in (finished / "model_save").iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\1\2\3\4")
    assert run_here(*task.arguments(tmp_path / "out", phase=2, checkpoint_dir=model, config_file=None)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"error: CHECKPOINT_DIR: {weights} " in line
