"""Binding: the system calls, their refusal, and the variables for the libraries of a rank."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bert_large.distributed import bind
from bert_large.distributed.placement import RankPlacement, place_ranks

from .machines import read_machine

PROJECT = Path(__file__).resolve().parents[3]


def placement(**changes: object) -> RankPlacement:
    values: dict[str, object] = {"nodes": (1,), "cpus": (4, 5, 6, 9), "threads": 4, "binds_cores": True, **changes}
    return RankPlacement(**values)  # type: ignore[arg-type]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...]]]:
    """The system calls made, all of which succeed."""
    asked: list[tuple[str, tuple[int, ...]]] = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cpus: asked.append(("cores", tuple(cpus))))
    monkeypatch.setattr(bind, "set_memory_policy", lambda nodes: asked.append(("memory", tuple(nodes))))
    return asked


@pytest.mark.parametrize(
    ("changes", "asked", "line"),
    [
        ({"memory_nodes": (1,)}, [("cores", (4, 5, 6, 9)), ("memory", (1,))],
         "on CPUs 4-6,9 of NUMA node 1, memory of node 1"),
        ({"nodes": (0, 1), "memory_nodes": (0, 1)}, [("cores", (4, 5, 6, 9)), ("memory", (0, 1))],
         "on CPUs 4-6,9 of NUMA nodes 0-1, memory interleaved over nodes 0-1"),
        ({"cpus": (4,), "threads": 1}, [("cores", (4,))], "on CPU 4 of NUMA node 1"),
        ({"binds_cores": False}, [], "on any of 4 cores"),
    ],
)  # fmt: skip
def test_the_system_calls_of_a_placement(
    changes: dict[str, object], asked: list[object], line: str, calls: list[tuple[str, tuple[int, ...]]]
) -> None:
    assert bind.bind(placement(**changes), {}) == bind.describe(placement(**changes), {}) == line
    assert calls == asked


@pytest.mark.parametrize(
    ("variable", "value", "binds_cores"),
    [
        ("GOMP_CPU_AFFINITY", "0-3", False),
        ("OMP_PLACES", "{0},{1}", False),
        ("KMP_AFFINITY", "granularity=fine,proclist=[0-3],explicit", False),
        ("KMP_AFFINITY", "granularity=fine,compact,1,0", True),
        ("OMP_PLACES", "cores", True),
        ("GOMP_CPU_AFFINITY", "", True),
    ],
)
def test_variables_of_the_user_that_name_cpus(
    variable: str, value: str, binds_cores: bool, calls: list[tuple[str, tuple[int, ...]]]
) -> None:
    line = bind.bind(placement(), {variable: value})
    assert calls == ([("cores", (4, 5, 6, 9))] if binds_cores else [])
    assert line == ("on CPUs 4-6,9 of NUMA node 1" if binds_cores else f"on the CPUs of {variable}")


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS])
def test_a_refusal_is_reported_and_cores_stay_bound(
    code: int, calls: list[tuple[str, tuple[int, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in most containers, whose security profile denies the call."""

    def refuse(nodes: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(bind, "set_memory_policy", refuse)
    line, remark = bind.bind(placement(memory_nodes=(1,)), {}).split("\n")
    assert line == "on CPUs 4-6,9 of NUMA node 1, memory not bound"
    assert os.strerror(code) in remark and "--cap-add SYS_NICE" in remark
    assert calls == [("cores", (4, 5, 6, 9))]


def run_python(code: str, **variables: str) -> str:
    """Run Python code in another process and return its output."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "models"), **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


SHOW_POLICY = "print(open('/proc/self/numa_maps').readline().split()[1])"


@pytest.mark.skipif(not Path("/proc/self/numa_maps").exists(), reason="this kernel has no NUMA")
def test_the_kernel_applies_the_memory_policy() -> None:
    """On node 0, which every machine has; the program that replaces the process keeps it."""
    code = f"""
import os, sys
from bert_large.distributed.bind import set_memory_policy
try:
    set_memory_policy([0])
except OSError as error:
    print("refused", error.strerror)
else:
    os.execv(sys.executable, [sys.executable, "-c", {SHOW_POLICY!r}])
"""
    found = run_python(code).strip()
    if found.startswith("refused"):
        pytest.skip(f"this system does not let memory be bound: {found}")
    assert found == "bind:0"


def test_a_missing_node_is_an_error() -> None:
    with pytest.raises(OSError, match=r"Invalid argument|Operation not permitted"):
        bind.set_memory_policy([1000])


def test_variables_of_a_rank(tmp_path: Path) -> None:
    placements = place_ranks(read_machine("two_nodes", tmp_path), 2)
    assert bind.rank_variables(placements, 1, {}) == {
        "OMP_NUM_THREADS": "28", "KMP_AFFINITY": "granularity=fine,compact,1,0", "KMP_BLOCKTIME": "1",
    }  # fmt: skip
    assert "KMP_AFFINITY" not in bind.rank_variables(placements, 1, {"GOMP_CPU_AFFINITY": "0-3"})
    own = {"KMP_AFFINITY": "none", "KMP_BLOCKTIME": "200"}
    assert bind.rank_variables(placements, 1, own) == {"OMP_NUM_THREADS": "28"}


def test_threads_are_not_pinned_if_cores_are_shared(tmp_path: Path) -> None:
    """Several containers with CPU limits on one machine would all pin their threads to the first cores."""
    placements = place_ranks(read_machine("two_nodes_quota", tmp_path), 2)
    assert "KMP_AFFINITY" not in bind.rank_variables(placements, 0, {})


def test_variables_of_oneccl(tmp_path: Path) -> None:
    """The worker cores of all ranks, in the order of ranks; values set by the user stay."""
    placements = place_ranks(read_machine("two_nodes", tmp_path), 2, ccl=True)
    variables = bind.rank_variables(placements, 1, {})
    assert variables["OMP_NUM_THREADS"] == "27"
    assert {name: value for name, value in variables.items() if name.startswith("CCL")} == {
        "CCL_WORKER_COUNT": "1", "CCL_WORKER_AFFINITY": "0,28", "CCL_PROCESS_LAUNCHER": "none",
        "CCL_LOCAL_SIZE": "2", "CCL_LOCAL_RANK": "1",
    }  # fmt: skip
    assert "CCL_WORKER_COUNT" not in bind.rank_variables(placements, 1, {"CCL_WORKER_COUNT": "2"})


def test_placements_read_back(tmp_path: Path) -> None:
    placements = place_ranks(read_machine("sub_numa_clusters", tmp_path), 2, ccl=True)
    assert tuple(bind.decode_placements(bind.encode_placements(placements))) == placements


def test_a_rank_becomes_its_program() -> None:
    """Its process has the cores and threads when the program starts, without having loaded PyTorch."""
    cpu = min(os.sched_getaffinity(0))
    placements = [placement(), placement(nodes=(0,), cpus=(cpu,), threads=3)]
    code = """
import runpy, sys
sys.argv = ["bind", sys.executable, "-c", \
"import json, os; print(json.dumps([sorted(os.sched_getaffinity(0)), dict(os.environ)]))"]
class Refuse:
    def find_spec(self, name, *_):
        assert name.partition(".")[0] not in ("torch", "numpy"), name
sys.meta_path.insert(0, Refuse())
runpy.run_module("bert_large.distributed.bind", run_name="__main__")
"""
    variables = {bind.PLACEMENTS_VARIABLE: bind.encode_placements(placements), "LOCAL_RANK": "1"}
    cpus, environment = json.loads(run_python(code, **variables))
    assert cpus == [cpu]
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment[bind.BINDING_VARIABLE] == f"on CPU {cpu} of NUMA node 0"
