"""The launcher's plan for an environment, torchrun's options and errors, and the choice of the backend."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
from pathlib import Path

import pytest
from bert_large.distributed import backend, command, launch
from bert_large.distributed.ccl.libraries import OneCclMissingError
from bert_large.distributed.hosts import Machines
from bert_large.distributed.launch import describe_plan, make_plan
from bert_large.errors import InputError, UserError

from .machines import read_machine


def described(name: str, tmp_path: Path, **variables: str) -> list[str]:
    """Return the description of the plan for a recorded machine."""
    return describe_plan(make_plan(variables, read_machine(name, tmp_path)), variables)


def test_two_nodes(tmp_path: Path) -> None:
    assert described("two_nodes", tmp_path) == [
        "NUMA node 0: 28 cores, 126 GiB",
        "NUMA node 1: 28 cores, 126 GiB",
        "rank 0 here: 28 threads on CPUs 0-27 of NUMA node 0, memory of node 0",
        "rank 1 here: 28 threads on CPUs 28-55 of NUMA node 1, memory of node 1",
    ]


def test_a_cpu_limit_is_described(tmp_path: Path) -> None:
    assert described("two_nodes_quota", tmp_path, RANKS_PER_NODE="1")[2:] == [
        "control groups limit CPU time to 2.5 CPUs",
        "rank 0 here: 2 threads on any of 56 cores, memory interleaved over nodes 0-1",
    ]


def test_cores_for_oneccl_are_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are reserved with several ranks only: a single rank does not communicate."""
    monkeypatch.setattr(backend, "find_oneccl", lambda: None)
    lines = described("two_nodes", tmp_path / "two", BACKEND="ccl")
    assert lines[2] == ("rank 0 here: 27 threads on CPUs 1-27 of NUMA node 0, memory of node 0, CPUs 0 for oneCCL")
    assert "oneCCL" not in described("one_node", tmp_path / "one", BACKEND="ccl")[-1]


