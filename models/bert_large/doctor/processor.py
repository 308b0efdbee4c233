"""Checks of the processor: the precision worth using, the cores that this process may use, and the ranks' places."""

from __future__ import annotations

from collections.abc import Mapping

from bert_large.distributed.launch import Plan, describe_plan, make_plan
from bert_large.distributed.topology import Topology
from bert_large.doctor.finding import OK, PROBLEM, WARNING, Finding
from bert_large.engines import computes
from bert_large.engines.precision import PRODUCT_FLAGS, get_precision
from bert_large.errors import InputError


def check_precision(cpu_flags: frozenset[str], asked: str | None) -> list[Finding]:
    """Tell which precision is worth using on a CPU with these flags, and what the one asked for would be."""
    findings = [_advise(cpu_flags)]
    if asked is not None:
        description, warning = get_precision(asked).describe(cpu_flags)
        level = OK if warning is None else WARNING
        findings.append(Finding(level, "precision asked for", description, warning or ""))
        if not computes("native", asked):
            findings.append(
                Finding(
                    WARNING,
                    "engine for it",
                    f"the native engine has no kernels for {asked}: training takes the far slower eager engine",
                    "use PRECISION=bf16, or fp32",
                )
            )
    return findings


def _advise(cpu_flags: frozenset[str]) -> Finding:
    topic, known = "precision", [flag for flags in PRODUCT_FLAGS.values() for flag in flags]
    found = [flag for flag in known if flag in cpu_flags]
    if not cpu_flags:
        return Finding(WARNING, topic, "/proc/cpuinfo names no CPU flags", "use PRECISION=fp32, or measure both")
    bf16 = [flag for flag in PRODUCT_FLAGS["bf16"] if flag in cpu_flags]
    if not bf16:
        return Finding(
            OK, topic, f"fp32 is worth using: of {', '.join(known)} this CPU has {', '.join(found) or 'none'}, and "
            "bf16 would be emulated",
        )  # fmt: skip
    return Finding(OK, topic, f"bf16 is worth using: the CPU has {', '.join(found)}")


def check_cores(topology: Topology, online_cpus: int, allowed_cpus: int) -> Finding:
    """Tell how much of the machine this process may use; `online_cpus` and `allowed_cpus` count hardware threads."""
    topic = "cores"
    found = f"{topology.cores} cores ({allowed_cpus} of the machine's {online_cpus} CPUs)"
    quota = topology.cpu_quota
    if quota is not None and quota < topology.cores:
        return Finding(
            WARNING, topic, f"{found}, but control groups allow the time of {quota:g} CPUs",
            "raise the limit of whoever set it (docker --cpus, Kubernetes resources.limits.cpu), in whole cores",
        )  # fmt: skip
    if allowed_cpus < online_cpus:
        return Finding(
            WARNING, topic, f"{found}: the process is bound to CPUs",
            "start it without taskset or numactl, or give the container or job all CPUs (docker --cpuset-cpus, Slurm "
            "--exclusive); leave it if the others are for other work",
        )  # fmt: skip
    return Finding(OK, topic, found)


def check_ranks(variables: Mapping[str, str], topology: Topology) -> tuple[list[Finding], Plan | None]:
    """Tell which ranks a run would start with these environment variables; the plan is None if there can be none."""
    topic = "ranks"
    try:
        plan = make_plan(variables, topology)
    except InputError as error:
        return [Finding(PROBLEM, topic, "no ranks can be started", str(error))], None
    findings = [Finding(OK, topic, line) for line in describe_plan(plan, variables)]
    nodes, ranks = len(topology.nodes), len(plan.placements)
    if ranks < nodes:
        findings.append(
            Finding(
                WARNING, topic, f"{ranks} for {nodes} NUMA nodes: each computes on memory of other nodes too",
                f"RANKS_PER_NODE={nodes} is faster, if memory allows",
            )
        )  # fmt: skip
    without_memory = [str(node.number) for node in topology.nodes if not node.may_hold_memory]
    if without_memory:
        findings.append(
            Finding(
                WARNING, topic, f"this process may have no memory of NUMA node {', '.join(without_memory)}",
                "give the job those nodes' memory (docker --cpuset-mems), or none of their cores",
            )
        )  # fmt: skip
    for rank, placement in enumerate(plan.placements):
        cpus = len(placement.cpus)
        if placement.threads > cpus:
            findings.append(
                Finding(
                    WARNING, topic, f"rank {rank} starts {placement.threads} threads on {cpus} cores",
                    "unset OMP_NUM_THREADS: it is then as many as cores",
                )
            )  # fmt: skip
    return findings, plan
