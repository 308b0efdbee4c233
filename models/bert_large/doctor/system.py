"""Checks of what the operating system grants: huge pages, shared memory, open files, disk, a container engine."""

from __future__ import annotations

import re
import shutil
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
    """Read Linux's setting of transparent huge pages, `always [madvise] never`; None: the kernel has none."""
    topic = "huge pages"
    chosen = re.search(r"\[(\w+)\]", setting or "")
    if chosen and chosen[1] in ("always", "madvise"):
        return Finding(OK, topic, f"transparent huge pages: {chosen[1]}")
    if chosen:
        return Finding(
            WARNING, topic, f"transparent huge pages: {chosen[1]}; large tensors are made of small pages",
            f"as root: echo madvise > {HUGE_PAGES_FILE}",
        )  # fmt: skip
    return Finding(
        WARNING, topic, "the kernel tells of no transparent huge pages", "expect slower memory, or change the kernel"
    )


def check_shared_memory(size_bytes: int | None, uses_ccl: bool) -> Finding:
    """Check /dev/shm: helper processes need locks in it, and oneCCL's ranks need room for gradients."""
    topic = "shared memory"
    try:
        require_semaphores()
    except UserError as error:
        return Finding(PROBLEM, topic, str(error), "mount a tmpfs at /dev/shm")
    if not uses_ccl:
        size = "is not there" if size_bytes is None else f"has {describe_bytes(size_bytes)}"
        return Finding(OK, topic, f"/dev/shm {size}; helper processes keep their locks there")
    if size_bytes is not None and size_bytes >= _LEAST_SHARED_BYTES:
        return Finding(OK, topic, f"/dev/shm has {describe_bytes(size_bytes)}")
    return Finding(
        WARNING, topic, f"/dev/shm has {describe_bytes(size_bytes or 0)}; oneCCL's ranks exchange gradients through it",
        "SHM_SIZE=8G ./run.sh, docker --shm-size 8G, or in Kubernetes an emptyDir of medium Memory at /dev/shm",
    )  # fmt: skip


def check_open_files(soft: int) -> Finding:
    """Tell whether a process may open all files that training keeps open."""
    topic = "open files"
    if soft >= _LEAST_OPEN_FILES:
        return Finding(OK, topic, f"a process may have {soft}")
    return Finding(
        WARNING, topic, f"a process may have {soft}, up to {MAX_OPEN_FILES} shards are kept open, with pipes and "
        "connections besides", f"ulimit -n {4 * MAX_OPEN_FILES} (docker --ulimit nofile={4 * MAX_OPEN_FILES})",
    )  # fmt: skip


def check_disk(folder: Path, free: int, checkpoint_bytes: int, weights_bytes: int, keep: int) -> Finding:
    """Tell whether `folder` has room for a run's checkpoints: the kept ones, the next, and the model at the end."""
    topic, needed = "disk", (keep + 1) * checkpoint_bytes + weights_bytes
    found = (
        f"{describe_bytes(free)} free for {folder}; {describe_bytes(needed)} needed: {keep + 1} checkpoints of "
        f"{describe_bytes(checkpoint_bytes)} at a time and the model"
    )
    if free >= needed:
        return Finding(OK, topic, found)
    remedy = "make room, name another OUTPUT_DIR, or keep fewer (--keep-checkpoints 1)"
    return Finding(PROBLEM if free < checkpoint_bytes else WARNING, topic, found, remedy)


def check_container_engine(inside: str | None, engines: Sequence[str], answers: Callable[[str], bool]) -> Finding:
    """Tell which of `engines` can be used; `inside` describes the container that this runs in, if it does."""
    topic = "container engine"
    if inside is not None:
        return Finding(OK, topic, f"none needed inside of a container; {inside}")
    reasons = []
    for engine in engines:
        if shutil.which(engine) is None:
            reasons.append(f"{engine} is not installed")
        elif answers(engine):
            return Finding(OK, topic, f"{engine} is there and answers")
        else:
            reasons.append(f"{engine} does not answer")
    return Finding(
        WARNING, topic, "; ".join(reasons),
        "start its service, or let this user use it; or do without a container: RUNTIME=native ./run.sh",
    )  # fmt: skip


def engine_answers(engine: str) -> bool:
    """Tell whether a container engine's service answers."""
    try:
        done = subprocess.run([engine, "version"], capture_output=True, timeout=_ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