@pytest.mark.parametrize(
    ("words", "ccl"),
    [
        (["--backend", "ccl"], True),
        (["--backend=ccl", "--seed", "1"], True),
        (["--backend", "gloo", "--backend", "ccl"], True),
        (["--seed", "1"], False),
        (["--backend"], False),
    ],
)
def test_the_programs_option_can_choose_oneccl(
    words: list[str], ccl: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes precedence over the variable, as in the ranks; the last one counts."""
    monkeypatch.setattr(backend, "find_oneccl", lambda: None)
    variables = launch.with_options({"BACKEND": "gloo", "BIND": ""}, ["-m", "bert_large", "pretrain", *words])
    plan = make_plan(variables, read_machine("two_nodes", tmp_path))
    assert [list(placement.ccl_worker_cpus) for placement in plan.placements] == ([[0], [28]] if ccl else [[], []])


def test_the_launcher_checks_the_programs_backend(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A wrong backend is refused before any rank is started."""
    monkeypatch.setenv("RANKS_PER_NODE", "2")
    monkeypatch.setenv("BIND", "none")
    monkeypatch.setattr(launch, "start", lambda plan, program: pytest.fail("ranks were started"))
    monkeypatch.setattr("sys.argv", ["launch", "train.py", "--backend", "nccl"])
    assert launch.main() == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("bert-large: error: BACKEND is 'nccl'")


def test_a_wrong_command_line_is_reported_by_the_launcher(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any rank is started. The launcher does not know the options of other programs."""
    monkeypatch.setenv("RANKS_PER_NODE", "1")
    monkeypatch.setattr(launch, "start", lambda plan, program: 7)
    monkeypatch.setattr("sys.argv", ["launch", "-m", "bert_large", "pretrain", "--phase", "one"])
    with pytest.raises(SystemExit) as caught:
        launch.main()
    assert caught.value.code == 2
    assert "--phase" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["launch", "train.py", "--phase", "one"])
    assert launch.main() == 7


def test_several_machines_are_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "find_interface", lambda machines: "ib0")
    variables = {"NNODES": "4", "NODE_RANK": "2", "MASTER_ADDR": "node-a"}
    found = "this is host 2 of 4, counted from 0; the first is node-a, port {}; gloo's network interface is {}"
    assert described("one_node", tmp_path / "a", **variables)[1] == found.format(29500, "ib0")
    variables |= {"MASTER_PORT": "1234", "GLOO_SOCKET_IFNAME": "eth3"}
    assert described("one_node", tmp_path / "b", **variables)[1] == found.format(1234, "eth3")


@pytest.mark.parametrize(
    ("name", "variables", "torchrun"),
    [
        ("one_node", {}, False),
        ("one_node", {"DDP": "true"}, True),
        ("one_node", {"RANKS_PER_NODE": "2"}, True),
        ("two_nodes", {}, True),
        ("two_nodes", {"RANKS_PER_NODE": "1"}, False),
    ],
)
def test_one_rank_needs_no_torchrun(name: str, variables: dict[str, str], torchrun: bool, tmp_path: Path) -> None:
    assert make_plan(variables, read_machine(name, tmp_path)).uses_torchrun == torchrun


def test_settings_of_the_user_take_precedence(tmp_path: Path) -> None:
    topology = read_machine("two_nodes", tmp_path)
    assert [place.threads for place in make_plan({"OMP_NUM_THREADS": "5"}, topology).placements] == [5, 5]
    unbound = make_plan({"BIND": "none", "RANKS_PER_NODE": "80"}, topology).placements
    assert len(unbound) == 80 and not any(place.binds_cores or place.memory_nodes for place in unbound)


def test_ranks_of_the_host_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RANKS_PER_NODE takes precedence."""
    monkeypatch.setattr(launch, "find_machines", lambda variables: Machines(own_ranks=4))
    topology = read_machine("two_nodes", tmp_path)
    assert len(make_plan({}, topology).placements) == 4
    assert len(make_plan({"RANKS_PER_NODE": "7"}, topology).placements) == 7


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANKS_PER_NODE": "3"}, r"RANKS_PER_NODE .*3 .*2 cores"),
        ({"RANKS_PER_NODE": "0"}, "RANKS_PER_NODE is '0'"),
        ({"RANKS_PER_NODE": "1000000000", "BIND": "none"}, "RANKS_PER_NODE is '1000000000'"),
        ({"OMP_NUM_THREADS": "all"}, "OMP_NUM_THREADS is 'all'"),
        ({"MAX_RESTARTS": "1.0"}, "MAX_RESTARTS is '1.0'"),
        ({"BIND": "yes"}, "BIND is 'yes'"),
        ({"BACKEND": "nccl"}, "BACKEND is 'nccl'"),
        ({"MASTER_PORT": "x"}, "MASTER_PORT is 'x'"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT is '0'"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT is '65536'"),
    ],
)
def test_wrong_settings_are_named(variables: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        make_plan(variables, read_machine("one_node", tmp_path))


def test_options_of_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "find_interface", lambda machines: "ib0")
    topology = read_machine("two_nodes", tmp_path)

    def options(variables: dict[str, str]) -> list[str]:
        plan = make_plan(variables, topology)
        return plan.torchrun_options(*plan.store_address)

    ranks = ["--nproc-per-node", "2", "--max-restarts", "0", "--no-python"]
    alone = ["--local-addr", "127.0.0.1", "--nnodes", "1", "--node-rank", "0", "--master-addr", "127.0.0.1"]
    assert options({"MASTER_PORT": "1234"}) == [*ranks, *alone, "--master-port", "1234"]
    *others, port = options({})
    assert others == [*ranks, *alone, "--master-port"] and int(port) > 1023
    several = {"NNODES": "4", "NODE_RANK": "2", "MASTER_ADDR": "node-a"}
    addressed = ["--nnodes", "4", "--node-rank", "2", "--master-addr", "node-a", "--master-port", "29500"]
    assert options(several) == [*ranks, *addressed]


