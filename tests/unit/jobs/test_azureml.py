"""The job, environment and compute files for Azure ML, read by Azure's library, which rejects unknown fields."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from azure.ai.ml import load_compute, load_environment, load_job
from azure.ai.ml.exceptions import ValidationException
from marshmallow import ValidationError

from tests.support.runs import PROJECT

FOLDER = PROJECT / "jobs" / "azureml"
LOADERS: dict[str, Callable[[Path], Any]] = {
    "phase1.yaml": load_job,
    "phase2.yaml": load_job,
    "pipeline.yaml": load_job,
    "environment.yaml": load_environment,
    "compute.yaml": load_compute,
}
IMAGE_FOLDER = "/workspace/bert-large/"


def load(name: str, folder: Path = FOLDER) -> Any:
    """Read a file with Azure's library."""
    return LOADERS[name](folder / name)


def test_every_file_is_read() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.yaml")) == sorted(LOADERS)
    environment, compute = load("environment.yaml"), load("compute.yaml")
    assert environment.image.endswith("/model-zoo:pytorch-bert-large-training")
    for name in ("phase1.yaml", "phase2.yaml"):
        job = load(name)
        assert (job.environment, job.compute) == (f"{environment.name}@latest", compute.name)
        assert job.distribution.process_count_per_instance == 1
        assert {given.mode for given in job.inputs.values()} == {"ro_mount"}
        assert job.outputs["run"].mode == "rw_mount"


def test_phase_2_starts_from_the_model_of_phase_1() -> None:
    one, two = load("phase1.yaml"), load("phase2.yaml")
    assert two.inputs["checkpoint"].path == f"{one.outputs['run'].path}/model_save"
    assert two.inputs["dataset"].path == one.inputs["dataset"].path
    assert one.outputs["run"].path != two.outputs["run"].path


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("phase1.yaml", "compute"),
        ("phase1.yaml", "resources.instance_count"),
        ("phase1.yaml", "resources.shm_size"),
        ("phase1.yaml", "distribution.process_count_per_instance"),
        ("phase1.yaml", "inputs.dataset.mode"),
        ("phase1.yaml", "services.tensorboard.type"),
        ("phase2.yaml", "outputs.run.path"),
        ("pipeline.yaml", "jobs.phase1.distribution.process_count_per_instance"),
        ("pipeline.yaml", "jobs.phase2.outputs.run.mode"),
        ("environment.yaml", "image"),
        ("compute.yaml", "max_instances"),
    ],
)
def test_a_misspelled_field_is_found(name: str, field: str, tmp_path: Path) -> None:
    """Without this, reading the files would prove nothing."""
    contents = yaml.safe_load((FOLDER / name).read_text())
    *parents, last = field.split(".")
    parent = contents
    for key in parents:
        parent = parent[key]
    parent[f"{last}s"] = parent.pop(last)
    (tmp_path / name).write_text(yaml.safe_dump(contents))
    with pytest.raises((ValidationException, ValidationError)):
        load(name, tmp_path)


def test_the_pipeline_has_the_jobs_of_both_phases() -> None:
    """Phase 2 gets the folder of phase 1, which makes it wait; all else is as in the files of one phase."""
    contents = yaml.safe_load((FOLDER / "pipeline.yaml").read_text())
    for name, job in contents["jobs"].items():
        alone = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
        for field in ("environment", "resources", "distribution", "services", "environment_variables", "outputs"):
            assert job[field] == alone[field]
        model = alone["command"].replace("${{inputs.checkpoint}}", "${{inputs.phase1}}/model_save")
        assert job["command"] == model
        for key in job["inputs"].keys() - {"phase1"}:
            assert contents["inputs"][key] == alone["inputs"][key]
    jobs = load("pipeline.yaml").jobs
    assert contents["jobs"]["phase2"]["inputs"]["phase1"] == "${{parent.jobs.phase1.outputs.run}}"
    assert set(jobs["phase1"].services) == {"jupyter", "vscode", "tensorboard"}


def commands() -> list[str]:
    """Return the commands of all jobs."""
    alone = [load(name).command for name in ("phase1.yaml", "phase2.yaml")]
    return alone + [job.component.command for job in load("pipeline.yaml").jobs.values()]


@pytest.mark.parametrize("number", range(4))
def test_a_node_gets_the_variables_of_the_others(number: int, tmp_path: Path) -> None:
    """Azure's variables of a process become those of a node; the launcher must not take itself for a rank."""
    command = re.sub(r"\$\{\{(inputs|outputs)\.(\w+)\}\}", r"/mnt/a folder/\2", commands()[number])
    script = re.search(rf"{IMAGE_FOLDER}\S+", command)
    assert script is not None
    assert (PROJECT / script[0].removeprefix(IMAGE_FOLDER)).exists()
    azure = {"MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "6105", "NODE_RANK": "2", "RANK": "2", "LOCAL_RANK": "0",
             "WORLD_SIZE": "4"}  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", command.replace(script[0], "env")], env={"PATH": "/bin:/usr/bin", **azure}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    environment = dict(line.split("=", 1) for line in done.stdout.splitlines())
    named = {name: environment.get(name) for name in (*azure, "NNODES", "DATASET_DIR", "OUTPUT_DIR")}
    assert named == {
        "MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "6105", "NODE_RANK": "2", "NNODES": "4",
        "RANK": None, "LOCAL_RANK": None, "WORLD_SIZE": None,
        "DATASET_DIR": "/mnt/a folder/dataset", "OUTPUT_DIR": "/mnt/a folder/run",
    }  # fmt: skip
    assert str((tmp_path / "tensorboard").readlink()) == "/mnt/a folder/run/tensorboard"
