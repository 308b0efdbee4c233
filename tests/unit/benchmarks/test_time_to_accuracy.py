"""Two trainings in turns: the pauses are not counted, and the times to the same losses are compared."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import time_to_accuracy
from bert_large.errors import InputError, UserError
from time_to_accuracy import compare, ratio_of_steps, read_curve, seconds_to

TRAINING = """
import json, sys, time
from pathlib import Path
folder, factor = Path(sys.argv[1]), float(sys.argv[2])
with (folder / "metrics.jsonl").open("w") as file:
    started = time.perf_counter()
    for step in range(1, 41):
        time.sleep(0.02 * factor)
        seconds = time.perf_counter() - started
        print(json.dumps({"event": "step", "step": step, "seconds": seconds}), file=file, flush=True)
        if step % 4 == 0:
            row = {"event": "eval", "step": step, "masked_lm_loss": 9 - step / 8}
            print(json.dumps(row), file=file, flush=True)
        started = time.perf_counter()
"""


def point(seconds: float, loss: float) -> dict[str, float]:
    return {"step": 0, "seconds": seconds, "masked_lm_loss": loss}


def test_times_are_interpolated() -> None:
    curve = [point(10, 9.0), point(20, 8.0), point(30, 8.5), point(40, 7.0)]
    assert [seconds_to(loss, curve) for loss in (9.5, 9.0, 8.5, 8.0, 7.75)] == [10, 10, 15, 20, 35]
    assert seconds_to(6.9, curve) is None


def test_losses_that_both_reached_are_compared() -> None:
    curves = {"first": [point(10, 8.0), point(20, 7.0), point(30, 6.0)], "second": [point(40, 8.1), point(80, 7.1)]}
    results = compare(curves)
    assert [result["masked_lm_loss"] for result in results] == [8.0, 7.75, 7.5, 7.25, 7.1]
    assert [result["ratio"] for result in results] == pytest.approx(
        [result["second"] / result["first"] for result in results]
    )
    assert results[-1]["second"] == 80 and results[-1]["first"] == pytest.approx(19)


def test_pauses_do_not_count(tmp_path: Path) -> None:
    """A pause is in the row that follows it: a step's is subtracted, an evaluation's and one before a step are not."""
    rows = [
        {"event": "step", "step": 1, "seconds": 1.0},
        {"event": "step", "step": 2, "seconds": 101.0},
        {"event": "eval", "step": 2, "masked_lm_loss": 5.0},
        {"event": "step", "step": 3, "seconds": 1.0},
        {"event": "eval", "step": 3, "masked_lm_loss": 4.0},
    ]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    pauses = [{"rows": 0, "seconds": 50.0}, {"rows": 1, "seconds": 100.0}, {"rows": 2, "seconds": 100.0}]
    assert [point["seconds"] for point in read_curve(metrics, pauses)] == [2.0, 3.0]


def test_steps_of_successive_turns_are_compared(tmp_path: Path) -> None:
    """The first row of a turn contains the pause, and the machine may become slower from turn to turn."""
    turns = {}
    for side, factor in (("first", 1), ("second", 3)):
        rows = [(99, 1, 1), (99, 2, 2), (99, 4, 4)]
        (tmp_path / side).mkdir()
        lines = [json.dumps({"event": "step", "seconds": factor * seconds}) for turn in rows for seconds in turn]
        (tmp_path / side / "metrics.jsonl").write_text("\n".join(lines))
        turns[side] = [{"rows": 0, "seconds": 1}, {"rows": 3, "seconds": 1}, {"rows": 6, "seconds": 1}]
    compared = time_to_accuracy.CompareOptions(
        work_dir=tmp_path, first_dir=tmp_path / "first", second_dir=tmp_path / "second"
    )
    assert ratio_of_steps(compared, turns) == {"median": 3, "quartiles": [3, 3]}
    with pytest.raises(InputError, match="two steps"):
        ratio_of_steps(compared, {"first": turns["first"][2:], "second": []})


def options(folder: Path, **commands: str) -> list[str]:
    words = ["--work-dir", str(folder / "work"), "--turn", "0.3", "--second-turn", "0.4"]
    for side, command in commands.items():
        (folder / side).mkdir(exist_ok=True)
        words += [f"--{side}", f"{sys.executable} {command}"]
    return [*words, "--first-dir", str(folder / "first"), "--second-dir", str(folder / "second")]


def test_two_processes_take_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    commands = {side: f"{script} {tmp_path / side} {factor}" for side, factor in (("first", 1), ("second", 2))}
    assert time_to_accuracy.main(options(tmp_path, **commands)) == 0
    table = capsys.readouterr().out
    results = json.loads((tmp_path / "work/results.json").read_text())
    assert len(results["curves"]["first"]) == len(results["curves"]["second"]) == 10
    turns = json.loads((tmp_path / "work/turns.json").read_text())
    assert all(len(turns[side]) >= 3 for side in ("first", "second"))
    # Without its pauses, each training takes about the time that it sleeps; with them, twice as long or more.
    paused = sum(pause["seconds"] for pause in turns["first"])
    assert paused > 0.5 and results["curves"]["first"][-1]["seconds"] < 0.8 + paused / 2
    assert table.count("|\n") == len(results["losses"]) + 2
    assert results["step_ratio"]["median"] > 0
    assert (tmp_path / "work/curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_training_that_fails_is_named(tmp_path: Path) -> None:
    commands = dict.fromkeys(("first", "second"), "-c 'import sys; sys.exit(7)'")
    with pytest.raises(UserError, match=r"exit code 7.*first\.log"):
        time_to_accuracy.main(options(tmp_path, **commands))


def test_one_command_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--first "):
        time_to_accuracy.main(options(tmp_path, first="-c pass"))
