"""The Kubernetes and Kubeflow manifests against the schemas of Kubernetes and of Kubeflow Trainer."""

from __future__ import annotations

import copy
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubeflow_trainer_api import models
from pydantic import ValidationError

from tests.support.runs import PROJECT

FOLDER = PROJECT / "jobs" / "kubernetes"
OLDEST, NEWEST = "1.31", kubernetes_validate.latest_version()  # 1.31: podFailurePolicy is stable
Manifest = dict[str, Any]
Path = tuple[str | int, ...]


class SchemaError(Exception):
    """A manifest does not fit its schema."""


def read(name: str, kind: str) -> Manifest:
    """Return the one manifest of a kind in a file."""
    (found,) = (manifest for manifest in yaml.safe_load_all((FOLDER / name).read_text()) if manifest["kind"] == kind)
    return found


def check(manifest: Manifest) -> None:
    """Raise SchemaError unless the manifest fits its schema; unknown fields are errors too."""
    try:
        if manifest["apiVersion"].startswith("trainer.kubeflow.org"):
            check_kubeflow(manifest)
        else:
            for version in (OLDEST, NEWEST):
                kubernetes_validate.validate(manifest, version, strict=True)
    except (kubernetes_validate.ValidationError, ValidationError) as error:
        raise SchemaError(str(error)) from error


def check_kubeflow(manifest: Manifest) -> None:
    """Check a manifest of Kubeflow, whose models drop unknown fields, and the Kubernetes jobs inside it."""
    parsed = getattr(models, f"TrainerV1alpha1{manifest['kind']}").from_dict(copy.deepcopy(manifest)).to_dict()
    if parsed != manifest:
        raise SchemaError(f"parsed as {parsed}")
    for job in manifest["spec"].get("template", {}).get("spec", {}).get("replicatedJobs", []):
        check({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]})


def at(manifest: Manifest, path: Path) -> Any:
    """Return the value at a path of keys and indices."""
    for key in path:
        manifest = manifest[key]  # type: ignore[index]
    return manifest


JOB, RUNTIME = ("job.yaml", "Job"), ("trainjob.yaml", "TrainingRuntime")
SERVICE, TRAIN_JOB = ("job.yaml", "Service"), ("trainjob.yaml", "TrainJob")
JOB_SPEC: dict[tuple[str, str], Path] = {
    JOB: ("spec",),
    RUNTIME: ("spec", "template", "spec", "replicatedJobs", 0, "template", "spec"),
}


def job_spec(source: tuple[str, str]) -> Manifest:
    """Return the specification of the Job in a manifest."""
    return at(read(*source), JOB_SPEC[source])


def pod(source: tuple[str, str]) -> Manifest:
    """Return the specification of the pod in a manifest."""
    return job_spec(source)["template"]["spec"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_manifests_fit_their_schemas(path: Any) -> None:
    for manifest in yaml.safe_load_all(path.read_text()):
        check(manifest)


@pytest.mark.parametrize(
    ("source", "path"),
    [
        (SERVICE, ("spec", "clusterIP")),
        (JOB, ("spec", "completionMode")),
        (TRAIN_JOB, ("spec", "runtimeRef")),
        (TRAIN_JOB, ("spec", "trainer", "numNodes")),
        (RUNTIME, ("spec", "mlPolicy", "torch")),
        (RUNTIME, ("spec", "template", "spec", "replicatedJobs")),
        *(
            (source, (*spec, *path))
            for source, spec in JOB_SPEC.items()
            for path in (
                ("podFailurePolicy", "rules", 0, "onExitCodes"),
                ("podFailurePolicy", "rules", 2, "onPodConditions", 0, "type"),
                ("template", "spec", "terminationGracePeriodSeconds"),
                ("template", "spec", "securityContext", "runAsNonRoot"),
                ("template", "spec", "containers", 0, "resources", "limits"),
                ("template", "spec", "containers", 0, "securityContext", "readOnlyRootFilesystem"),
                ("template", "spec", "containers", 0, "volumeMounts", 0, "readOnly"),
                ("template", "spec", "volumes", 3, "emptyDir", "sizeLimit"),
            )
        ),
    ],
    ids=lambda value: ".".join(map(str, value[-3:])),
)
def test_a_misspelled_field_is_found(source: tuple[str, str], path: Path) -> None:
    """Without this, the test above would prove nothing."""
    manifest = read(*source)
    parent = at(manifest, path[:-1])
    parent[f"{path[-1]}s"] = parent.pop(path[-1])
    with pytest.raises(SchemaError):
        check(manifest)


@pytest.mark.parametrize("source", [JOB, RUNTIME], ids=lambda source: source[1])
def test_the_effect_of_exit_codes(source: tuple[str, str]) -> None:
    """Exit code 2 fails the job; a pod ended by SIGTERM is replaced without being counted; other failures count."""
    spec = job_spec(source)
    rules = [rule for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    actions = {code: rule["action"] for rule in rules for code in rule["onExitCodes"]["values"]}
    assert actions == {2: "FailJob", 143: "Ignore"}
    (container,) = pod(source)["containers"]
    assert {rule["onExitCodes"]["containerName"] for rule in rules} == {container["name"]}
    assert pod(source)["restartPolicy"] == "Never"  # podFailurePolicy requires it
    assert spec["backoffLimit"] > 0


def test_both_start_the_same_pod() -> None:
    """They differ only in the variables that describe the other pods."""
    ours, theirs = pod(JOB), pod(RUNTIME)
    assert ours.pop("subdomain") == read(*SERVICE)["metadata"]["name"]
    for spec in (ours, theirs):
        (container,) = spec["containers"]
        del container["command"]
        container["env"] = [entry for entry in container["env"] if entry["name"] not in NODE_VARIABLES]
    assert ours == theirs


NODE_VARIABLES = ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


def test_pods_of_the_job_find_each_other() -> None:
    """All numbers of pods are equal; the address is the name of the first pod in the service."""
    job, service = read(*JOB), read(*SERVICE)
    env = {entry["name"]: entry.get("value") for entry in pod(JOB)["containers"][0]["env"]}
    assert str(job["spec"]["completions"]) == str(job["spec"]["parallelism"]) == env["NNODES"]
    assert env["MASTER_ADDR"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert env["MASTER_PORT"] == str(service["spec"]["ports"][0]["port"])
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}


def test_pods_of_the_train_job_find_each_other() -> None:
    """The command turns the trainer's variables into the launcher's; torchrun must not see the former."""
    *shell, program = pod(RUNTIME)["containers"][0]["command"]
    script = "/workspace/bert-large/quickstart/run_bert_pretrain_phase1.sh"
    assert program.rstrip().endswith(f"exec {script}")
    given = {"PET_NNODES": "3", "PET_NODE_RANK": "2", "PET_MASTER_ADDR": "first", "PET_MASTER_PORT": "1234",
             "PET_NPROC_PER_NODE": "auto"}  # fmt: skip
    done = subprocess.run(
        [*shell, program.replace(script, "env")], env={"PATH": "/bin:/usr/bin", **given},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    environment = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert [environment[name] for name in NODE_VARIABLES] == ["3", "2", "first", "1234"]
    assert not [name for name in environment if name.startswith("PET_")]
