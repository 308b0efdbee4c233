"""Checks of the processor: the precision to use, the cores that this process may use, and the ranks on them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import numpy as np
import torch

from bert_large.config.model import ModelConfig
from bert_large.cpp_library import LibraryBuildError
from bert_large.data.batch import make_batch
from bert_large.data.record import Record
from bert_large.distributed.launch import Plan, describe_plan, make_plan
from bert_large.distributed.topology import Topology
from bert_large.doctor.finding import OK, PROBLEM, WARNING, Finding
from bert_large.engines import computes, resolve_engine
from bert_large.engines.precision import PRODUCT_FLAGS, Precision, get_precision
from bert_large.errors import InputError
from bert_large.model.bert import BertForPreTraining
from bert_large.observe.timing import Variant, alternate

_WORTHWHILE = 1.2
"""Smallest bf16-to-fp32 speed ratio at which bf16 is recommended; bf16 also halves memory traffic."""
_MEASURED = ModelConfig(
    num_hidden_layers=1, hidden_size=512, num_attention_heads=8, intermediate_size=2048, vocab_size=32
)


def check_precision(cpu_flags: frozenset[str], asked: str | None) -> list[Finding]:
    """Return which precision to use on this CPU, and how the requested precision would compute."""
    findings = [_advise(cpu_flags)]
    if asked is not None:
        description, warning = get_precision(asked).describe(cpu_flags)
        findings.append(Finding(OK if warning is None else WARNING, "requested precision", description, warning or ""))
        if not computes("native", asked):
            found = f"the native engine has no kernels for {asked}: training uses the much slower eager engine"
            findings.append(Finding(WARNING, "engine for that precision", found, "use PRECISION=bf16 or fp32"))
    return findings


def _advise(cpu_flags: frozenset[str]) -> Finding:
    topic = "precision"
    if not cpu_flags:
        return Finding(WARNING, topic, "/proc/cpuinfo lists no CPU flags", "use PRECISION=fp32, or measure both")
    found = [flag for flag in PRODUCT_FLAGS["bf16"] if flag in cpu_flags]
    if not found:
        missing = ", ".join(PRODUCT_FLAGS["bf16"])
        return Finding(OK, topic, f"use fp32: this CPU has none of the bf16 instructions ({missing})")
    ratio = measure_bf16_speedup()
    return Finding(
        OK, topic, f"use {'bf16' if ratio >= _WORTHWHILE else 'fp32'}: an encoder layer in bf16, with "
        f"{', '.join(found)}, ran at {ratio:.1f} times the rate of fp32 just now",
    )  # fmt: skip


def measure_bf16_speedup() -> float:
    """Return the time of an encoder layer, forward and backward, in fp32 over that in bf16; it takes about a second.

    Where the kernels cannot be built, which another check reports, it is a layer of IPEX or the eager engine.
    """
    try:
        engine, _ = resolve_engine("auto")
    except LibraryBuildError:
        engine, _ = resolve_engine("eager")
    model = BertForPreTraining(_MEASURED, engine)
    model.initialize(0)

    def variant(precision: Precision) -> Variant:
        def run(round_: int) -> None:
            length = 128 - round_  # another number of tokens in every round, as in training
            one = np.ones(1, np.int32)
            record = Record(np.ones(length, np.int32), np.zeros(length, np.uint8), one, one, next_sentence_label=0)
            batch = make_batch([record] * 4, range(4))
            hidden = torch.ones(4 * length, _MEASURED.hidden_size, dtype=precision.activation_dtype).requires_grad_()
            with precision.autocast():
                out = model.bert.encoder.layer[0](batch, hidden, engine, None)
            out.backward(torch.ones_like(out))

        return Variant(run)

    variants = {name: variant(get_precision(name)) for name in ("fp32", "bf16")}
    timings = alternate(variants, rounds=9, warmups=2, visible=False)
    return statistics.median(timings["fp32"].over(timings["bf16"]))


def check_cores(topology: Topology, online_cpus: int, allowed_cpus: int) -> Finding:
    """Check how much of the machine this process may use; the two numbers count hardware threads."""
    topic = "cores"
    found = f"{topology.cores} cores ({allowed_cpus} of the machine's {online_cpus} CPUs)"
    quota = topology.cpu_quota
    if quota is not None and quota < topology.cores:
        return Finding(
            WARNING, topic, f"{found}, but the cgroup limits CPU time to {quota:g} CPUs",
            "raise the limit where it was set (docker --cpus, Kubernetes resources.limits.cpu) to a whole "
            "number of cores",
        )  # fmt: skip
    if allowed_cpus < online_cpus:
        return Finding(
            WARNING, topic, f"{found}: the process is restricted to a subset of the CPUs",
            "start it without taskset or numactl, or give the container or job all CPUs (docker --cpuset-cpus, Slurm "
            "--exclusive); ignore this if the other CPUs are reserved for other work",
        )  # fmt: skip
    return Finding(OK, topic, found)


def check_ranks(variables: Mapping[str, str], topology: Topology) -> tuple[list[Finding], Plan | None]:
    """Return the ranks that a run would start with these environment variables; the plan is None if it cannot."""
    topic = "ranks"
    try:
        plan = make_plan(variables, topology)
    except InputError as error:
        return [Finding(PROBLEM, topic, "no ranks can be started", str(error))], None
    findings = [Finding(OK, topic, line) for line in describe_plan(plan, variables)]
    nodes, ranks = len(topology.nodes), len(plan.placements)
    if ranks < nodes:
        found = f"{ranks} for {nodes} NUMA nodes: each also uses memory of other nodes"
        findings.append(Finding(WARNING, topic, found, f"RANKS_PER_NODE={nodes} is faster, if memory allows"))
    without_memory = [str(node.number) for node in topology.nodes if not node.may_hold_memory]
    if without_memory:
        found = f"this process is not allowed to allocate memory on NUMA node {', '.join(without_memory)}"
        remedy = "allow the job to use those nodes' memory (docker --cpuset-mems), or exclude their cores"
        findings.append(Finding(WARNING, topic, found, remedy))
    for rank, placement in enumerate(plan.placements):
        if placement.threads > len(placement.cpus):
            found = f"rank {rank} starts {placement.threads} threads on {len(placement.cpus)} cores"
            remedy = "unset OMP_NUM_THREADS: the default is the number of cores"
            findings.append(Finding(WARNING, topic, found, remedy))
    return findings, plan
