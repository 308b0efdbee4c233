"""Log lines, progress bars, and standard streams that fail."""

from __future__ import annotations

import dataclasses
import errno
import io
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bert_large.log import LOGGER, log_to_file_only, start_logging
from bert_large.observe import progress as progress_module
from bert_large.observe.console import eval_line, step_line, step_status
from bert_large.observe.progress import Progress

from tests.support.training import EVALUATION, step_metrics


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def untouched_logger() -> Iterator[None]:
    yield
    for handler in LOGGER.handlers:
        handler.close()
    LOGGER.handlers = []
    LOGGER.propagate = True


def test_step_line_has_the_fields_that_scripts_parse() -> None:
    line = step_line(step_metrics(2, masked_lm_accuracy=0.71234, seconds=1.25), 10)
    assert line == (
        "step 2/10 loss 1.7500 (masked_lm 1.5000 next_sentence 0.2500) lm_acc 0.7123 seq_acc 0.7500 lr 1.000e-03 "
        "grad_norm 1.500 4.00 sentence/s 100 token/s 1.25 s (data 0.50 s)"
    )


def test_lines_without_next_sentences() -> None:
    """Models without the head have no values for it."""
    none: dict[str, Any] = {"next_sentence_loss": None, "next_sentence_accuracy": None}
    assert "loss 1.7500 (masked_lm 1.5000) lm_acc 0.2500 lr" in step_line(step_metrics(2, **none), 10)
    assert " masked_lm_loss 2.0000 on 50 samples" in eval_line(dataclasses.replace(EVALUATION, **none))


def test_eval_line_names_the_baseline_beside_the_accuracy() -> None:
    line = eval_line(EVALUATION)
    assert line.startswith("masked_lm_accuracy 0.30000 (always the most frequent token: 0.05000) masked_lm_loss 2.0000")
    assert "next_sentence_accuracy 0.7000 next_sentence_loss 0.6000 on 50 samples" in line


def test_a_path_that_is_not_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Terminals and files reject such bytes, which must not end the run."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", terminal)
    start_logging(tmp_path / "train.log")
    LOGGER.info("resuming after step 5 from %s", Path("out\udcff"))
    for text in (terminal.buffer.getvalue(), (tmp_path / "train.log").read_bytes()):
        assert text.endswith(b" resuming after step 5 from out\\udcff\n")


def test_lines_go_to_standard_output_and_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(tmp_path / "train.log")
    LOGGER.info("hello")
    log_to_file_only("error: printed elsewhere")
    printed = capsys.readouterr().out
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d hello\n", printed)
    first, second = (tmp_path / "train.log").read_text().splitlines()
    assert first + "\n" == printed and second.endswith(" error: printed elsewhere")


@pytest.mark.parametrize("piped", [False, True], ids=["terminal", "output to a pipe"])
def test_a_terminal_shows_steps_in_the_bar_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piped: bool) -> None:
    """Their lines would hide evaluations and warnings; the log file and a pipe get all lines."""
    output = io.StringIO() if piped else Terminal()
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", Terminal())
    start_logging(tmp_path / "train.log")
    progress = Progress(10, "step", visible=True)
    progress.line("step 1/10 done", shown_by_bar=True)
    progress.line("eval after step 1")
    progress.close()
    lines = (tmp_path / "train.log").read_text()
    assert "step 1/10 done" in lines and "eval after step 1" in lines
    assert ("step 1/10 done" in output.getvalue()) == piped
    assert "eval after step 1" in output.getvalue()


def test_other_ranks_print_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(None)
    LOGGER.info("hello")
    LOGGER.warning("beware")
    assert capsys.readouterr().out.endswith(" beware\n") and LOGGER.level > logging.INFO


def test_progress_without_a_terminal_is_a_line_every_30_seconds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A step of BERT-large can take minutes. Other lines postpone the next one."""
    clock = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: clock[0])
    progress = Progress(10, "step", visible=True)
    with caplog.at_level(logging.INFO, "bert_large"):
        for seconds, text in ((29, "1/8"), (2, "2/8"), (28, "3/8"), (3, "4/8")):
            clock[0] += seconds
            progress.within(f"step 1: {text} sequences")
        clock[0] += 20
        progress.line("step 1 done")
        clock[0] += 20
        progress.within("step 2: 1/8 sequences")
    progress.close()
    assert [record.getMessage() for record in caplog.records] == [
        "step 1: 2/8 sequences", "step 1: 4/8 sequences", "step 1 done",
    ]  # fmt: skip


def test_hidden_progress_writes_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(progress_module, "LINE_EVERY_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "bert_large"):
        Progress(10, "step", visible=False).within("step 1: 1/8 sequences")
    assert not caplog.records


@pytest.mark.parametrize("visible", [True, False])
def test_progress_is_a_bar_on_a_terminal(visible: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On standard error, with the progress inside the step, and on one rank only."""

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress(10, "step", visible=visible, initial=4)
    progress.within("step 5: 1/8 sequences")
    progress.close()
    shown = terminal.getvalue()
    assert ("step 5: 1/8 sequences" in shown and "4/10" in shown) if visible else shown == ""


def test_bar_shows_the_last_step_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step, loss, accuracy, throughput and the remaining time fit 100 columns; narrower terminals cut off the end."""
    for columns in (100, 60):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        progress = Progress(28252, "step", visible=True, initial=12344)
        monkeypatch.setattr(progress._bar, "dynamic_ncols", None)
        monkeypatch.setattr(progress._bar, "ncols", columns)
        progress.advance(status=step_status(step_metrics(2)))
        progress.within("step 12346: 1/8 sequences")
        last = terminal.getvalue().split("\r")[-1]
        progress.close()
        assert "\n" not in terminal.getvalue() and len(last.strip()) <= columns
        assert last.startswith("step 12345/28252 |")
        assert "|, loss 1.750, accuracy 0.250, 4.0 " in last or columns < 100
        if columns == 100:
            assert re.search(r"4\.0 sequences/s, [\d:?]+ left ", last), last


def test_progress_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines without a terminal, through the given function."""
    monkeypatch.setattr(progress_module, "LINE_EVERY_SECONDS", 0.0)
    lines: list[str] = []
    with Progress(100, "B", description="checksums", write=lines.append) as progress:
        progress.advance(40)
        progress.line("a.txt is damaged")
        progress.advance(60)
    assert lines == ["checksums: 40 of 100 B", "a.txt is damaged", "checksums: 100 of 100 B"]


class Broken(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@pytest.mark.parametrize("stderr", [io.StringIO, Broken])
def test_losing_standard_output_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stderr: type[io.StringIO]
) -> None:
    """The log file has every line, and one that names the loss."""
    monkeypatch.setattr(sys, "stdout", Broken())
    monkeypatch.setattr(sys, "stderr", stderr())
    start_logging(tmp_path / "train.log")
    for step in (1, 2):
        LOGGER.info("step %d", step)
    lost, *steps = (tmp_path / "train.log").read_text().splitlines()
    assert os.strerror(errno.EPIPE) in lost
    assert [line[-6:] for line in steps] == ["step 1", "step 2"]
