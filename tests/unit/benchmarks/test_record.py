"""The dated record: its commands, the verdicts on goals, the machine, and the file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import record
from bert_large.cli import build_parser
from bert_large.errors import InputError, UserError
from record import BENCHMARKS, GOALS, Goal, Machine, read_commit

RESULTS: dict[str, Any] = {
    "engine": "eager", "precision": "fp32", "dropout": 0.1, "compared": ["hugging_face"],
    "step_over_gemm": {"median": 1.09, "quartiles": [1.08, 1.10]},
    "hugging_face_over_gemm": {"median": 1.45, "quartiles": [1.44, 1.46]},
    "gemm_gflops_per_second": {"median": 200.0, "quartiles": [199.0, 201.0]},
    "sequences_per_second": {"median": 4.0, "quartiles": [3.9, 4.1]},
    "hugging_face_sequences_per_second": {"median": 2.0, "quartiles": [1.0, 3.0]},
    "over_hugging_face": {"median": 2.0, "quartiles": [1.95, 2.05]},
    "optimizer_over_bound": {"median": 1.25, "quartiles": [1.0, 1.5]},
    "clip_and_optimizer_over_bound": {"median": 1.5, "quartiles": [1.49, 1.51]},
    "data_wait_share": 0.004, "peak_memory_bytes": 13 * 2**30, "nonlinearity": 0.06,
    "not_comparable": {"hugging_face_compile": "5 of 6 gradients are missing"},
}  # fmt: skip


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replace running a benchmark by fixed results; return the commands that would have run."""
    commands: list[list[str]] = []

    def run(command: list[str]) -> dict[str, Any]:
        commands.append(list(command))
        precision = next(word.split("=")[1] for word in command if word.startswith("--precision="))
        return RESULTS | {"precision": precision}

    monkeypatch.setattr(record, "_run", run)
    return commands


