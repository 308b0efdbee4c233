"""Checks of the operating system's limits: huge pages, shared memory, open files, the port, a container engine."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from bert_large.data.dataset import MAX_OPEN_FILES
from bert_large.doctor.finding import OK, PROBLEM, WARNING, Finding
from bert_large.errors import UserError
from bert_large.storage.atomic import describe_bytes
from bert_large.worker_processes import require_semaphores

HUGE_PAGES_FILE = Path("/sys/kernel/mm/transparent_hugepage/enabled")
CONTAINER_ENGINES = ("docker", "podman")
_LEAST_SHARED_BYTES = 1 << 30
_LEAST_OPEN_FILES = 2 * MAX_OPEN_FILES
_ANSWER_SECONDS = 10


def check_huge_pages(setting: str | None) -> Finding:
    """Check Linux's setting of transparent huge pages, `always [madvise] never`; None if the kernel has none."""
    chosen = re.search(r"\[(\w+)\]", setting or "")
    if chosen is None:
        remedy = "expect slower memory, or use a kernel that has them"
        return Finding(WARNING, "huge pages", "the kernel reports no transparent huge pages", remedy)
    found = f"transparent huge pages: {chosen[1]}"
    if chosen[1] in ("always", "madvise"):
        return Finding(OK, "huge pages", found)
    remedy = f"as root: echo madvise > {HUGE_PAGES_FILE}"
    return Finding(WARNING, "huge pages", f"{found}; large tensors consist of small pages", remedy)


def check_shared_memory(size_bytes: int | None, uses_ccl: bool) -> Finding:
    """Check /dev/shm: helper processes need their semaphores there, and oneCCL's ranks exchange gradients there."""
    topic = "shared memory"
    try:
        require_semaphores()
    except UserError as error:
        return Finding(PROBLEM, topic, str(error), "make /dev/shm writable, or train with --data-workers 0")
    found = f"semaphores can be created; /dev/shm has {describe_bytes(size_bytes or 0)}"
    if not uses_ccl or (size_bytes or 0) >= _LEAST_SHARED_BYTES:
        return Finding(OK, topic, found)
    return Finding(
        WARNING, topic, f"{found}, which oneCCL's ranks exchange gradients through",
        "SHM_SIZE=8G ./run.sh, docker --shm-size 8G, or in Kubernetes an emptyDir of medium Memory at /dev/shm",
    )  # fmt: skip


def check_open_files(soft: int) -> Finding:
    """Check the limit of open files: training keeps shards open, besides pipes and connections."""
    if soft >= _LEAST_OPEN_FILES:
        return Finding(OK, "open files", f"a process may have {soft}")
    remedy = f"ulimit -n {4 * MAX_OPEN_FILES} (docker --ulimit nofile={4 * MAX_OPEN_FILES})"
    found = f"a process may have {soft}; training keeps up to {MAX_OPEN_FILES} shards open, besides other files"
    return Finding(WARNING, "open files", found, remedy)


def check_port(port: int) -> Finding:
    """Check that the first machine's port for the ranks to meet is free."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torchrun; a port just closed is free
        try:
            listener.bind(("", port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            found = f"MASTER_PORT {port} cannot be used: {reason}"
            return Finding(PROBLEM, "port", found, "set MASTER_PORT to another")
    return Finding(OK, "port", f"MASTER_PORT {port} is free")


def check_container_engine(inside: str | None, engines: Sequence[str], answers: Callable[[str], bool]) -> Finding:
    """Check which of `engines` can be used; `inside` describes the container if this runs in one."""
    topic = "container engine"
    if inside is not None:
        return Finding(OK, topic, f"none is needed inside a container; {inside}")
    reasons = []
    for engine in engines:
        if shutil.which(engine) is None:
            reasons.append(f"{engine} is not installed")
        elif answers(engine):
            return Finding(OK, topic, f"{engine} is installed and answers")
        else:
            reasons.append(f"{engine} does not answer")
    remedy = "start its service, or allow this user to use it; or run without a container: RUNTIME=native ./run.sh"
    return Finding(WARNING, topic, "; ".join(reasons), remedy)


def engine_answers(engine: str) -> bool:
    """Return whether the service of a container engine answers."""
    try:
        done = subprocess.run([engine, "version"], capture_output=True, timeout=_ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
