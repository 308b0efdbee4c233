"""The container engine that run.sh chooses, and its options that differ between engines."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from .sandbox import Sandbox, mount


def test_without_an_engine_the_error_names_the_native_runtime(phase_1: Sandbox) -> None:
    error = phase_1.refuse("run.sh")
    assert all(text in error for text in ("docker is not installed", "podman is not installed", "RUNTIME=native"))


def test_an_engine_that_does_not_answer(phase_1: Sandbox) -> None:
    phase_1.fake("docker", "sys.exit('Cannot connect' if sys.argv[1] == 'version' else 0)")
    error = phase_1.refuse("run.sh")
    assert "docker does not answer" in error
    assert "RUNTIME=native" in error


def test_the_engine_that_answers_is_taken(phase_1: Sandbox) -> None:
    phase_1.fake("docker", "sys.exit(sys.argv[1] == 'version')")
    phase_1.fake("podman")
    call = phase_1.succeed("run.sh")
    assert (call.tool, call.value("--user")) == ("podman", f"{os.getuid()}:{os.getgid()}")


def test_a_chosen_engine_is_the_only_one_tried(docker: Sandbox) -> None:
    docker.variables["CONTAINER_ENGINE"] = "podman"
    assert "podman is not installed" in docker.refuse("run.sh")
    docker.fake("podman")
    assert docker.succeed("run.sh").tool == "podman"
    assert docker.calls("docker") == []


@pytest.mark.parametrize(("uid", "expected"), [(0, []), (1234, ["keep-id"])])
def test_podman_keeps_the_callers_uid(docker: Sandbox, uid: int, expected: list[str]) -> None:
    docker.fake("podman")
    docker.fake("id", f"print({uid})")
    docker.variables["CONTAINER_ENGINE"] = str(docker.bin / "podman")
    call = docker.succeed("run.sh")
    assert call.values("--userns") == expected
    assert call.value("--user") == f"{uid}:{uid}"
    docker.variables["CONTAINER_ENGINE"] = "docker"
    assert docker.succeed("run.sh").values("--userns") == []


def test_in_rootless_docker_the_caller_is_its_root(phase_1: Sandbox) -> None:
    phase_1.fake("docker", "sys.argv[1] == 'info' and print('[name=seccomp,profile=builtin name=rootless]')")
    assert phase_1.succeed("run.sh").value("--user") == "0:0"


@pytest.mark.parametrize(
    ("engine", "uid", "expected"),
    [("docker", 1234, ["55", "66"]), ("podman", 1234, ["keep-groups"]), ("podman", 0, ["55", "66"])],
)
def test_supplementary_groups_are_kept(phase_1: Sandbox, engine: str, uid: int, expected: list[str]) -> None:
    phase_1.fake(engine)
    phase_1.variables["CONTAINER_ENGINE"] = engine
    phase_1.fake("id", f"print('{uid} 55 66' if sys.argv[1] == '-G' else {uid})")
    call = phase_1.succeed("run.sh")
    assert (call.tool, call.values("--group-add")) == (engine, expected)


def test_podman_gets_limits_that_the_caller_has(docker: Sandbox) -> None:
    """Its own are higher; above the largest process id none may be set."""
    docker.fake("podman")
    docker.variables["CONTAINER_ENGINE"] = "podman"
    files, processes = (resource.getrlimit(name)[1] for name in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC))
    expected = [] if files == resource.RLIM_INFINITY else [f"nofile={files}:{files}"]
    if processes != resource.RLIM_INFINITY:
        most = min(processes, int(Path("/proc/sys/kernel/pid_max").read_text()))
        expected.append(f"nproc={most}:{most}")
    assert docker.succeed("run.sh").values("--ulimit") == expected
    docker.variables["CONTAINER_ENGINE"] = "docker"
    assert docker.succeed("run.sh").values("--ulimit") == []


def test_podman_without_catatonit_says_so(docker: Sandbox) -> None:
    """Before it starts anything."""
    docker.fake("podman", "sys.exit('Error: stat catatonit: no such file' if sys.argv[1] == 'create' else 0)")
    docker.variables["CONTAINER_ENGINE"] = "podman"
    assert "catatonit" in docker.refuse("run.sh")


def test_podman_s_health_checks_need_systemd(docker: Sandbox) -> None:
    docker.fake("podman")
    docker.variables["CONTAINER_ENGINE"] = "podman"
    call = docker.succeed("run.sh")
    assert ("--no-healthcheck" in call.arguments) == (not Path("/run/systemd/system").is_dir())


@pytest.mark.parametrize("engine", ["apptainer", "singularity"])
def test_apptainer_runs_an_image_file(docker: Sandbox, engine: str) -> None:
    """With the same paths; variables have the prefix that this engine passes on."""
    docker.fake(engine)
    docker.variables |= {"CONTAINER_ENGINE": engine, "IMAGE_NAME": docker.file("bert large.sif"), "SEED": "a,b c"}
    call = docker.succeed("run.sh", "--no-shuffle")
    assert (call.tool, call.arguments[0]) == (engine, "exec")
    assert call.arguments[-3:] == [
        docker.variables["IMAGE_NAME"], "/workspace/bert-large/quickstart/run_bert_pretrain_phase1.sh", "--no-shuffle",
    ]  # fmt: skip
    assert mount(docker.variables["OUTPUT_DIR"]) in call.values("--mount")
    assert mount(docker.variables["DATASET_DIR"], ",readonly") in call.values("--mount")
    assert call.environment[f"{engine.upper()}ENV_SEED"] == "a,b c"
    assert "--cleanenv" in call.arguments


def test_a_missing_image_file_is_named(docker: Sandbox) -> None:
    docker.fake("apptainer")
    docker.variables |= {"CONTAINER_ENGINE": "apptainer", "IMAGE_NAME": "/no/such.sif"}
    assert "IMAGE_NAME=/no/such.sif" in docker.refuse("run.sh")