def rows(path: Path) -> dict[str, list[str]]:
    """Return the cells of every table row of a record, by the first one."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)}


def test_the_record(ran: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert record.main(["--output-dir", str(tmp_path / "new"), "--engine", "eager"]) == 0
    printed = capsys.readouterr()
    path = Path(printed.out.strip())
    assert path.parent == tmp_path / "new" and path.suffix == ".md"
    found = rows(path)
    assert found["encoder, 128 tokens x 16, over its matrix products"] == [
        "1.09 (1.08 to 1.1)", "≤ 1.08", "**missed**",
    ]  # fmt: skip
    assert found["phase 1, sequences/s over Hugging Face's padded eager model"] == ["2 (1.95 to 2.05)", "≥ 1.6", "met"]
    assert found["phase 2, sequences/s over Hugging Face's padded eager model"][-1] == "**missed**"
    assert found["phase 1, waiting for data, share of the step"] == ["0.400 %", "≤ 1 %", "met"]
    assert found["LAMB over its memory traffic"] == ["unsteady, 1 to 1.5", "≤ 1.3", "not measured: unsteady"]
    assert found["24 layers, micro-batches of 4096 tokens, peak memory"][0] == "13.000 GiB"
    assert found["`hugging_face`, encoder, 512 tokens x 4, over its matrix products"] == ["1.45 (1.44 to 1.46)"]
    assert found["`eager`, phase 1, sequences/s"] == ["4 (3.9 to 4.1)"]
    assert found["`hugging_face`, phase 2, sequences/s"] == ["unsteady, 1 to 3"]
    assert found["`eager` over `hugging_face`, phase 2"] == ["2 (1.95 to 2.05)"]
    assert found["`hugging_face_compile`, `train_2`"] == ["not comparable: 5 of 6 gradients are missing"]
    text = path.read_text(encoding="utf-8")
    commands = [f"bert-large {' '.join(command)}" for command in ran]
    commands = [line.replace("bert-large ", "python benchmarks/") if ".py " in line else line for line in commands]
    assert printed.err.splitlines() == commands
    assert "```bash\n" + "\n".join(commands) + "\n```" in text
    blocks = [json.loads(part.split("\n```")[0]) for part in text.split("```json\n")[1:]]
    assert len(blocks) == len(BENCHMARKS) and blocks[0]["step_over_gemm"]["median"] == 1.09
    for heading in ("## Machine", "- CPU: ", "- commit: ", "- memory: ", "## Caveats", "## All results"):
        assert heading in text


def test_a_second_record_of_the_day_does_not_replace_the_first(ran: list[list[str]], tmp_path: Path) -> None:
    options = {"engine": "eager", "precision": "fp32"}
    first, second = (record.write_record(tmp_path, options) for _ in range(2))
    assert second.name == f"{first.stem}-2.md" and first.is_file() and second.is_file()


def test_goals_are_for_fp32(ran: list[list[str]], tmp_path: Path) -> None:
    found = rows(record.write_record(tmp_path, {"precision": "bf16"}))
    assert all(found[goal.what][-1] == "" for goal in GOALS)


def test_values_that_were_not_measured(ran: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RESULTS, "compared", [])
    monkeypatch.delitem(RESULTS, "over_hugging_face")
    found = rows(record.write_record(tmp_path, {"precision": "fp32", "compare": []}))
    assert found["phase 1, sequences/s over Hugging Face's padded eager model"][0] == "not measured"


def test_every_command_of_the_set_is_understood(ran: list[list[str]], tmp_path: Path) -> None:
    """Common options apply to all; the memory run keeps its single round and comparison, scripts compare nothing."""
    options = {"engine": "eager", "precision": "bf16", "rounds": 5, "compare": ["native", "hugging-face"]}
    record.write_record(tmp_path, options)
    commands = dict(zip(BENCHMARKS, ran, strict=True))
    common = ["--engine=eager", "--precision=bf16", "--rounds=5", "--json"]
    assert commands.pop("tokens") == ["tokens.py", "--layers=2", *common]
    assert commands.pop("optimizer") == ["optimizer.py", "--layers=12", *common]
    parsed = {name: build_parser("bench").parse_args(command) for name, command in commands.items()}
    assert {name: words.rounds for name, words in parsed.items()} == dict.fromkeys(commands, 5) | {"memory": 1}
    assert all(words.precision == "bf16" and words.json for words in parsed.values())
    compared = {name: words.compare for name, words in parsed.items()}
    assert compared.pop("memory") == [] and list(compared.values()) == [["native", "hugging-face"]] * 4


def test_goals_are_of_benchmarks_of_the_set() -> None:
    assert {goal.benchmark for goal in GOALS} == set(BENCHMARKS)


def test_wrong_options(ran: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match=str(file)):
        record.main(["--output-dir", str(file)])
    with pytest.raises(SystemExit):
        record.main(["--precision", "fp8", "--rounds", "nan"])
    message = capsys.readouterr().err
    assert "fp8" in message and "nan" in message and not ran


@pytest.mark.parametrize(
    ("at_least", "result", "said"),
    [
        (False, 2.0, "met"), (False, 2.1, "**missed**"), (True, 2.0, "met"), (True, 1.9, "**missed**"),
        (False, {"median": 2.0, "quartiles": [1.95, 2.1]}, "met"),
        (False, {"median": 2.1, "quartiles": [1.95, 2.15]}, "**missed**"),
        (False, {"median": 1.0, "quartiles": [0.9, 1.1]}, "not measured: unsteady"),
    ],
)  # fmt: skip
def test_judgement(at_least: bool, result: Any, said: str) -> None:
    assert Goal("what", "step_128", "key", 1.0, at_least=at_least, scale=2.0).judge(result) == said


def test_a_failing_benchmark_leaves_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "BENCHMARKS", {"step_128": ("bench", "step", "--seq-len=4")})
    with pytest.raises(UserError, match=r"bench step --seq-len=4 .*exit code 2"):
        record.write_record(tmp_path, {"precision": "fp32"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("cpu", "slug"),
    [
        ("Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz", "intel-xeon-platinum-8480-56-cores"),
        ("AMD EPYC 9654 96-Core Processor", "amd-epyc-9654-96-core-56-cores"),
        ("", "cpu-56-cores"),
    ],
)
def test_slug(cpu: str, slug: str) -> None:
    values = Machine.read().__dict__ | {"cpu": cpu, "cores": 56}
    assert Machine(**values).slug == slug


def test_commit(tmp_path: Path) -> None:
    assert read_commit(tmp_path).startswith("unknown (version ")
    identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
    for arguments in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    commit = read_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "new").write_text("")
    assert read_commit(tmp_path) == f"{commit} with local changes"
