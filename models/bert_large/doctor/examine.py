"""All checks, on this machine."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

from bert_large.config.model import ModelConfig
from bert_large.config.training import PHASE_SEQ_LENGTHS
from bert_large.cpu import read_cpu_flags
from bert_large.distributed.backend import will_use_ccl
from bert_large.distributed.launch import Plan
from bert_large.distributed.topology import read_topology
from bert_large.doctor import memory, processor, software, system
from bert_large.doctor.data import check_data
from bert_large.doctor.finding import OK, Finding
from bert_large.engines import computes
from bert_large.engines.native.build import load_kernels
from bert_large.model.bert import skeleton
from bert_large.model.pretrained import weights_of
from bert_large.observe.base_image import describe_base_image
from bert_large.observe.machine import read_cpu_model
from bert_large.storage.atomic import free_bytes
from bert_large.train.checkpoint import bytes_to_save
from bert_large.train.settings import SETTINGS


def examine(
    *,
    model: ModelConfig,
    phase: int | None,
    micro_batch_tokens: int,
    precision: str | None,
    ranks: int | None,
    dataset_dir: Path | None,
    output_dir: Path,
) -> list[Finding]:
    """Return what is found of this machine and for a run of these settings; None: as a run would choose."""
    variables = dict(os.environ) | ({} if ranks is None else {"RANKS_PER_NODE": str(ranks)})
    cpu_flags, topology = read_cpu_flags(), read_topology()
    rank_findings, plan = processor.check_ranks(variables, topology)
    return [
        Finding(OK, "CPU", read_cpu_model()),
        *processor.check_precision(cpu_flags, precision),
        processor.check_cores(topology, os.cpu_count() or 1, len(os.sched_getaffinity(0))),
        *rank_findings,
        *_software(cpu_flags),
        *_memory(model, phase, micro_batch_tokens, precision, plan),
        *_system(variables, plan),
        _disk(model, output_dir),
        *([] if dataset_dir is None else check_data(dataset_dir, phase)),
    ]


def _software(cpu_flags: frozenset[str]) -> list[Finding]:
    kernels = software.check_kernels(cpu_flags)
    software.import_modules()
    if kernels.level == OK:
        load_kernels()  # they share an OpenMP runtime with PyTorch, if all is well
    runtimes = software.find_openmp_runtimes(Path("/proc/self/maps").read_text())
    return [
        software.check_requirements(software.own_requirements()),
        software.check_ipex(),
        kernels,
        software.check_openmp(runtimes),
        software.this_allocator(),
    ]


def _memory(
    model: ModelConfig, phase: int | None, micro_batch_tokens: int, precision: str | None, plan: Plan | None
) -> list[Finding]:
    precision = precision or "fp32"
    if not computes("native", precision):
        return [memory.no_prediction(precision)]
    longest = PHASE_SEQ_LENGTHS[phase or min(PHASE_SEQ_LENGTHS)]  # a micro-batch holds one sequence at least
    need = memory.predict_memory(model, precision=precision, micro_batch_tokens=max(micro_batch_tokens, longest))
    count = 1 if plan is None else len(plan.placements)
    return [memory.check_memory(need, count, memory.read_available_bytes())]


def _system(variables: dict[str, str], plan: Plan | None) -> list[Finding]:
    huge_pages, shared = system.HUGE_PAGES_FILE, Path("/dev/shm")
    uses_ccl = plan is not None and plan.uses_torchrun and will_use_ccl(variables.get("BACKEND"))
    named = variables.get("CONTAINER_ENGINE")
    return [
        system.check_huge_pages(huge_pages.read_text() if huge_pages.exists() else None),
        system.check_shared_memory(shutil.disk_usage(shared).total if shared.is_dir() else None, uses_ccl),
        system.check_open_files(_open_files()),
        system.check_container_engine(
            describe_base_image(), [named] if named else system.CONTAINER_ENGINES, system.engine_answers
        ),
    ]


def _open_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def _disk(model: ModelConfig, output_dir: Path) -> Finding:
    weights = weights_of(skeleton(model))
    keep: int = SETTINGS["keep_checkpoints"].default
    weights_bytes = sum(weight.nbytes for weight in weights.values())
    return system.check_disk(output_dir.absolute(), free_bytes(output_dir), bytes_to_save(weights), weights_bytes, keep)
