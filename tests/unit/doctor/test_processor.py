"""Checks of the processor: precision, cores and ranks, on recorded machines."""

from __future__ import annotations

from pathlib import Path

import pytest
from bert_large import engines
from bert_large.cpp_library import LibraryBuildError
from bert_large.distributed.topology import Node, Topology
from bert_large.doctor import processor
from bert_large.doctor.finding import OK, PROBLEM, WARNING
from bert_large.doctor.processor import check_cores, check_precision, check_ranks

from tests.unit.distributed.machines import read_machine

SAPPHIRE_RAPIDS = frozenset({"avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16"})
SKYLAKE = frozenset({"avx2", "fma", "avx512f"})


@pytest.mark.parametrize(
    ("flags", "speedup", "level", "advice"),
    [
        (SAPPHIRE_RAPIDS, 4.0, OK, "use bf16"),
        (SAPPHIRE_RAPIDS - {"amx_bf16"}, 1.5, OK, "use bf16"),
        (SAPPHIRE_RAPIDS - {"amx_bf16"}, 1.1, OK, "use fp32"),
        (SKYLAKE, None, OK, "use fp32"),
        (SKYLAKE | {"avx512_fp16"}, None, OK, "use fp32"),
        (frozenset[str](), None, WARNING, "/proc/cpuinfo"),
    ],
)
def test_the_precision_to_use(
    flags: frozenset[str], speedup: float | None, level: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is measured where the CPU has instructions for bf16, and only there: emulation can take minutes."""

    def measure() -> float:
        assert speedup is not None
        return speedup

    monkeypatch.setattr(processor, "measure_bf16_speedup", measure)
    (finding,) = check_precision(flags, None)
    assert finding.level == level and advice in finding.found
    assert speedup is None or f"{speedup} times" in finding.found


def test_the_speedup_is_measured() -> None:
    assert processor.measure_bf16_speedup() > 0


def test_the_speedup_is_measured_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise LibraryBuildError("no compiler")

    monkeypatch.setattr(engines, "load_kernels", fail)
    monkeypatch.setattr(engines.ipex, "find_fault", lambda: "not installed")
    assert processor.measure_bf16_speedup() > 0


def test_the_precision_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "measure_bf16_speedup", lambda: 2.0)
    assert [finding.level for finding in check_precision(SAPPHIRE_RAPIDS, "bf16")] == [OK, OK]
    *_, emulated = check_precision(SKYLAKE, "bf16")
    assert emulated.level == WARNING and "emulated" in emulated.found and "PRECISION=fp32" in emulated.remedy
    *_, engine = check_precision(SAPPHIRE_RAPIDS, "fp16")
    assert engine.level == WARNING and "fp16" in engine.found


@pytest.mark.parametrize(
    ("quota", "allowed", "level", "found"),
    [
        (None, 8, OK, "8 cores (8 of the machine's 8 CPUs)"),
        (8.0, 8, OK, "8 cores (8 of the machine's 8 CPUs)"),
        (2.5, 8, WARNING, "8 cores (8 of the machine's 8 CPUs), but the cgroup limits CPU time to 2.5 CPUs"),
        (None, 4, WARNING, "8 cores (4 of the machine's 8 CPUs): the process is restricted to a subset of the CPUs"),
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
        ("two_nodes", {"RANKS_PER_NODE": "1"}, "1 for 2 NUMA nodes"),
        ("two_nodes_no_memory", {}, "this process is not allowed to allocate memory on NUMA node 1"),
        ("two_nodes", {"OMP_NUM_THREADS": "999"}, "rank 0 starts 999 threads on "),
    ],
)
def test_ranks_that_could_do_better(machine: str, variables: dict[str, str], found: str, tmp_path: Path) -> None:
    findings, _ = check_ranks(variables, read_machine(machine, tmp_path))
    warnings = [finding for finding in findings if finding.level == WARNING]
    assert warnings and warnings[0].found.startswith(found)


def test_ranks_that_cannot_be(tmp_path: Path) -> None:
    (finding,), plan = check_ranks({"RANKS_PER_NODE": "5000"}, read_machine("two_nodes", tmp_path))
    assert plan is None and finding.level == PROBLEM and "5000" in finding.remedy