@pytest.mark.parametrize(("ignored", "handled"), [(True, False), (False, True)])
def test_nohup_is_respected(ignored: bool, handled: bool) -> None:
    """Started with SIGHUP ignored, the launcher must not let torchrun end the run when the terminal is closed."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        signals = launch._signals_to_handle()
    finally:
        signal.signal(signal.SIGHUP, previous)
    assert ("SIGHUP" in signals) == handled and {"SIGTERM", "SIGINT"} <= set(signals)


def test_a_single_rank_with_restarts_uses_torchrun(tmp_path: Path) -> None:
    topology = read_machine("one_node", tmp_path)
    assert not make_plan({"RANKS_PER_NODE": "1"}, topology).uses_torchrun
    plan = make_plan({"RANKS_PER_NODE": "1", "MAX_RESTARTS": "3"}, topology)
    assert plan.uses_torchrun
    assert plan.torchrun_options("127.0.0.1", 1234)[2:4] == ["--max-restarts", "3"]


def test_the_command_prints_the_plan(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On this machine, with the backend and the reason for its choice."""
    monkeypatch.setattr(backend, "has_oneccl", lambda: False)
    for name, value in {"RANKS_PER_NODE": "3", "BIND": "none", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    assert command.run(argparse.Namespace()) == 0
    *_, rank, reason = capsys.readouterr().out.splitlines()
    assert rank.startswith("rank 2 here: 1 thread on ")
    assert reason == "backend gloo: oneCCL is not installed"


@pytest.mark.parametrize(
    ("asked", "oneccl", "intels", "mpi", "launched", "expected"),
    [
        (None, False, False, False, False, ["gloo"]),
        (None, True, False, True, True, ["gloo", "ccl"]),
        (None, True, True, False, False, ["gloo", "ccl"]),
        (None, False, True, True, True, ["ccl"]),
        (None, False, False, True, False, ["gloo"]),
        (None, False, False, True, True, ["mpi"]),
        ("gloo", True, True, True, True, ["gloo"]),
        ("ccl", True, False, False, False, ["ccl"]),
        ("ccl", False, True, False, False, ["ccl"]),
        ("mpi", True, True, True, False, ["mpi"]),
    ],
)
def test_the_backend(
    asked: str | None,
    oneccl: bool,
    intels: bool,
    mpi: bool,
    launched: bool,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one that is asked for, or those to compare; cores are set aside only if ranks are certain to use oneCCL."""
    monkeypatch.setattr("torch.distributed.is_mpi_available", lambda: mpi)
    monkeypatch.setattr(backend, "has_oneccl", lambda: oneccl)
    if oneccl:
        monkeypatch.setattr(backend, "find_oneccl", lambda: None)
    monkeypatch.setattr(backend, "_has_intels_bindings", lambda: intels)
    if launched:
        monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    names, reason = backend.choose_backends(asked)
    assert list(names) == expected
    assert (reason == "asked for") == (asked is not None)
    assert backend.can_use_ccl(asked) == ("ccl" in expected)
    assert backend.sets_cores_aside(asked) == (expected == ["ccl"])


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"gloo": 0.05, "ccl": 0.02}, "ccl"),
        ({"gloo": 0.02, "ccl": 0.05}, "gloo"),
        ({"gloo": 0.0195, "ccl": 0.02}, "ccl"),
    ],
)
def test_the_fastest_backend(seconds: dict[str, float], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process group at a time, the last one with the fastest backend; the favorite wins ties."""
    events: list[str] = []
    monkeypatch.setattr(backend, "_time_sum", lambda: seconds[events[-1]])
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: events.append("end"))
    found, reason = backend.start_fastest(("gloo", "ccl"), events.append)
    assert found == expected
    assert events == ["gloo", "end", "ccl", *(["end", "gloo"] if expected == "gloo" else [])]
    assert all(f"{name} {1000 * value:.1f} ms" in reason for name, value in seconds.items())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("ccl", r"BACKEND=ccl .*oneccl-cpu.*\[ccl\]"),
        ("mpi", "BACKEND is mpi, .*PyTorch"),
        ("nccl", "BACKEND is 'nccl'"),
    ],
)
def test_an_unavailable_backend_is_refused(asked: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "find_oneccl", raise_missing)
    with pytest.raises(InputError, match=message):
        backend.choose_backends(asked)


def raise_missing() -> None:
    raise OneCclMissingError("No module named oneccl-cpu")


def test_mpi_is_not_for_torchruns_ranks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each of them would take itself for the only rank, and train alone."""
    monkeypatch.setattr("torch.distributed.is_mpi_available", lambda: True)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert "mpi" not in backend.choose_backends()[0]
    with pytest.raises(InputError, match=r"BACKEND is mpi, .*mpirun"):
        backend.choose_backends("mpi")
    with pytest.raises(InputError, match=r"BACKEND is mpi, .*mpirun"):
        make_plan({"BACKEND": "mpi"}, read_machine("two_nodes", tmp_path))


def test_missing_libraries_are_reported_before_ranks_are_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single rank does not communicate, and needs none."""
    monkeypatch.setattr(backend, "find_oneccl", raise_missing)
    with pytest.raises(InputError, match=r"BACKEND=ccl .*oneccl-cpu"):
        make_plan({"BACKEND": "ccl"}, read_machine("two_nodes", tmp_path / "two"))
    make_plan({"BACKEND": "ccl"}, read_machine("one_node", tmp_path / "one"))


def test_bindings_that_cannot_be_loaded_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of another version of PyTorch: using another backend instead would go unnoticed."""
    (tmp_path / "oneccl_bindings_for_pytorch.py").write_text("raise ImportError('undefined symbol: _ZN3c10')")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("oneccl_bindings_for_pytorch") is not None
    monkeypatch.setattr(backend, "has_oneccl", lambda: False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert backend.choose_backends()[0] == ("ccl",)
    with pytest.raises(UserError, match=r"undefined symbol: _ZN3c10; .* BACKEND=gloo"):
        backend.load_ccl(0, 1, one_host=True)
