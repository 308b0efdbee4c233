"""What ranks send each other: overlapped with the backward pass, compressed if asked, optimizer state divided."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from bert_large.engines import available_engines
from bert_large.train.checkpoint import list_checkpoints, read_state

from tests.support.runs import PROJECT, Task, finish, run_torchrun, start_ranks, step_rows, without_timings

pytestmark = pytest.mark.slow

SUPPORT = PROJECT / "tests" / "support"
FIGURES = ("masked_lm_loss", "next_sentence_loss", "gradient_norm")


@pytest.fixture(scope="module")
def plain(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks with the defaults: eight steps, a checkpoint after every second."""
    return run_two(task, tmp_path_factory.mktemp("communication") / "plain", save_every=2, keep_checkpoints=9)


def run_two(task: Task, output: Path, **changes: object) -> Path:
    done = run_torchrun(2, *task.arguments(output, **changes))
    assert done.returncode == 0, done.stderr
    return output


def assert_same_run(found: Path, expected: Path) -> None:
    """All figures, and the last checkpoint's weights and moments, to the last bit."""
    assert without_timings(step_rows(found)) == without_timings(step_rows(expected))
    one, other = (list_checkpoints(run / "checkpoints")[-1] for run in (found, expected))
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (one / file).read_bytes() == (other / file).read_bytes(), file


@pytest.mark.parametrize("engine", available_engines())
def test_sums_overlap_with_the_backward_pass(engine: str) -> None:
    """While it stands still before the first layer has ended, the first bucket is summed; none in other micro-batches.

    The native engine gathers gradients itself; what tells of them still comes block by block.
    """
    results = finish(start_ranks(2, str(SUPPORT / "overlap.py"), engine))
    assert [done.returncode for done in results] == [0, 0], results[0].stderr
    for done in results:
        events = json.loads(done.stdout)
        layers = [f"layer {number} ends" for number in (3, 2, 1, 0)]
        assert events[:4] == layers  # the first micro-batch: nothing is sent
        assert [event for event in events[4:] if event.startswith("layer")] == layers
        last = len(events) - 1 - events[::-1].index("layer 0 ends")
        assert 4 <= events.index("bucket 0 begins") < events.index("bucket 0 done") < last
        assert sum(event.endswith("begins") for event in events[4:last]) >= 3  # in pieces, as layers end
        assert [event for event in events if event.endswith("begins")] == [
            f"bucket {number} begins" for number in range(sum(event.endswith("begins") for event in events))
        ]


def test_bucket_sizes_change_nothing(task: Task, plain: Path, tmp_path: Path) -> None:
    """With two ranks each gradient is one addition, in whatever bucket."""
    found = run_two(task, tmp_path, bucket_mb=0.01, save_every=2, keep_checkpoints=9)
    assert_same_run(found, plain)


def test_compressed_gradients(task: Task, plain: Path, tmp_path: Path) -> None:
    """Eight steps stay within 0.05% of float32's losses and 0.1% of its norms; 0.015% and 0.019% were seen."""
    found = run_two(task, tmp_path, gradient_compression="bf16")
    for name in FIGURES:
        ours, theirs = ([row[name] for row in step_rows(run)] for run in (found, plain))
        tolerance = 1e-3 if name == "gradient_norm" else 5e-4
        assert ours == pytest.approx(theirs, rel=tolerance), name
    assert step_rows(found)[0]["gradient_norm"] != step_rows(plain)[0]["gradient_norm"]


@pytest.mark.parametrize("engine", available_engines())
def test_divided_state_is_the_same_run(task: Task, tmp_path: Path, engine: str) -> None:
    """LAMB's norms are of whole parameters wherever they are computed: not a bit differs, clipping included."""
    runs = [run_two(task, tmp_path / name, engine=engine, zero1=name == "divided") for name in ("divided", "whole")]
    assert any(row["gradient_norm"] > 1 for row in step_rows(runs[0]))
    assert_same_run(*runs)


def test_divided_state_of_adamw(task: Task, tmp_path: Path) -> None:
    settings = {"optimizer": "adamw", "learning_rate": 1e-3}
    assert_same_run(*(run_two(task, tmp_path / str(zero1), zero1=zero1, **settings) for zero1 in (True, False)))


def test_resumed_with_and_without_divided_state(task: Task, plain: Path, tmp_path: Path) -> None:
    """A checkpoint does not tell how its state was kept: on and off, two ranks and one."""

    def resume(source: Path, name: str, step: int) -> Path:
        output = tmp_path / name
        shutil.copytree(source, output)
        for path in list_checkpoints(output / "checkpoints"):
            if read_state(path)[0].step > step:
                shutil.rmtree(path)
        (output / "ended.json").unlink(missing_ok=True)
        return output

    settings = {"save_every": 2, "keep_checkpoints": 9}
    divided = run_two(task, resume(plain, "divided", 2), zero1=True, **settings)
    assert_same_run(divided, plain)
    assert_same_run(run_two(task, resume(divided, "whole", 4), **settings), plain)
    one = task.run(resume(divided, "one", 4), **settings)
    for name in FIGURES:
        ours, theirs = ([row[name] for row in step_rows(run)] for run in (one, plain))
        assert ours == pytest.approx(theirs, rel=2e-6), name


def test_each_rank_keeps_its_share() -> None:
    """Three ranks: together the moments of every parameter once; a checkpoint gets all; weights stay equal."""
    results = finish(start_ranks(3, str(SUPPORT / "shards.py")))
    assert [done.returncode for done in results] == [0] * 3, results[0].stderr
    ranks = [json.loads(done.stdout) for done in results]
    assert sum(its["kept"] for its in ranks) == 2 * ranks[0]["parameters"]
    assert all(0 < its["kept"] < ranks[0]["parameters"] for its in ranks)
    assert len(ranks[0]["moments"]) == 2 * ranks[0]["tensors"]
    assert ranks[1]["moments"] == ranks[2]["moments"] == []
    assert len({its["weights"] for its in ranks}) == 1
