"""Start the ranks of this machine: one per NUMA node, or `RANKS_PER_NODE`, through torchrun, each bound to its cores.

`python -m bert_large.distributed.launch ARGUMENT ...` runs `python ARGUMENT ...` once per rank. Settings are
environment variables: RANKS_PER_NODE, BIND, BACKEND (or the program's own `--backend`), OMP_NUM_THREADS, MAX_RESTARTS,
DDP, and for several machines NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT, HOSTFILE. `bert-large ranks` shows what would
be started.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bert_large import cli
from bert_large.distributed import bind
from bert_large.distributed.backend import check_backend, will_use_ccl
from bert_large.distributed.hosts import Machines, find_interface, find_machines, whole_number
from bert_large.distributed.placement import RankPlacement, default_ranks, leave_unbound, place_ranks
from bert_large.distributed.topology import Topology, format_list, read_topology
from bert_large.errors import InputError, UserError

_DEFAULT_PORT = 29500  # torchrun's
_LOOPBACK, _LOOPBACK_INTERFACE = "127.0.0.1", "lo"
_STOP_SECONDS = 600
"""What torchrun gives ranks to end after a signal, instead of 30 s: they finish their step and save a checkpoint."""


@dataclass(frozen=True)
class Plan:
    """What is started on this machine."""

    topology: Topology
    placements: tuple[RankPlacement, ...]
    """Of each rank of this machine."""
    machines: Machines
    port: int | None
    interface: str | None
    """Network interface for gloo; None: the user's choice."""
    restarts: int
    """How often torchrun starts all ranks again after one has failed."""
    uses_torchrun: bool

    def torchrun_options(self) -> list[str]:
        """Return the options that torchrun is given."""
        options = ["--nproc-per-node", str(len(self.placements)), "--max-restarts", str(self.restarts), "--no-python"]
        if self.machines.count == 1:
            # Not --standalone, which keeps pickles in a store that anybody on the network can write to.
            address, port = _LOOPBACK, self.port or _free_port()
            options += ["--local-addr", address]  # else it needs a host name that resolves
        else:
            address, port = str(self.machines.master), self.port or _DEFAULT_PORT
        return [
            *options,
            *("--nnodes", str(self.machines.count)),
            *("--node-rank", str(self.machines.own_position)),
            *("--master-addr", address),
            *("--master-port", str(port)),
        ]


def make_plan(variables: Mapping[str, str], topology: Topology) -> Plan:
    """Return what the environment variables ask for on a machine of this topology; raises `InputError`."""
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
        placements = place_ranks(topology, ranks, ccl=several and will_use_ccl(variables.get("BACKEND")))
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
        port=whole_number(variables, "MASTER_PORT", least=1),
        interface=interface,
        restarts=restarts,
        uses_torchrun=several or restarts > 0 or variables.get("DDP") == "true",
    )


def with_options(variables: Mapping[str, str], program: Sequence[str]) -> Mapping[str, str]:
    """Return the variables as the program's own options change them: `--backend` wins over BACKEND, as in the ranks.

    Options that only the program knows, and what is wrong with its `--backend`, are left to it.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--backend")
    try:
        asked = parser.parse_known_args(program)[0].backend
    except argparse.ArgumentError:
        asked = None
    return variables if asked is None else {**variables, "BACKEND": asked}


def describe_plan(plan: Plan, variables: Mapping[str, str]) -> list[str]:
    """Return what is started on this machine, a line each for a person to read."""
    lines = [
        f"NUMA node {node.number}: {bind.count(len(node.cores), 'core')}"
        + (f", {node.memory_bytes / 2**30:.0f} GiB" if node.memory_bytes else "")
        for node in plan.topology.nodes
    ]
    if plan.topology.threads < plan.topology.cores:
        lines.append(f"control groups allow the time of {plan.topology.cpu_quota:g} CPUs")
    machines = plan.machines
    if machines.count > 1:
        lines.append(
            f"this is machine {machines.own_position} of {machines.count}, from 0; "
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
    """Run a Python program as the plan's ranks and return the exit code: of the rank that failed first, if one does.

    A single rank without torchrun becomes this process.
    """
    if not plan.uses_torchrun:
        bind.become(plan.placements, 0, [sys.executable, *program])
    os.environ[bind.PLACEMENTS_VARIABLE] = bind.encode_placements(plan.placements)
    os.environ["OMP_NUM_THREADS"] = str(plan.placements[0].threads)  # each rank sets its own: without, torchrun warns
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_STOP_SECONDS))
    if plan.interface is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = plan.interface
    return _torchrun([*plan.torchrun_options(), sys.executable, "-m", bind.__name__, sys.executable, "-u", *program])


def _free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind((_LOOPBACK, 0))
        return int(listener.getsockname()[1])


def _torchrun(arguments: Sequence[str]) -> int:
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        run.main(list(arguments))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        print(f"bert-large: error: rank {rank} {ended}", file=sys.stderr)
        return 128 - code if code < 0 else code
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def main() -> int:
    """Start what the environment asks for."""
    try:
        program = sys.argv[1:]
        if program[:2] == ["-m", "bert_large"]:
            cli.parse(program[2:])  # reports errors once, not once per rank
        else:
            program = cli.expand_environment(program)
        return start(make_plan(with_options(os.environ, program), read_topology()), program)
    except UserError as error:
        print(f"bert-large: error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
