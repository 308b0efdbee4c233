"""The command line: which command, which exit code, and errors as one line."""

from __future__ import annotations

import argparse
import io
import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from bert_large import __version__, cli
from bert_large.cli import COMMANDS, main
from bert_large.config.recipes import recipe_names
from bert_large.errors import DataError, InputError, UserError

from tests.support.runs import process_environment, run_here, run_process


def failing_command(monkeypatch: pytest.MonkeyPatch, outcome: BaseException | int) -> None:
    """Make `bert-large report` take no options and end with `outcome`."""

    def run(arguments: argparse.Namespace) -> int:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    module: Any = SimpleNamespace(add_arguments=lambda parser: None, run=run)
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: module)


def test_a_path_that_is_not_utf_8_can_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", output)
    failing_command(monkeypatch, 0)
    assert main(["report"]) == 0
    print(os.fsdecode(b"wrote out\xff"), flush=True)
    assert output.buffer.getvalue() == b"wrote out\\udcff\n"


@pytest.mark.parametrize(
    ("outcome", "code", "printed"),
    [
        (0, 0, ""),
        (143, 143, ""),
        (UserError("the loss is not finite"), 1, "bert-large report: error: the loss is not finite\n"),
        (InputError("DATASET_DIR is empty"), 2, "bert-large report: error: DATASET_DIR is empty\n"),
        (DataError("part-0: byte 5"), 2, "bert-large report: error: part-0: byte 5\n"),
        (
            OSError(28, "No space left on device", "/full"),
            1,
            "bert-large report: error: [Errno 28] No space left on device: '/full'\n",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_codes(
    outcome: BaseException | int,
    code: int,
    printed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """2: wrong input, 1: any other failure; the reason is one line on standard error."""
    failing_command(monkeypatch, outcome)
    assert main(["report"]) == code
    assert capsys.readouterr() == ("", printed)


def test_an_error_that_another_rank_prints_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is the same."""
    error = InputError("DATASET_DIR is empty")
    error.reported_by_another_rank = True
    failing_command(monkeypatch, error)
    assert main(["report"]) == 2
    assert capsys.readouterr() == ("", "")


def test_defects_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that users cannot fix keeps its traceback."""
    failing_command(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["report"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["pretain"], "pretrain"),
        (["frobnicate"], "doctor"),
        (["pretrain"], "--output-dir"),
        (["pretrain", "--dataset-dir"], "--dataset-dir"),
        (["recipes", "--precison", "bf16"], "--precision"),
        (["bench", "step", "--round", "3"], "--rounds"),
        (["recipes", "intell"], "intel?"),
        (["recipes", "intel", "mlperf-256"], "mlperf-256"),
        (["--verion"], "--version"),
    ],
)
def test_wrong_usage_is_one_line_with_the_nearest_name(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "error: " in line and named in line


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here() == 2
    assert set(COMMANDS) <= set(capsys.readouterr().err.split())


@pytest.mark.parametrize("words", [("prepare", "--help"), ("recipes",)])
def test_an_output_stream_that_takes_ascii_only(words: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-m", "bert_large", *words], capture_output=True, check=False, timeout=60,
                          env=process_environment(PYTHONIOENCODING="ascii"))  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"") and done.stdout.isascii()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    printed = capsys.readouterr().out
    assert caught.value.code == 0
    assert COMMANDS[command][1] in " ".join(printed.split())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"bert-large {__version__}\n"


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """One line per phase: model, phase, batch, rate, steps, purpose."""
    assert main(["recipes"]) == 0
    header, *lines = (line.split(maxsplit=7) for line in capsys.readouterr().out.splitlines())
    assert header == ["recipe", "model", "phase", "batch", "rate", "steps", "for"]
    assert list(dict.fromkeys(line[0] for line in lines)) == recipe_names()
    assert [line[1:6] for line in lines if line[0] == "bert-base"] == [
        ["BERT-base", "1", "256", "0.0001", "900000"], ["BERT-base", "2", "256", "1e-05", "100000"],
    ]  # fmt: skip
    assert main(["recipes", "--precision", "bf16"]) == 0
    bf16 = [line.split()[:4] for line in capsys.readouterr().out.splitlines()]
    assert ["intel", "BERT-large", "1", "448"] in bf16 and ["intel", "BERT-large", "2", "56"] in bf16


def test_a_recipe_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Its description, and every setting with its origin."""
    assert main(["recipes", "nvidia-phase1"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0].startswith("nvidia-phase1: NVIDIA's LAMB") and any("DeepLearningExamples" in line for line in lines)
    for line in ("warmup_steps 2001 recipe nvidia-phase1", "total_steps 7038 max_steps", "seed 42 default"):
        assert line in lines


def test_as_a_module() -> None:
    """`python -m bert_large` returns the exit code."""
    done = run_process("recipes")
    assert (done.returncode, done.stderr) == (0, "") and "intel" in done.stdout
    assert run_process("report", "nowhere", "--output-file", "x.html").returncode == 2


@pytest.mark.parametrize(("argument", "code"), [("recipes", 0), ("--version", 0), ("recipe", 2)])
@pytest.mark.parametrize("ranks", ["1", "2"])
def test_ranks_end_without_cleaning_up(argument: str, code: int, ranks: str) -> None:
    """What a thread of the backend does after that cannot abort the process; its output and exit code are the same."""
    program = f"""
import atexit, sys
from bert_large.cli import run_and_exit
atexit.register(print, "cleaned up", file=sys.stderr)
sys.argv = ["bert-large", {argument!r}]
run_and_exit()
"""
    environment = process_environment(WORLD_SIZE=ranks)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert bool(done.stdout) == (code == 0)
    assert ("cleaned up" in done.stderr) == (ranks == "1")


def test_no_help_imports_torch() -> None:
    """Importing it takes seconds. The help of `kernels` does, as it is in the engine's package."""
    program = (
        "import sys; from bert_large.cli import COMMANDS, build_parser\n"
        "for name in COMMANDS.keys() - {'kernels'}: build_parser(name); assert 'torch' not in sys.modules, name"
    )
    done = subprocess.run([sys.executable, "-c", program], env=process_environment(), stderr=subprocess.PIPE,
                          text=True, check=False, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_process_1_ends_at_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's first process has no default for SIGTERM: without a handler a stop would wait for the kill."""
    ended: list[int] = []
    before = signal.getsignal(signal.SIGTERM)
    failing_command(monkeypatch, 0)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(os, "_exit", ended.append)
    try:
        assert main(["report"]) == 0
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended == [143]
