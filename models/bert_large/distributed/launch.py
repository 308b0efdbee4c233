"""Start the ranks of this host: one per NUMA node, or `RANKS_PER_NODE`, through torchrun, each bound to its cores.

`python -m bert_large.distributed.launch ARGUMENT ...` runs `python ARGUMENT ...` once per rank. Settings are
environment variables: RANKS_PER_NODE, BIND, BACKEND (or the program's own `--backend`), OMP_NUM_THREADS, MAX_RESTARTS,
DDP, and for several hosts NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT, HOSTFILE. `bert-large ranks` shows the ranks
that would be started.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bert_large import cli
from bert_large.distributed import bind
from bert_large.distributed.backend import check_backend, sets_cores_aside
from bert_large.distributed.hosts import MAX_PORT, Machines, find_interface, find_machines, whole_number
from bert_large.distributed.network import free_port
from bert_large.distributed.placement import RankPlacement, default_ranks, leave_unbound, place_ranks
from bert_large.distributed.topology import Topology, format_list, read_topology
from bert_large.errors import InputError, UserError
from bert_large.standard_streams import print_error_at_once

_DEFAULT_PORT = 29500  # that of torchrun
_LOOPBACK, _LOOPBACK_INTERFACE = "127.0.0.1", "lo"
_STOP_SECONDS = 600
"""How long torchrun waits for ranks after a signal, instead of 30 s: they finish their step and save a checkpoint."""


@dataclass(frozen=True)
class Plan:
    """The ranks to start on this host, and how."""

    topology: Topology
    placements: tuple[RankPlacement, ...]
    """The placement of each rank of this host."""
    machines: Machines
    port: int | None
    """Port of torchrun's store. If None, a default."""
    interface: str | None
    """Network interface for gloo. If None, the one that the user has set."""
    restarts: int
    """How often torchrun starts all ranks again after one has failed."""
    uses_torchrun: bool

    @property
    def store_address(self) -> tuple[str, int]:
        """Address and port at which torchrun's store listens, on the first host."""
        if self.machines.count > 1:
            return str(self.machines.master), self.port or _DEFAULT_PORT
        return _LOOPBACK, self.port or free_port()

    def torchrun_options(self, address: str, port: int) -> list[str]:
        """Return the options for torchrun, with a store at this address."""
        options = ["--nproc-per-node", str(len(self.placements)), "--max-restarts", str(self.restarts), "--no-python"]
        if self.machines.count == 1:
            # Without --local-addr, torchrun needs a host name that resolves. --standalone would do as well, but keeps
            # pickles in a store that anyone on the network can write to.
            options += ["--local-addr", address]
        return [
            *options,
            *("--nnodes", str(self.machines.count)),
            *("--node-rank", str(self.machines.own_position)),
            *("--master-addr", address),
            *("--master-port", str(port)),
        ]


def make_plan(variables: Mapping[str, str], topology: Topology) -> Plan:
    """Return the plan that the environment variables describe for a host; raises `InputError`."""
    machines = find_machines(variables)
    ranks = whole_number(variables, "RANKS_PER_NODE", least=1) or machines.own_ranks or default_ranks(topology)
    bound = variables.get("BIND") or "auto"
    if bound not in ("auto", "none"):
        raise InputError(f"BIND is {bound!r}, expected auto or none")
    several = machines.count > 1 or ranks > 1
    check_backend(variables.get("BACKEND"), by_torchrun=several)
    if bound == "none":
        placements = leave_unbound(topology, ranks)
    else:
        placements = place_ranks(topology, ranks, ccl=several and sets_cores_aside(variables.get("BACKEND")))
    threads = whole_number(variables, "OMP_NUM_THREADS", least=1)
    if threads is not None:
        placements = tuple(replace(placement, threads=threads) for placement in placements)
    interface = None
    if not variables.get("GLOO_SOCKET_IFNAME"):
        interface = find_interface(machines) if machines.count > 1 else _LOOPBACK_INTERFACE
    restarts = whole_number(variables, "MAX_RESTARTS", least=0) or 0
    return Plan(
        topology=topology,
        placements=placements,
        machines=machines,
        port=whole_number(variables, "MASTER_PORT", least=1, most=MAX_PORT),
        interface=interface,
        restarts=restarts,
        uses_torchrun=several or restarts > 0 or variables.get("DDP") == "true",
    )


