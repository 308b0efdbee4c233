"""Findings on the processor: precision, cores, and the places of ranks, of recorded machines."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large.distributed.topology import Node, Topology
from bert_large.doctor.finding import OK, PROBLEM, WARNING
from bert_large.doctor.processor import check_cores, check_precision, check_ranks

from tests.unit.distributed.machines import read_machine

SAPPHIRE_RAPIDS = frozenset({"avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16"})
SKYLAKE = frozenset({"avx2", "fma", "avx512f"})


@pytest.mark.parametrize(
    ("flags", "level", "found"),
    [
        (SAPPHIRE_RAPIDS, OK, "bf16 is worth using: the CPU has amx_bf16, avx512_bf16, avx512_fp16"),
        (SAPPHIRE_RAPIDS - {"amx_bf16"}, OK, "bf16 is worth using: the CPU has avx512_bf16, avx512_fp16"),
        (SKYLAKE, OK, "fp32 is worth using: of amx_bf16, avx512_bf16, amx_fp16, avx512_fp16 this CPU has none, "
         "and bf16 would be emulated"),
        (SKYLAKE | {"avx512_fp16"}, OK, "fp32 is worth using: of amx_bf16, avx512_bf16, amx_fp16, avx512_fp16 this "
         "CPU has avx512_fp16, and bf16 would be emulated"),
        (frozenset[str](), WARNING, "/proc/cpuinfo names no CPU flags"),
    ],
)  # fmt: skip
def test_the_precision_worth_using(flags: frozenset[str], level: str, found: str) -> None:
    (finding,) = check_precision(flags, None)
    assert (finding.level, finding.found) == (level, found)


def test_the_precision_asked_for() -> None:
    assert [finding.level for finding in check_precision(SAPPHIRE_RAPIDS, "bf16")] == [OK, OK]
    *_, emulated = check_precision(SKYLAKE, "bf16")
    assert emulated.level == WARNING and emulated.found.startswith("precision bf16: bf16 matrix products (emulated)")
    assert emulated.remedy.endswith("use PRECISION=fp32 here")
    *_, engine = check_precision(SAPPHIRE_RAPIDS, "fp16")
    assert engine.level == WARNING and "no kernels for fp16" in engine.found


@pytest.mark.parametrize(
    ("quota", "allowed", "level", "found"),
    [
        (None, 8, OK, "8 cores (8 of the machine's 8 CPUs)"),
        (8.0, 8, OK, "8 cores (8 of the machine's 8 CPUs)"),
        (2.5, 8, WARNING, "8 cores (8 of the machine's 8 CPUs), but control groups allow the time of 2.5 CPUs"),
        (None, 4, WARNING, "8 cores (4 of the machine's 8 CPUs): the process is bound to CPUs"),
    ],
)
def test_cores(quota: float | None, allowed: int, level: str, found: str) -> None:
    eight = Topology((Node(0, tuple((cpu,) for cpu in range(8)), None, may_hold_memory=True),), quota)
    finding = check_cores(eight, 8, allowed)
    assert (finding.level, finding.found) == (level, found)


def test_ranks_of_two_nodes(tmp_path: Path) -> None:
    findings, plan = check_ranks({}, read_machine("two_nodes", tmp_path))
    assert plan is not None and len(plan.placements) == 2
    assert {finding.level for finding in findings} == {OK}
    assert findings[0].found.startswith("NUMA node 0: ") and findings[2].found.startswith("rank 0 here: ")


@pytest.mark.parametrize(
    ("machine", "variables", "found"),
    [
        ("two_nodes", {"RANKS_PER_NODE": "1"}, "1 for 2 NUMA nodes: each computes on memory of other nodes too"),
        ("two_nodes_no_memory", {}, "this process may have no memory of NUMA node 1"),
        ("two_nodes", {"OMP_NUM_THREADS": "999"}, "rank 0 starts 999 threads on "),
    ],
)
def test_ranks_that_could_do_better(machine: str, variables: dict[str, str], found: str, tmp_path: Path) -> None:
    findings, _ = check_ranks(variables, read_machine(machine, tmp_path))
    warnings = [finding for finding in findings if finding.level == WARNING]
    assert warnings and warnings[0].found.startswith(found)


def test_ranks_that_cannot_be(tmp_path: Path) -> None:
    (finding,), plan = check_ranks({"RANKS_PER_NODE": "5000"}, read_machine("two_nodes", tmp_path))
    assert plan is None and finding.level == PROBLEM and "5000 ranks" in finding.remedy
