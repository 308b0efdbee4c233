"""Variables of the shell scripts that are not options of a `bert-large` command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_large.config.options import setting


def _variable(default: Any, text: str, **details: Any) -> Any:
    return setting(default, text, option="", **details)


@dataclass(frozen=True, kw_only=True)
class ProcessVariables:
    """How a script runs its command."""

    allocator: str = _variable(
        "auto",
        "memory allocator; system: the C library's with huge pages; auto: tcmalloc if installed, else system",
        choices=("auto", "system", "tcmalloc", "jemalloc"),
    )
    openmp: str = _variable(
        "pytorch",
        "OpenMP runtime; intel: that of the Python package intel-openmp, which the IPEX image has",
        choices=("pytorch", "intel"),
    )
    model_dir: Path | None = _variable(
        None, "project whose models/bert_large to run", default_text="this project", path="input"
    )
    python: Path | None = _variable(
        None, "interpreter, outside containers", default_text="python of .venv, else python3"
    )


@dataclass(frozen=True, kw_only=True)
class LaunchVariables:
    """Ranks of a training run; `bert-large ranks` shows the ranks that these variables would start."""

    ranks_per_node: int | None = _variable(
        None, "ranks on this host", within="[1, inf)", default_text="one per NUMA node that the process may use"
    )
    bind: str = _variable("auto", "none: do not bind ranks to cores and memory", choices=("auto", "none"))
    omp_num_threads: int | None = _variable(
        None, "threads per rank", within="[1, inf)", default_text="the rank's cores, without hyper-threads"
    )
    ddp: bool = _variable(False, "use torchrun even for one process")
    hostfile: Path | None = _variable(
        None,
        "file with one host per line, as `host`, `host slots=2` or `host:2`; the first is the master",
        default_text="one host",
        path="input",
    )
    nnodes: int | None = _variable(None, "number of hosts, instead of HOSTFILE", within="[1, inf)", default_text="1")
    node_rank: int | None = _variable(None, "number of this host, from 0", within="[0, inf)")
    master_addr: str | None = _variable(None, "address of host 0")
    master_port: int | None = _variable(
        None,
        "free port of host 0",
        within="[1, 65535]",
        default_text="29500; a random one on a single host",
    )
    gloo_socket_ifname: str | None = _variable(
        None, "network interface between the hosts", default_text="that of the route to the other hosts"
    )
    max_restarts: int = _variable(
        0, "how often all ranks are started again, from the last checkpoint, after one has failed", within="[0, inf)"
    )
    train_script: Path | None = _variable(
        None,
        "Python program to run instead of bert_large; it gets the same arguments as options",
        default_text="none",
        path="input",
    )


FOREIGN_VARIABLES = (
    "OMP_PLACES", "OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "KMP_BLOCKTIME", "CCL_WORKER_COUNT",
    "CCL_WORKER_AFFINITY", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "MLFLOW_ALLOW_FILE_STORE",
)  # fmt: skip
"""Variables of OpenMP, oneCCL and MLflow that a container gets; values that a user sets are kept."""
PROXY_VARIABLES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True, kw_only=True)
class PrepareScriptVariables:
    """Output and vocabulary of prepare_dataset.sh."""

    dataset_dir: Path = _variable(
        None, "folder for seq_128/, seq_512/, eval/, vocab.txt and corpus/", default_text="required", path="output"
    )
    vocab_file: Path | None = _variable(
        None, "vocab.txt, one token per line", default_text="trained from the text", path="input"
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneScriptVariables:
    """Downloads of run_finetune.sh."""

    hf_home: Path | None = _variable(
        None,
        "without DATASET_DIR: folder that keeps downloads from Hugging Face's hub",
        default_text="Hugging Face's; in a container a temporary folder",
        path="output",
    )


@dataclass(frozen=True, kw_only=True)
class ContainerVariables:
    """How run.sh starts a script."""

    script: str = _variable("run_bert_pretrain_phase1.sh", "script of quickstart/ to run")
    training_phase: str = _variable("1", "phase whose script is the default", choices=("1", "2"))
    runtime: str = _variable("container", "native: run the script without a container", choices=("container", "native"))
    container_engine: str | None = _variable(
        None, "docker, podman, apptainer or singularity", default_text="the first that answers"
    )
    image_name: str = _variable("model-zoo:pytorch-bert-large-training", "image to run, or to build")
    shm_size: str = _variable("8G", "shared memory of the container")
    docker_args: str | None = _variable(
        None,
        "more arguments for `docker run`, split into words as a shell does, nothing expanded; they come last and win",
        default_text="none",
    )


@dataclass(frozen=True, kw_only=True)
class BuildVariables:
    """How build.sh makes the image."""

    base: str = _variable("ipex", "which base image", choices=("ipex", "stock"))
    base_image: str | None = _variable(
        None, "any other base: an image whose python3 has torch and pip", default_text="the image of BASE"
    )
    python_image: str = _variable("python:3.11-slim-bookworm", "image that the base is built on")
    torch_version: str | None = _variable(None, "PyTorch of the base", default_text="that of its Dockerfile")
    ipex_version: str | None = _variable(None, "IPEX of the base", default_text="that of its Dockerfile")
    oneccl_version: str | None = _variable(None, "oneCCL bindings of the base", default_text="that of its Dockerfile")
    torch_build: str = _variable(
        "cpu", "any: take a GPU build, gigabytes larger, where there is no CPU build", choices=("cpu", "any")
    )
    oneccl: str = _variable(
        "auto", "whether the IPEX base has the oneCCL bindings", choices=("auto", "required", "none")
    )
    oneccl_index_url: str | None = _variable(None, "package index that has oneccl_bind_pt", default_text="none")
    finetune: bool = _variable(False, "install the packages of run_finetune.sh, about 600 MB")
    docker_build_args: str | None = _variable(None, "more arguments for `docker build`", default_text="none")
    source_date_epoch: int | None = _variable(
        None,
        "creation time in the images' label `created`, in seconds since 1970",
        default_text="no label `created`, so an unchanged image keeps its id",
    )


@dataclass(frozen=True, kw_only=True)
class OtherVariables:
    """Variables of single programs: the demo, the health check of containers, the build of the native kernels."""

    demo_dir: Path = _variable(Path("output/demo"), "folder for the files of quickstart/demo.sh")
    health_max_age_seconds: int = _variable(
        1800, "age of the last line of the log up to which a container counts as healthy", unit="seconds"
    )
    bert_large_kernels_dir: Path | None = _variable(
        None, "folder for the native engine's kernels", default_text="beside the package, else the user's cache"
    )
    cxx: str = _variable("g++", "compiler of the native kernels")
