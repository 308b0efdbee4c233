"""Jobs under Slurm on two nodes of this machine: the same run as without Slurm, also when it is preempted."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.runs import (
    PROJECT,
    Task,
    assert_same_losses,
    process_environment,
    step_rows,
    wait_for_steps,
)
from tests.support.slurm import Cluster, missing_requirements, running_cluster

pytestmark = pytest.mark.slow

JOB = "jobs/slurm/pretrain.sh"
README = PROJECT / "jobs" / "slurm" / "README.md"
SLOW = {"TRAIN_SCRIPT": str(PROJECT / "tests" / "support" / "slow_steps.py"), "MAX_STEPS": "60"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster; without one tests are skipped, or fail with REQUIRE_SLURM=1."""
    missing = missing_requirements()
    if missing:
        reason = f"a Slurm cluster needs {', '.join(missing)}"
        pytest.fail(reason) if os.environ.get("REQUIRE_SLURM") == "1" else pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield stack.enter_context(running_cluster(folder))


def variables(task: Task, output: Path, **changes: str) -> dict[str, str]:
    """Return the variables that a user exports before `sbatch` for the task, without evaluation."""
    return process_environment() | {
        "RUNTIME": "native",
        "PYTHON": sys.executable,
        "PRECISION": "fp32",
        "OUTPUT_DIR": str(output),
        "DATASET_DIR": str(task.dataset_dir),
        "CONFIG_FILE": str(task.config_file),
        "EVAL_DIR": "none",
        "BATCH_SIZE": str(task.settings["global_batch_size"]),
        "MAX_STEPS": str(task.settings["max_steps"]),
        "LEARNING_RATE": str(task.settings["learning_rate"]),
        "WARMUP_STEPS": str(task.settings["warmup_steps"]),
        "MICRO_BATCH_TOKENS": str(task.settings["micro_batch_tokens"]),
        "RANKS_PER_NODE": "1",
        "GLOO_SOCKET_IFNAME": "lo",  # both nodes are on this machine
        **changes,
    }


def submit(cluster: Cluster, settings: dict[str, str], *options: str, check: bool = True) -> tuple[str, int]:
    """Submit the job from the project's folder; return its number and, after `--wait`, its exit code."""
    log = f"--output={settings['OUTPUT_DIR']}.log"
    command = ["sbatch", "--parsable", log, *options, JOB, "--data-workers", "0"]
    done = cluster.run(*command, variables=settings, check=check)
    return done.stdout.strip(), done.returncode


def start(cluster: Cluster, settings: dict[str, str], *options: str, steps: int = 10) -> str:
    """Submit the job and return its number when it has run some steps."""
    job, _ = submit(cluster, settings, *options)
    wait_for_steps(Path(settings["OUTPUT_DIR"]), steps)
    return job


def steps_resumed_after(output: Path) -> list[int]:
    """Return the steps after which a run was resumed."""
    return [int(step) for step in re.findall(r"resuming after step (\d+) from", (output / "train.log").read_text())]


def test_two_nodes_are_one_run(cluster: Cluster, task: Task, tmp_path: Path) -> None:
    """With one rank per node, the losses are those of one rank without Slurm."""
    settings = variables(task, tmp_path / "two", SRUN_ARGS="--label")
    _, code = submit(cluster, settings, "--nodes=2", "--wait", check=False)
    log = Path(f"{tmp_path}/two.log").read_text()
    assert code == 0, log
    assert re.search(r"^0: .*step 1/", log, re.MULTILINE)  # by --label
    assert "2 ranks over" in (tmp_path / "two" / "train.log").read_text()
    assert_same_losses(tmp_path / "two", task.run(tmp_path / "one", eval_dir="none"))


@pytest.mark.parametrize("nodes", [1, 2])
def test_preempted(cluster: Cluster, task: Task, tmp_path: Path, nodes: int) -> None:
    """By a job of a higher partition: it saves after the current step, waits, and ends as an undisturbed run."""
    output = tmp_path / "preempted"
    job = start(cluster, variables(task, output, **SLOW, SAVE_EVERY="1000"), f"--nodes={nodes}")
    other = cluster.run("sbatch", "--parsable", "--partition=high", "--nodes=2", "--output=/dev/null", "--wrap=true")
    cluster.wait_for(other.stdout.strip(), "COMPLETED")
    done_before = len(step_rows(output))
    ended = cluster.wait_for(job, "COMPLETED", "FAILED")
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), Path(f"{output}.log").read_text()
    assert steps_resumed_after(output) == [done_before]
    assert 10 <= done_before < 60
    assert_same_losses(output, task.run(tmp_path / "whole", max_steps=60, eval_dir="none"))


