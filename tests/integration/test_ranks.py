"""Several ranks over gloo: the same run as one rank, and a common end."""

from __future__ import annotations

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
from bert_large.storage.integrity import write_checksums
from bert_large.train.checkpoint import list_checkpoints, read_state
from safetensors.torch import load_file

from tests.support.records import make_records, write_folder
from tests.support.runs import (
    Task,
    assert_same_losses,
    finish,
    options,
    run_here,
    run_torchrun,
    start_ranks,
    step_rows,
    told_once,
    wait_for_steps,
)

# With dropout; ten steps of 16 sequences with about 850 tokens in total, more than one epoch.
RUN = {"global_batch_size": 16, "max_steps": 12, "max_samples": 160, "eval_every_samples": 64, "save_every": 5,
       "keep_checkpoints": 9}  # fmt: skip


@pytest.fixture(scope="module")
def one_rank(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank with micro-batches of up to 4096 tokens: one per step."""
    return task.run(tmp_path_factory.mktemp("ranks") / "one", **RUN, micro_batch_tokens=4096)


@pytest.fixture(scope="module")
def two_ranks(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks started by torchrun, with several micro-batches, small buckets and divided optimizer state."""
    output = tmp_path_factory.mktemp("ranks") / "two"
    done = run_torchrun(2, *task.arguments(output, **RUN, micro_batch_tokens=256, bucket_mb=0.01, zero1=True))
    assert done.returncode == 0, done.stderr
    return output


def test_two_ranks_are_one_run(one_rank: Path, two_ranks: Path) -> None:
    """The same losses at every step, the same samples and evaluations, and the same weights at the end."""
    assert_same_losses(two_ranks, one_rank)
    found, expected = (load_file(run / "model_save" / "model.safetensors") for run in (two_ranks, one_rank))
    for name in expected:
        if not name.endswith("key.bias"):  # its gradient is only rounding
            assert float((found[name] - expected[name]).abs().max()) < 1e-4, name


def test_all_ranks_stop_at_max_samples(two_ranks: Path) -> None:
    """After 160 samples; all 12 steps would be 192."""
    assert len(step_rows(two_ranks)) == 10
    assert json.loads((two_ranks / "ended.json").read_text())["reason"] == "160 samples reach --max-samples 160"


def test_throughput_is_that_of_all_ranks(two_ranks: Path) -> None:
    """The global batch divided by the time of the step, not the part of one rank."""
    for row in step_rows(two_ranks):
        assert row["sequences_per_second"] * row["seconds"] == pytest.approx(16)
        assert row["tokens_per_second"] * row["seconds"] > 256  # more than a rank's largest micro-batch
    printed = re.findall(r"Throughput: (\S+) sentence/s", (two_ranks / "train.log").read_text())
    seconds = sum(row["seconds"] for row in step_rows(two_ranks))
    assert [float(value) for value in printed] == [pytest.approx(160 / seconds, rel=1e-3)]


def test_one_rank_writes(two_ranks: Path) -> None:
    """One line per step in the log, and one file of each kind."""
    log = (two_ranks / "train.log").read_text()
    assert len(re.findall(r" step \d+/12 ", log)) == 10
    assert "2 ranks over gloo, 1 threads each" in log
    assert len(list((two_ranks / "tensorboard").iterdir())) == 1
    assert len((two_ranks / "summary.log").read_text().splitlines()) == 1


@pytest.mark.slow
def test_resumed_on_another_number_of_ranks(task: Task, one_rank: Path, two_ranks: Path, tmp_path: Path) -> None:
    """One rank resumes a run of two ranks after step 5, with other micro-batches."""
    output = tmp_path / "out"
    shutil.copytree(two_ranks, output)
    for path in list_checkpoints(output / "checkpoints"):
        if read_state(path)[0].step > 5:
            shutil.rmtree(path)
    (output / "ended.json").unlink()
    task.run(output, **RUN, micro_batch_tokens=512)
    assert "resuming after step 5 from" in (output / "train.log").read_text()
    assert_same_losses(output, one_rank)


@pytest.mark.slow
def test_all_ranks_stop_at_the_target(easy_task: Task, tmp_path: Path) -> None:
    """In the same step as one rank. In Intel's package only rank 0 stopped, and the others hung."""
    done = run_torchrun(2, *easy_task.arguments(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert len(step_rows(tmp_path / "two")) == len(step_rows(easy_task.run(tmp_path / "one"))) < 60
    assert "reaches the target 0.9" in (tmp_path / "two" / "train.log").read_text()


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all(task: Task, tmp_path: Path) -> None:
    """After the same step, with the exit code of the signal and a checkpoint."""
    settings = {"max_steps": 2000, "save_every": 1000, "eval_dir": "none"}
    processes = start_ranks(2, "-m", "bert_large", *task.arguments(tmp_path, **settings))
    wait_for_steps(tmp_path, 3)
    processes[1].send_signal(signal.SIGTERM)
    results = finish(processes)
    assert [done.returncode for done in results] == [143, 143], results[0].stderr
    steps = len(step_rows(tmp_path))
    assert 3 <= steps < 2000
    assert [read_state(path)[0].step for path in list_checkpoints(tmp_path / "checkpoints")] == [steps]


@pytest.mark.slow
def test_eager_on_two_ranks(task: Task, one_rank: Path, tmp_path: Path) -> None:
    """Two ranks of the reference engine have the same losses as one of the engine that `auto` chose."""
    done = run_torchrun(2, *task.arguments(tmp_path, **RUN, micro_batch_tokens=256, engine="eager"))
    assert done.returncode == 0, done.stderr
    assert "engine native" in (one_rank / "train.log").read_text()
    assert "engine eager" in (tmp_path / "train.log").read_text()
    assert_same_losses(tmp_path, one_rank)


@pytest.mark.slow
def test_a_batch_smaller_than_the_ranks_is_refused(task: Task, tmp_path: Path) -> None:
    results = finish(start_ranks(2, "-m", "bert_large", *task.arguments(tmp_path, global_batch_size=1)))
    assert "--global-batch-size is 1" in told_once(results)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.slow
def test_an_error_on_one_rank_ends_all(task: Task, tmp_path: Path) -> None:
    """Only one rank reads the output folder. If that holds another run, the other rank does not wait forever."""
    task.run(tmp_path, max_steps=1, total_steps=8)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    line = told_once(finish(start_ranks(2, "-m", "bert_large", *task.arguments(tmp_path, seed=7))))
    assert str(tmp_path) in line and "seed" in line
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_damaged_data_ends_all(task: Task, tmp_path: Path) -> None:
    """Only one rank of each machine checks the records."""
    data = write_folder(tmp_path / "data", make_records(8)) / "part-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    arguments = task.arguments(tmp_path / "out", dataset_dir=data.parent)
    line = told_once(finish(start_ranks(2, "-m", "bert_large", *arguments)))
    assert f"error: {data}: record " in line


@pytest.mark.slow
def test_wrong_settings_are_printed_once_under_torchrun(task: Task, tmp_path: Path) -> None:
    """By the first rank, before torchrun ends it; then the launcher names the rank."""
    done = run_torchrun(2, *task.arguments(tmp_path / "out", dataset_dir=tmp_path / "nowhere"))
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if "error: " in line]
    assert errors[0].startswith("bert-large pretrain: error: ") and str(tmp_path / "nowhere") in errors[0]
    assert len(errors) == 2 and errors[1].startswith("bert-large: error: rank ")


@pytest.mark.slow
def test_an_impossible_evaluation_is_printed_once(task: Task, one_rank: Path, tmp_path: Path) -> None:
    arguments = ["evaluate", *options(checkpoint_dir=one_rank / "model_save", eval_dir=tmp_path / "none")]
    line = told_once(finish(start_ranks(2, "-m", "bert_large", *arguments)))
    assert line.startswith("bert-large evaluate: error: ") and str(tmp_path / "none") in line


@pytest.mark.slow
def test_two_ranks_evaluate_as_one(task: Task, one_rank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every record is evaluated once, and one rank prints."""
    arguments = ["evaluate", *options(checkpoint_dir=one_rank / "model_save", eval_dir=task.dataset_dir / "eval",
                                      micro_batch_tokens=100, json=True)]  # fmt: skip
    results = finish(start_ranks(2, "-m", "bert_large", *arguments))
    assert [done.returncode for done in results] == [0, 0], results[1].stderr
    assert results[1].stdout == ""
    capsys.readouterr()
    assert run_here(*arguments) == 0
    one, two = json.loads(capsys.readouterr().out), json.loads(results[0].stdout)
    assert {**two, "seconds": 0} == pytest.approx({**one, "seconds": 0}, rel=1e-6)


@pytest.mark.slow
def test_fp16(task: Task, tmp_path: Path) -> None:
    """Ranks skip the same updates: resumed at a scale that overflows, two ranks end with the scale and losses of one.

    Rounding of fp16 depends on the order of sums: the greatest relative difference measured is 5e-5.
    """
    start = task.run(tmp_path / "start", precision="fp16", max_steps=1, total_steps=8) / "checkpoints/step-00000001"
    state = json.loads((start / "state.json").read_text())
    state["loss_scale"]["scale"] = 2.0**21
    (start / "state.json").write_text(json.dumps(state))
    write_checksums(start)
    one = task.run(tmp_path / "one", precision="fp16", resume=start)
    done = run_torchrun(2, *task.arguments(tmp_path / "two", precision="fp16", resume=start))
    assert done.returncode == 0, done.stderr
    for name in ("masked_lm_loss", "next_sentence_loss", "gradient_norm"):
        ours, theirs = ([row[name] for row in step_rows(run)] for run in (tmp_path / "two", one))
        assert [value is None for value in ours] == [value is None for value in theirs]
        assert [value or 0 for value in ours] == pytest.approx([value or 0 for value in theirs], rel=3e-4)
    progress = [read_state(list_checkpoints(run / "checkpoints")[-1])[0] for run in (tmp_path / "two", one)]
    assert (progress[0].loss_scale, progress[0].skipped) == (progress[1].loss_scale, progress[1].skipped)
    assert progress[0].loss_scale is not None and progress[0].skipped.total > 0
