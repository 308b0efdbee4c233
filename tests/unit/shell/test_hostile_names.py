"""Values with special characters of the shell arrive unchanged or are refused; none of them is run as a command."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from .sandbox import Call, Sandbox

PHASE_1 = "quickstart/run_bert_pretrain_phase1.sh"
PATHS = ("OUTPUT_DIR", "DATASET_DIR", "EVAL_DIR", "CHECKPOINT_DIR", "RESUME", "CONFIG_FILE", "VOCAB_FILE")
TEXTS = ("MLPERF_SUBMITTER", "MLPERF_PLATFORM", "MLPERF_LOG")
ONE_LINE = [
    "$(touch injected)", "`touch injected`", "; touch injected;", "&& touch injected", "| touch injected",
    "a'b", 'a"b', '",target=elsewhere,"', "a\\b", "*", "?[a]", "{a,b}", "~", "${HOME}", "$HOME", "!!", "#a",
    "-rf", "--overwrite", "--privileged", "a=", "=", "a:b", "a,readonly", " a  b ", "%s%n", "ä€",
]  # fmt: skip
WITH_CONTROL_CHARACTERS = ["line\nbreak", "trailing\n", "\nleading", "carriage\rreturn", "tab\t", "\x1b[2J"]


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path) -> Iterator[None]:
    """Fail a test in which a value was run as a command."""
    yield
    assert list(tmp_path.rglob("injected")) == []


def give_paths(sandbox: Sandbox, name: str, *, relative: bool = False) -> dict[str, str]:
    """Set every path to one of that name, in a folder of the variable's or right where the script runs."""
    paths = {}
    for variable in PATHS:
        make = sandbox.file if variable.endswith("_FILE") else sandbox.folder
        paths[variable] = make(name if relative and variable == "DATASET_DIR" else f"{variable}/{name}")
    sandbox.variables |= paths
    if relative:
        sandbox.variables["DATASET_DIR"] = name
    return paths


def mounts(call: Call) -> set[tuple[str, ...]]:
    """Return the fields of every mount, read as the engines read them: a record of CSV."""
    return {tuple(row) for mount in call.values("--mount") for row in csv.reader([mount], strict=True)}


@pytest.mark.parametrize("name", ONE_LINE + WITH_CONTROL_CHARACTERS)
def test_paths_reach_the_trainer(phase_1: Sandbox, name: str) -> None:
    paths = give_paths(phase_1, name)
    parsed = vars(phase_1.succeed(PHASE_1).parse())
    assert {variable: str(parsed[variable.lower()]) for variable in PATHS} == paths


@pytest.mark.parametrize("name", [name for name in ONE_LINE if name != "~"])
def test_paths_reach_the_container(docker: Sandbox, name: str) -> None:
    paths = give_paths(docker, name)
    call = docker.succeed("run.sh")
    assert {variable: call.environment[variable] for variable in PATHS} == paths
    assert set(PATHS) <= set(call.values("--env"))
    assert mounts(call) == {
        ("type=bind", f"source={path}", f"target={path}", *(["readonly"] if variable != "OUTPUT_DIR" else []))
        for variable, path in paths.items()
    }


@pytest.mark.parametrize("name", WITH_CONTROL_CHARACTERS)
@pytest.mark.parametrize("variable", ["OUTPUT_DIR", "CONFIG_FILE"])
def test_paths_that_no_container_can_have_are_refused(docker: Sandbox, variable: str, name: str) -> None:
    """An engine would mount another path, one that ends at the line break."""
    make = docker.folder if variable == "OUTPUT_DIR" else docker.file
    docker.variables[variable] = make(name)
    line = docker.refuse("run.sh")
    assert line.startswith(f"run.sh: error: {variable}=") and "control character" in line and line.isprintable()


@pytest.mark.parametrize("name", ["-rf", "--overwrite", "-", "--", "~", "*", "a=", "none", "auto"])
@pytest.mark.parametrize("script", [PHASE_1, "run.sh"])
def test_relative_paths(docker: Sandbox, script: str, name: str) -> None:
    give_paths(docker, name, relative=True)
    call = docker.succeed(script)
    found = call.environment["DATASET_DIR"] if script == "run.sh" else str(call.parse().dataset_dir)
    assert (docker.directory / found).samefile(docker.directory / name)


@pytest.mark.parametrize("text", ONE_LINE + WITH_CONTROL_CHARACTERS)
def test_texts_arrive(docker: Sandbox, text: str) -> None:
    docker.variables |= dict.fromkeys(TEXTS, text)
    trainer, container = vars(docker.succeed(PHASE_1).parse()), docker.succeed("run.sh")
    assert {str(trainer[variable.lower()]) for variable in TEXTS} == {text}
    assert {container.environment[variable] for variable in TEXTS} == {text}
    assert set(TEXTS) <= set(container.values("--env"))
    assert text not in container.arguments


@pytest.mark.parametrize(
    "written",
    ["--label 'a=$(touch injected)'", '--label "a=`touch injected`"', "--label a=* ; touch injected",
     "--label a\n--label b", "--label 'a=${HOME}' && touch injected", "--label ~ --label {a,b}"],
)  # fmt: skip
def test_docker_args_are_words_only(docker: Sandbox, written: str) -> None:
    docker.variables["DOCKER_ARGS"] = written
    words = shlex.split(written)
    assert docker.succeed("run.sh").arguments[-2 - len(words) : -2] == words


@pytest.mark.parametrize(
    "variable",
    ["NNODES", "RANKS_PER_NODE", "TRAINING_PHASE", "PRECISION", "SCRIPT", "BENCHMARK", "DDP", "ALLOCATOR", "RUNTIME"],
)
@pytest.mark.parametrize("value", ["a[$(touch injected)]", "1\n2; touch injected", "$(touch injected)"])
def test_words_are_chosen_not_evaluated(docker: Sandbox, variable: str, value: str) -> None:
    """Bash evaluates what stands in arithmetic, subscripts and all."""
    docker.variables[variable] = value
    assert f"{variable}=" in docker.refuse("run.sh")


@pytest.mark.parametrize("value", ["$(touch injected)", "a b", "a\n; touch injected", "-t", "*"])
def test_build_arguments(sandbox: Sandbox, value: str) -> None:
    sandbox.fake("docker")
    sandbox.variables |= {"BASE_IMAGE": value, "PIP_INDEX_URL": value}
    call = sandbox.succeed("build.sh")
    assert f"BASE_IMAGE={value}" in call.values("--build-arg")
    assert call.environment["PIP_INDEX_URL"] == value


def test_a_colon_in_model_dir(phase_1: Sandbox) -> None:
    phase_1.folder("a:b/models/bert_large")
    phase_1.variables["MODEL_DIR"] = str(phase_1.directory / "a:b")
    assert "has a colon" in phase_1.refuse(PHASE_1)
