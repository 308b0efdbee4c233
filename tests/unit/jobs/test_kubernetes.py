"""The Kubernetes and Kubeflow manifests against the schemas of Kubernetes and of Kubeflow Trainer."""

from __future__ import annotations

import copy
import re
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
KUBEFLOW_MODELS = {"trainer.kubeflow.org/v1alpha1": "TrainerV1alpha1", "jobset.x-k8s.io/v1alpha2": "JobsetV1alpha2"}
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
        if manifest["apiVersion"] in KUBEFLOW_MODELS:
            check_kubeflow(manifest)
        else:
            for version in (OLDEST, NEWEST):
                kubernetes_validate.validate(manifest, version, strict=True)
    except (kubernetes_validate.ValidationError, ValidationError) as error:
        raise SchemaError(str(error)) from error


def check_kubeflow(manifest: Manifest) -> None:
    """Check a manifest of Kubeflow, whose models drop unknown fields, and the Kubernetes jobs inside it."""
    model = getattr(models, KUBEFLOW_MODELS[manifest["apiVersion"]] + manifest["kind"])
    parsed = model.from_dict(copy.deepcopy(manifest)).to_dict()
    if parsed != manifest:
        raise SchemaError(f"parsed as {parsed}")
    spec = manifest["spec"] if manifest["kind"] == "JobSet" else manifest["spec"].get("template", {}).get("spec", {})
    for job in spec.get("replicatedJobs", []):
        check({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]})


def at(manifest: Manifest, path: Path) -> Any:
    """Return the value at a path of keys and indices."""
    for key in path:
        manifest = manifest[key]  # type: ignore[index]
    return manifest


JOB, RUNTIME = ("job.yaml", "Job"), ("trainjob.yaml", "TrainingRuntime")
SERVICE, TRAIN_JOB = ("job.yaml", "Service"), ("trainjob.yaml", "TrainJob")
PHASES, ON_CLUSTER_RUNTIME = ("phases.yaml", "JobSet"), ("trainjob-torch-distributed.yaml", "TrainJob")
PATCHED_POD: Path = ("spec", "runtimePatches", 0, "trainingRuntimeSpec", "template", "spec", "replicatedJobs", 0,
                     "template", "spec", "template", "spec")  # fmt: skip
JOB_SPEC: dict[tuple[str, str], Path] = {
    JOB: ("spec",),
    PHASES: ("spec", "replicatedJobs", 0, "template", "spec"),
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
        (PHASES, ("spec", "replicatedJobs", 1, "dependsOn", 0, "status")),
        (ON_CLUSTER_RUNTIME, ("spec", "trainer", "resourcesPerNode")),
        (ON_CLUSTER_RUNTIME, (*PATCHED_POD, "terminationGracePeriodSeconds")),
        (ON_CLUSTER_RUNTIME, (*PATCHED_POD, "containers", 0, "volumeMounts")),
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


@pytest.mark.parametrize("source", [JOB, RUNTIME, PHASES], ids=lambda source: source[1])
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


NODE_VARIABLES = ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


def comparable(spec: Manifest) -> Manifest:
    """Return a pod without its command and the variables that describe the other pods; variables by name."""
    (container,) = spec["containers"]
    env = {entry["name"]: entry for entry in container["env"] if entry["name"] not in NODE_VARIABLES}
    kept = {name: value for name, value in container.items() if name != "command"}
    return {name: value for name, value in spec.items() if name != "subdomain"} | {"containers": [kept | {"env": env}]}


def test_all_start_the_same_pod() -> None:
    """They differ only in the variables that describe the other pods."""
    assert pod(JOB)["subdomain"] == read(*SERVICE)["metadata"]["name"]
    assert comparable(pod(JOB)) == comparable(pod(RUNTIME)) == comparable(pod(PHASES))
    train_job = read(*ON_CLUSTER_RUNTIME)
    trainer, patched = train_job["spec"]["trainer"], at(train_job, PATCHED_POD)
    (expected,), (found,) = pod(RUNTIME)["containers"], patched["containers"]
    assert {name: trainer[name] for name in ("image", "command", "env")} | {
        "resources": trainer["resourcesPerNode"]
    } | found == expected
    assert {name: pod(RUNTIME)[name] for name in patched} | {"containers": [found]} == patched


def test_phase_2_follows_phase_1() -> None:
    """It starts from the model of phase 1 when that has succeeded, in the same kind of pods."""
    one, two = read(*PHASES)["spec"]["replicatedJobs"]
    assert two["dependsOn"] == [{"name": one["name"], "status": "Complete"}]
    env = []
    for job in (one, two):
        spec = job["template"]["spec"]
        (container,) = spec["template"]["spec"]["containers"]
        assert container["command"][0].endswith(f"run_bert_pretrain_{job['name']}.sh")
        env.append({entry["name"]: entry.get("value") for entry in container["env"]})
        assert env[-1]["MASTER_ADDR"] == f"bert-pretrain-{job['name']}-0-0.{read(*PHASES)['metadata']['name']}"
        assert str(spec["completions"]) == str(spec["parallelism"]) == env[-1]["NNODES"]
    assert env[1]["CHECKPOINT_DIR"] == f"{env[0]['OUTPUT_DIR']}/model_save"
    assert env[0].keys() - env[1].keys() == {"CONFIG_FILE"}


@pytest.mark.parametrize("source", [JOB, PHASES, TRAIN_JOB, ON_CLUSTER_RUNTIME], ids=lambda source: source[0])
def test_a_label_puts_a_job_into_a_queue(source: tuple[str, str]) -> None:
    """With the label of Kueue's documentation, which README.md sets."""
    (label,) = set(re.findall(r"kueue\.x-k8s\.io/queue-name", (FOLDER / "README.md").read_text()))
    manifest = read(*source)
    manifest["metadata"]["labels"] = {label: "team"}
    check(manifest)


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
