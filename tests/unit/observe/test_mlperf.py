"""Lines of the MLPerf log, also of resumed runs. MLCommons' checker checks whole logs in the integration tests."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from bert_large.errors import InputError, WriteError
from bert_large.observe import mlperf
from bert_large.observe.mlperf import MlperfLog, RunTimes, check_log

from tests.support.mlperf import course, events, values
from tests.support.training import EVALUATION, step_metrics

pytest.importorskip("mlperf_logging")


def open_log(folder: Path, first_samples: int = 0) -> MlperfLog:
    return MlperfLog(
        folder / "log", output_dir=folder, first_samples=first_samples, times=RunTimes(init_start=1000, run_start=3000),
        settings={"seed": 7}, data={"train_samples": 50}, samples_of_block=lambda samples: 100 - samples,
    )  # fmt: skip


def evaluate(log: MlperfLog, samples: int, accuracy: float) -> None:
    log.evaluation_starts(samples)
    log.evaluation(samples // 8, samples, dataclasses.replace(EVALUATION, masked_lm_accuracy=accuracy))


def write_two_blocks(folder: Path) -> None:
    """Write two blocks of two steps each, evaluations after both, and the end."""
    log = open_log(folder)
    for first in (0, 16):
        for samples in (first, first + 8):
            log.step_starts(samples)
            log.step(step_metrics(samples // 8 + 1))
        evaluate(log, first + 16, 0.5 + first / 100)
    log.run_ends(32, reached_target=True)
    log.flush_to_disk()
    log.close()


TWO_BLOCKS = [
    ("block_start", 0, 100), ("block_stop", 0, 16), ("eval_start", 16), ("eval_accuracy", 16), ("eval_stop", 16),
    ("block_start", 16, 84), ("block_stop", 16, 16), ("eval_start", 32), ("eval_accuracy", 32), ("eval_stop", 32),
    ("run_stop", 32, "success"),
]  # fmt: skip


def test_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Events before the log was opened have their own time; nothing is printed."""
    write_two_blocks(tmp_path)
    found = events(tmp_path / "log")
    assert [(event["event_type"], event["key"], event["value"], event["time_ms"]) for event in found[:6]] == [
        ("POINT_IN_TIME", "output_dir", str(tmp_path), 1000), ("INTERVAL_START", "init_start", None, 1000),
        ("POINT_IN_TIME", "cache_clear", True, 3000), ("POINT_IN_TIME", "seed", 7, 3000),
        ("INTERVAL_END", "init_stop", None, 3000), ("INTERVAL_START", "run_start", None, 3000),
    ]  # fmt: skip
    assert (found[6]["key"], found[6]["value"]) == ("train_samples", 50) and found[6]["time_ms"] > 3000
    assert [event["value"] for event in found if event["key"] == "eval_accuracy"] == [0.5, 0.66]
    assert {event["event_type"] for event in found if event["key"].endswith("_stop")} == {"INTERVAL_END"}
    assert course(tmp_path / "log") == TWO_BLOCKS
    assert capsys.readouterr() == ("", "")


def test_a_run_that_misses_its_target_is_aborted(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.step_starts(0)
    log.run_ends(8, reached_target=False)
    assert course(tmp_path / "log") == [("block_start", 0, 100), ("block_stop", 0, 8), ("run_stop", 8, "aborted")]


def test_evaluation_before_the_first_step_is_outside_of_blocks(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    evaluate(log, 0, 0.3)
    log.step_starts(0)
    assert course(tmp_path / "log") == [
        ("eval_start", 0), ("eval_accuracy", 0), ("eval_stop", 0), ("block_start", 0, 100),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("samples", "kept", "then"),
    [
        (8, 1, []),  # within the first block, which is reopened
        (16, 6, []),  # after the first evaluation: the second block had started already
        (24, 6, []),
        (32, 10, [("block_start", 32, 68)]),  # the end is deleted, and a new block starts
    ],
)
def test_resuming_deletes_later_lines(tmp_path: Path, samples: int, kept: int, then: list[tuple[object, ...]]) -> None:
    write_two_blocks(tmp_path)
    log = open_log(tmp_path, first_samples=samples)
    log.step_starts(samples)
    assert course(tmp_path / "log") == [*TWO_BLOCKS[:kept], ("resumed",), *then]
    first = 0 if samples == 8 else 16 if samples < 32 else 32
    evaluate(log, samples + 8, 0.7)
    assert ("block_stop", first, samples + 8 - first) in course(tmp_path / "log")
    assert values_before_run_stop(tmp_path) == (str(tmp_path), 7, 50)


def values_before_run_stop(folder: Path) -> tuple[str, int, int]:
    found = {event["key"]: event["value"] for event in events(folder / "log")}
    return found["output_dir"], found["seed"], found["train_samples"]


def test_an_interrupted_evaluation_starts_again(tmp_path: Path) -> None:
    """The process was killed in an evaluation, in the middle of a line; the block before it stays closed."""
    log = open_log(tmp_path)
    log.step_starts(0)
    log.evaluation_starts(16)
    log.close()
    with (tmp_path / "log").open("a") as file:
        file.write(':::MLLOG {"namespace": "", "time_ms": 17')
    evaluate(open_log(tmp_path, first_samples=16), 16, 0.4)
    assert course(tmp_path / "log") == [*TWO_BLOCKS[:2], ("resumed",), *TWO_BLOCKS[2:5]]


def test_a_run_that_starts_again_replaces_its_log(tmp_path: Path) -> None:
    """It was killed before its first checkpoint."""
    write_two_blocks(tmp_path)
    check_log(tmp_path / "log", tmp_path)
    open_log(tmp_path).close()
    assert course(tmp_path / "log") == [] and values(tmp_path / "log")["seed"] == 7


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    write_two_blocks(tmp_path)
    with pytest.raises(InputError, match=rf"{tmp_path}/log .*{tmp_path};"):
        check_log(tmp_path / "log", tmp_path / "other")
    for text, complaint in (("notes\n", "line 1"), ("{", "notes exists"), ("[1]\n", "line 1")):
        (tmp_path / "notes").write_text(text)
        with pytest.raises(InputError, match=complaint):
            check_log(tmp_path / "notes", tmp_path)
    with pytest.raises(InputError, match=f"{tmp_path} is a folder"):
        check_log(tmp_path, tmp_path)
    (tmp_path / "notes").write_text("")
    check_log(tmp_path / "notes", tmp_path)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlperf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"\[mlperf\]"):
        check_log(tmp_path / "log", tmp_path)


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """When it is opened, and later on a full disk, where Python's own handlers would only print the error."""
    (tmp_path / "file").write_text("")
    times = RunTimes(init_start=1, run_start=1)
    with pytest.raises(InputError, match=f"{tmp_path}/file/log"):
        MlperfLog(
            tmp_path / "file" / "log", output_dir=tmp_path, first_samples=0, times=times, settings={}, data={},
            samples_of_block=lambda samples: 0,
        )  # fmt: skip
    with pytest.raises(WriteError, match=r"/dev/full .*No space left"):
        MlperfLog(
            Path("/dev/full"), output_dir=tmp_path, first_samples=0, times=times, settings={}, data={},
            samples_of_block=lambda samples: 0,
        )  # fmt: skip