def with_options(variables: Mapping[str, str], program: Sequence[str]) -> Mapping[str, str]:
    """Return the variables with BACKEND replaced by the program's `--backend`, which the ranks use if it is set."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--backend")
    try:
        asked = parser.parse_known_args(program)[0].backend
    except argparse.ArgumentError:  # which the program itself reports
        asked = None
    return variables if asked is None else {**variables, "BACKEND": asked}


def describe_plan(plan: Plan, variables: Mapping[str, str]) -> list[str]:
    """Return a description of the host and of each rank to start on it, one line each."""
    lines = [
        f"NUMA node {node.number}: {bind.count(len(node.cores), 'core')}"
        + (f", {node.memory_bytes / 2**30:.0f} GiB" if node.memory_bytes else "")
        for node in plan.topology.nodes
    ]
    if plan.topology.threads < plan.topology.cores:
        lines.append(f"control groups limit CPU time to {plan.topology.cpu_quota:g} CPUs")
    machines = plan.machines
    if machines.count > 1:
        lines.append(
            f"this is host {machines.own_position} of {machines.count}, counted from 0; "
            f"the first is {machines.master}, port {plan.port or _DEFAULT_PORT}; "
            f"gloo's network interface is {plan.interface or variables['GLOO_SOCKET_IFNAME']}"
        )
    for rank, placement in enumerate(plan.placements):
        set_aside = placement.ccl_worker_cpus
        lines.append(
            f"rank {rank} here: {bind.count(placement.threads, 'thread')} "
            + bind.describe(placement, variables)
            + (f", CPUs {format_list(set_aside)} for oneCCL" if set_aside else "")
        )
    return lines


def start(plan: Plan, program: Sequence[str]) -> int:
    """Run a Python program as the ranks of the plan, and return the exit code: that of the first rank that fails.

    A single rank without torchrun replaces this process.
    """
    if not plan.uses_torchrun:
        bind.become(plan.placements, 0, [sys.executable, *program])
    os.environ[bind.PLACEMENTS_VARIABLE] = bind.encode_placements(plan.placements)
    os.environ["OMP_NUM_THREADS"] = str(plan.placements[0].threads)  # set again by each rank; torchrun warns without it
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_STOP_SECONDS))
    if plan.interface is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = plan.interface
    return _torchrun(plan, [sys.executable, "-m", bind.__name__, sys.executable, "-u", *program])


def _torchrun(plan: Plan, command: Sequence[str]) -> int:
    from torch.distributed import DistError, run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    address, port = plan.store_address
    options = plan.torchrun_options(address, port)
    if "--signals-to-handle" in run.get_args_parser()._option_string_actions:
        options += ["--signals-to-handle", ",".join(_signals_to_handle())]
    try:
        run.main([*options, *command])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        print_error_at_once(f"bert-large: error: rank {rank} {ended}")
        return 128 - code if code < 0 else code
    except SignalException as error:
        return 128 + int(error.sigval)
    except DistError as error:
        raise _explain_store_error(plan, address, port, str(error)) from None
    return 0


def _signals_to_handle() -> list[str]:
    """Return the signals that torchrun passes on to ranks, without those that this process was started to ignore.

    `nohup` has its program ignore SIGHUP. torchrun would replace that and end the run when the terminal is closed.
    """
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else set()
    return [number.name for number in handled if number not in ignored]


def _explain_store_error(plan: Plan, address: str, port: int, problem: str) -> UserError:
    if "EADDRINUSE" in problem:
        return InputError(
            f"MASTER_PORT {port} is in use by another program on this host; set MASTER_PORT to a free port"
            + (", the same one on all hosts" if plan.machines.count > 1 else "")
        )
    return UserError(
        f"host {plan.machines.own_position} of {plan.machines.count} could not join the others at {address}:{port}: "
        f"{problem.splitlines()[0]}. Check MASTER_ADDR and MASTER_PORT, that the ranks of all hosts were started, "
        "and that the hosts can reach each other"
    )


def main() -> int:
    """Start the ranks that the environment describes."""
    try:
        program = sys.argv[1:]
        if program[:2] == ["-m", "bert_large"]:
            cli.parse(program[2:])  # so that an error in the command line is printed once, not by every rank
        else:
            program = cli.expand_environment(program)
        return start(make_plan(with_options(os.environ, program), read_topology()), program)
    except UserError as error:
        print_error_at_once(f"bert-large: error: {error}")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
