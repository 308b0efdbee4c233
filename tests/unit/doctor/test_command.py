"""`bert-large doctor`: its output and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bert_large.doctor.finding import OK, WARNING, Finding, render

from tests.support.models import write_config
from tests.support.records import make_records, write_folder
from tests.support.runs import run_here


def test_the_table() -> None:
    findings = [Finding(OK, "CPU", "a Xeon"), Finding(WARNING, "open files", "256", "ulimit -n 2048")]
    assert render(findings).splitlines() == [
        "ok       CPU         a Xeon",
        "warning  open files  256",
        "                     -> ulimit -n 2048",
        "1 ok, 1 warning, 0 problem",
    ]


def test_every_warning_needs_a_remedy() -> None:
    with pytest.raises(AssertionError):
        Finding(WARNING, "CPU", "slow")


def test_a_machine_that_is_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON, for a tiny model and data of phase 1; then with a data folder that does not exist."""
    write_folder(tmp_path / "data/seq_128", make_records(4))
    arguments = ["doctor", "--json", "--config-file", str(write_config(tmp_path / "config.json")), "--phase", "1"]
    assert run_here(*arguments, "--dataset-dir", str(tmp_path / "data"), "--output-dir", str(tmp_path / "new")) == 0
    findings = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"level", "topic", "found", "remedy"} == set(findings[0])
    topics = {finding["topic"] for finding in findings}
    assert topics >= {"CPU", "precision", "cores", "ranks", "packages", "native kernels", "OpenMP", "allocator",
                      "memory", "huge pages", "shared memory", "open files", "container engine",
                      "output folder", "disk", "data, phase 1"}  # fmt: skip
    assert run_here(*arguments, "--dataset-dir", str(tmp_path / "none")) == 1
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [finding["topic"] for finding in found if finding["level"] == "problem"] == ["data, phase 1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int8"], "int8"),
        (["--micro-batch-tokens", "0"], "--micro-batch-tokens is 0"),
        (["--micro-batch-tokens", "1e30"], "--micro-batch-tokens is "),
        (["--ranks", "-1"], "--ranks is -1"),
        (["--ranks", "nan"], "--ranks is 'nan'"),
        (["--phase", "3"], "--phase is 3"),
        (["--config-file", "/no/such.json"], "/no/such.json"),
    ],
)
def test_wrong_options(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("doctor", *arguments) == 2
    assert message in capsys.readouterr().err
