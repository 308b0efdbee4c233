"""All checks on this machine."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from bert_large.config.model import ModelConfig
from bert_large.config.training import PHASE_SEQ_LENGTHS
from bert_large.cpu import read_cpu_flags, read_cpu_model
from bert_large.distributed.backend import can_use_ccl
from bert_large.distributed.launch import Plan
from bert_large.distributed.topology import read_topology
from bert_large.doctor import processor, software, system
from bert_large.doctor.data import check_data
from bert_large.doctor.finding import OK, WARNING, Finding
from bert_large.doctor.memory import check_memory
from bert_large.doctor.output import check_output
from bert_large.engines import computes
from bert_large.engines.native.build import load_kernels
from bert_large.observe.machine import describe_base_image
from bert_large.train.memory import predict_memory, read_available_bytes


def examine(
    *,
    model: ModelConfig,
    phase: int | None,
    micro_batch_tokens: int,
    precision: str | None,
    ranks: int | None,
    dataset_dir: Path | None,
    output_dir: Path | None,
) -> list[Finding]:
    """Return the findings for a run with these settings; None means the run's own choice."""
    variables = dict(os.environ) | ({} if ranks is None else {"RANKS_PER_NODE": str(ranks)})
    cpu_flags, topology = read_cpu_flags(), read_topology()
    rank_findings, plan = processor.check_ranks(variables, topology)
    if output_dir is None and describe_base_image() is None:
        output_dir = Path()
    return [
        Finding(OK, "CPU", read_cpu_model()),
        *processor.check_precision(cpu_flags, precision),
        processor.check_cores(topology, os.cpu_count() or 1, len(os.sched_getaffinity(0))),
        *rank_findings,
        *_software(cpu_flags),
        _memory(model, phase, micro_batch_tokens, precision or "fp32", plan),
        *_system(variables, plan),
        *([] if output_dir is None else check_output(output_dir, model)),
        *([] if dataset_dir is None else check_data(dataset_dir, phase)),
    ]


def _software(cpu_flags: frozenset[str]) -> Iterator[Finding]:
    yield software.check_requirements(software.own_requirements())
    yield software.check_ipex()
    kernels = software.check_kernels(cpu_flags)
    yield kernels
    software.import_modules()
    if kernels.level == OK:
        load_kernels()  # they should use the OpenMP runtime of PyTorch
    yield software.check_openmp(software.find_openmp_runtimes(Path("/proc/self/maps").read_text()))
    yield software.check_allocator()


def _memory(
    model: ModelConfig, phase: int | None, micro_batch_tokens: int, precision: str, plan: Plan | None
) -> Finding:
    if not computes("native", precision):
        found = f"not predicted: {precision} uses the eager engine, which needs more than the native one"
        remedy = "watch the peak of the first steps; lower MICRO_BATCH_TOKENS if needed"
        return Finding(WARNING, "memory", found, remedy)
    longest = PHASE_SEQ_LENGTHS[phase or min(PHASE_SEQ_LENGTHS)]
    need = predict_memory(model, precision=precision, micro_batch_tokens=micro_batch_tokens, longest=longest)
    return check_memory(need, 1 if plan is None else len(plan.placements), read_available_bytes())


def _system(variables: Mapping[str, str], plan: Plan | None) -> Iterator[Finding]:
    huge_pages, shared = system.HUGE_PAGES_FILE, Path("/dev/shm")
    uses_ccl = plan is not None and plan.uses_torchrun and can_use_ccl(variables.get("BACKEND"))
    yield system.check_huge_pages(huge_pages.read_text() if huge_pages.exists() else None)
    yield system.check_shared_memory(shutil.disk_usage(shared).total if shared.is_dir() else None, uses_ccl)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield system.check_open_files(1 << 30 if soft == resource.RLIM_INFINITY else soft)
    # Only the first machine listens; on a single machine without MASTER_PORT a run takes any free port.
    if plan is not None and plan.uses_torchrun and plan.port is not None and plan.machines.own_position == 0:
        yield system.check_port(plan.port)
    named = variables.get("CONTAINER_ENGINE")
    engines = [named] if named else system.CONTAINER_ENGINES
    yield system.check_container_engine(describe_base_image(), engines, system.engine_answers)
