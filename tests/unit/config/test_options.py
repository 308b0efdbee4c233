"""Options, variables, checks and help that derive from the fields of a dataclass."""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bert_large.cli import environment_words
from bert_large.config.options import (
    FROM_ENVIRONMENT,
    CommandParser,
    add_settings,
    check_fields,
    setting,
    settings_of,
)
from bert_large.errors import InputError

PROJECT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One field of each kind."""

    folder: Path = setting(text="a folder", alternative="text")
    text: Path | None = setting(None, "in place of the folder")
    count: int = setting(3, "how many", within="[1, 100]", variable="COUNT", aliases=("count",))
    rate: float = setting(0.5, "how fast", within="(0, inf)", unit="Hz")
    limit: float | None = setting(None, "100% at most", deferred=True)
    color: str = setting("red", "which", choices=("red", "dark-blue"))
    flag: bool = setting(False, "switch", variable="")
    option: bool = setting(False, "switch with a variable")
    maybe: bool | None = setting(None, "true, false or neither")
    later: bool = setting(False, "a recipe may set it", deferred=True)
    order: bool = setting(True, "in file order", option="no-order")

    def __post_init__(self) -> None:
        check_fields(self)


def parse(*words: str) -> argparse.Namespace:
    parser = CommandParser(prog="example")
    add_settings(parser, Example)
    return parser.parse_args(words)


def values(*words: str) -> dict[str, Any]:
    return {name: value for name, value in vars(parse("--folder=f", *words)).items() if value is not None}


def error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        parse(*words)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_defaults_and_options() -> None:
    defaults = {"folder": Path("f"), "count": 3, "rate": 0.5, "color": "red", "flag": False, "option": False,
                "no_order": False, "from_environment": False}  # fmt: skip
    assert values() == defaults | {"origins": {"folder": "option"}}
    words = ("--count=7", "--rate=2", "--limit=-1e3", "--color=Dark-Blue", "--flag", "--option", "--no-maybe",
             "--later", "--no-order")  # fmt: skip
    given = {"count": 7, "rate": 2.0, "limit": -1000.0, "color": "dark-blue", "flag": True, "option": True,
             "maybe": False, "later": True, "no_order": True}  # fmt: skip
    parsed = values(*words)
    assert parsed.pop("origins") == dict.fromkeys(("folder", *given), "option")
    assert parsed == defaults | given
    assert values("--later", "false", "--no-option", "--count", "5.0")["count"] == 5


def test_variables_are_read_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"COUNT": "9", "RATE": "", "OPTION": "yes", "MAYBE": "0", "NO_ORDER": "true", "COLOR": "RED",
                        "FLAG": "1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert values()["count"] == 3
    parsed = values(FROM_ENVIRONMENT, "--count=4")
    assert [parsed[name] for name in ("count", "rate", "option", "maybe", "no_order", "color", "flag")] == [
        4, 0.5, True, False, True, "red", False,
    ]  # fmt: skip
    assert parsed["origins"] == {"folder": "option", "count": "option"} | dict.fromkeys(
        ("option", "maybe", "no_order", "color"), "variable"
    )
    monkeypatch.delenv("COUNT")
    monkeypatch.setenv("count", "8")
    assert values(FROM_ENVIRONMENT)["count"] == 8


def test_all_problems_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLOR", "green")
    line = error(capsys, "--count=0", "--rate=nan", "--limit=x", "--colour=red", FROM_ENVIRONMENT)
    for part in ("--folder", "--count is 0", "--rate is nan", "--limit is 'x'", "COLOR is 'green'", "dark-blue",
                 "--colour (did you mean --color?)"):  # fmt: skip
        assert part in line


@pytest.mark.parametrize("word", ["--count=101", "--count=1e30", "--count=2.5", "--rate=inf", "--rate=1e39",
                                  "--rate=0", "--limit=-inf", "--later=perhaps", "--color=", "--cou=5"])  # fmt: skip
def test_a_wrong_value_is_named(capsys: pytest.CaptureFixture[str], word: str) -> None:
    assert word.partition("=")[0] in error(capsys, "--folder=f", word)


def test_alternatives(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly one of both; an option replaces a variable."""
    assert parse("--text=t").folder is None
    assert "--folder and --text" in error(capsys, "--folder=f", "--text=t")
    assert "--folder or --text" in error(capsys)
    monkeypatch.setenv("FOLDER", "f")
    parsed = parse("--text=t", FROM_ENVIRONMENT)
    assert (parsed.folder, parsed.text) == (None, Path("t"))
    monkeypatch.setenv("TEXT", "t")
    assert "FOLDER and TEXT" in error(capsys, FROM_ENVIRONMENT)


def test_checks_of_several_settings(capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser(prog="example")
    add_settings(parser, Example)
    parser.checks.append(lambda arguments: [f"count {arguments.count} and rate {arguments.rate} do not fit"])
    with pytest.raises(SystemExit):
        parser.parse_args(["--folder=f", "--rate=0"])
    line = capsys.readouterr().err
    assert "--rate is 0" in line and "count 3 and rate None do not fit" in line


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"count": 2.0}, {"count": True}, {"count": None}, {"rate": math.inf}, {"rate": "1"},
              {"color": "green"}, {"flag": 1}],
)  # fmt: skip
def test_a_configuration_made_in_code_is_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"--{next(iter(wrong))} is "):
        Example(**{"folder": Path("f"), **wrong})


def test_help_has_default_values_unit_and_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    printed = " ".join(capsys.readouterr().out.split())
    for part in ("how fast (in Hz; default: 0.5; variable RATE)", "which (red, dark-blue; default: red", "100% at most",
                 "a folder (required, or --text; variable FOLDER)"):  # fmt: skip
        assert part in printed


def test_variables_as_options_for_other_programs() -> None:
    variables = {"FOLDER": "-rf", "COUNT": "x", "OPTION": "1", "MAYBE": "false", "LATER": "true", "NO_ORDER": "0"}
    assert environment_words(settings_of(Example), variables) == [
        "--folder=-rf", "--count=x", "--option", "--no-maybe", "--later=true",
    ]  # fmt: skip


def test_generated_files_are_current() -> None:
    """docs/settings.md and quickstart/variables.sh."""
    done = subprocess.run([sys.executable, PROJECT / ".ci/settings.py", "--check"], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