def test_requeued_by_force(cluster: Cluster, task: Task, tmp_path: Path) -> None:
    """Killed without time to save, it resumes from its last checkpoint; no step is recorded twice."""
    output = tmp_path / "killed"
    job = start(cluster, variables(task, output, **SLOW, SAVE_EVERY="7"), "--nodes=2")
    cluster.run("scontrol", "requeue", job)
    ended = cluster.wait_for(job, "COMPLETED", "FAILED")
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), Path(f"{output}.log").read_text()
    assert len(steps_resumed_after(output)) == 1
    assert_same_losses(output, task.run(tmp_path / "whole", max_steps=60, eval_dir="none"))


def test_cancelled(cluster: Cluster, task: Task, tmp_path: Path) -> None:
    """By the user: it is not requeued."""
    job = start(cluster, variables(task, tmp_path / "out", **SLOW))
    cluster.run("scancel", job)
    assert cluster.wait_for(job, "CANCELLED")["Restarts"] == "0"


def test_a_wrong_variable_fails_at_once(cluster: Cluster, task: Task, tmp_path: Path) -> None:
    """Jobs that depend on it leave the queue."""
    settings = variables(task, tmp_path / "out", DATASET_DIR="/nowhere")
    job, code = submit(cluster, settings, "--wait", check=False)
    assert code == 2
    log = Path(f"{tmp_path}/out.log").read_text()
    assert "error: DATASET_DIR" in log and "/nowhere" in log
    assert cluster.job(job)["Restarts"] == "0"
    waiting, _ = submit(cluster, settings, f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes")
    assert cluster.wait_for(waiting, "CANCELLED", "FAILED")["JobState"] == "CANCELLED"


def test_commands_of_the_readme(cluster: Cluster, task: Task, tmp_path: Path) -> None:
    """Both phases, the second after the first, with a setting of its own."""
    block, *_ = re.findall(r"^```bash\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "data").symlink_to(task.dataset_dir)
    (tmp_path / "config.json").symlink_to(task.config_file)
    for theirs, ours in (
        ("/data/bert/bert_config.json", f"{tmp_path}/config.json"),
        ("/data/bert", f"{tmp_path}/data"),
        ("/runs", f"{tmp_path}/runs"),
        ("--nodes=4", "--nodes=2"),
    ):
        assert theirs in block
        block = block.replace(theirs, ours)
    settings = variables(task, tmp_path) | {"SBATCH_OUTPUT": f"{tmp_path}/job-%j.log", "PHASE2_MAX_STEPS": "2"}
    done = cluster.run("bash", "-euc", block, variables=settings)
    phase1, phase2 = done.stdout.split()
    ended = cluster.wait_for(phase2, "COMPLETED", "FAILED", "CANCELLED")
    logs = "".join(path.read_text() for path in tmp_path.glob("job-*.log"))
    assert ended["JobState"] == "COMPLETED", logs
    assert cluster.job(phase1)["JobState"] == "COMPLETED"
    for phase, steps in (("phase1", task.settings["max_steps"]), ("phase2", 2)):
        assert (tmp_path / "runs" / phase / "model_save" / "model.safetensors").exists()
        assert len(step_rows(tmp_path / "runs" / phase)) == steps


def test_a_failed_phase_1_cancels_phase_2(cluster: Cluster, task: Task, tmp_path: Path) -> None:
    settings = variables(task, tmp_path / "runs", DATASET_DIR="/nowhere")
    done = cluster.run("jobs/slurm/submit_phases.sh", f"--output={tmp_path}/%j.log", variables=settings)
    phase1, phase2 = done.stdout.split()
    assert cluster.wait_for(phase1, "COMPLETED", "FAILED")["ExitCode"] == "2:0"
    assert cluster.wait_for(phase2, "CANCELLED", "FAILED", "COMPLETED")["JobState"] == "CANCELLED"
