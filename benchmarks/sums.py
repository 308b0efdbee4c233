"""Time and CPU time of sums over the ranks of one machine, by backend, transport, size and dtype.

    python benchmarks/sums.py --rounds 20 [--ranks 2] [--json]

Each combination of backend and transport has its own processes, one per rank, because the libraries read their
settings once. All of them take turns in every round, while the others wait.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch
from bert_large.bench.options import COUNT, parse_options, script_parser
from bert_large.bench.output import run_script, to_json
from bert_large.config.options import option, setting
from bert_large.cpu import read_cpu_model
from bert_large.distributed.ccl.libraries import has_oneccl
from bert_large.distributed.joining import joined_ranks
from bert_large.distributed.network import free_port
from bert_large.errors import UserError
from bert_large.tables import format_table
from bert_large.worker_processes import end_with_parent
from torch import distributed

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WARMUPS = 2


@dataclass(frozen=True, kw_only=True)
class SumOptions:
    """Options of this benchmark."""

    rounds: int = setting(20, "timed rounds", within=COUNT, variable="")
    ranks: int = setting(2, "ranks, each bound to one core", within=COUNT, variable="")
    json: bool = option(False, "print one JSON object instead of a table")
    sizes_mb: Sequence[float] = (0.01, 1.0, 25.0, 100.0)


@dataclass(frozen=True)
class Transport:
    """A backend and the variables of its transport."""

    backend: str
    variables: Mapping[str, str] = field(default_factory=dict)


def transports() -> dict[str, Transport]:
    """Return the combinations that can be measured here, by name."""
    several = {
        f"gloo, {number} context{'' if number == 1 else 's'}": Transport(
            "gloo", {"GLOO_SOCKET_IFNAME": ",".join(["lo"] * number)}
        )
        for number in (1, 2, 4)
    }
    if has_oneccl():
        several["ccl, shared memory"] = Transport("ccl", {"GLOO_SOCKET_IFNAME": "lo"})
        several["ccl, tcp"] = Transport("ccl", {"GLOO_SOCKET_IFNAME": "lo", "CCL_ATL_SHM": "0"})
    return several


def _serve(connection: Connection, transport: Transport, rank: int, ranks: int, port: int) -> None:
    """Run sums of the sizes that are asked for, until the pipe is closed."""
    end_with_parent()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port), **transport.variables}  # fmt: skip
    with joined_ranks(transport.backend), contextlib.suppress(EOFError):
        connection.send(None)
        while True:
            size_bytes, dtype = connection.recv()
            values = torch.zeros(int(size_bytes) // DTYPES[dtype].itemsize, dtype=DTYPES[dtype])
            distributed.barrier()
            begun, cpu_begun = time.perf_counter(), time.process_time()
            distributed.all_reduce(values)
            connection.send((time.perf_counter() - begun, time.process_time() - cpu_begun))


class _Group:
    """The processes of a combination."""

    def __init__(self, transport: Transport, ranks: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connections, port = [], free_port()
        for rank in range(ranks):
            ours, theirs = context.Pipe()
            context.Process(target=_serve, args=(theirs, transport, rank, ranks, port), daemon=True).start()
            theirs.close()
            self._connections.append(ours)
        self._collect()

    def _collect(self) -> list[Any]:
        try:
            return [connection.recv() for connection in self._connections]
        except (EOFError, ConnectionError):
            raise UserError("a rank of the benchmark ended early; its error is printed above") from None

    def run(self, size_bytes: float, dtype: str) -> tuple[float, float]:
        """Return the seconds of the slowest rank, and the CPU seconds of all ranks."""
        for connection in self._connections:
            connection.send((size_bytes, dtype))
        seconds, cpu_seconds = zip(*self._collect(), strict=True)
        return max(seconds), sum(cpu_seconds)

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            connection.close()


def measure(options: SumOptions) -> dict[str, Any]:
    """Measure every combination in alternating rounds."""
    cases = {f"{dtype} {size:g} MB": (size * 1e6, dtype) for dtype in DTYPES for size in options.sizes_mb}
    rounds: list[dict[tuple[str, str], tuple[float, float]]] = []
    with contextlib.ExitStack() as stack:
        groups: dict[str, _Group] = {}
        for name, transport in transports().items():
            groups[name] = _Group(transport, options.ranks)
            stack.callback(groups[name].close)
        for _ in range(options.rounds + WARMUPS):
            rounds.append({(name, case): groups[name].run(*cases[case]) for case in cases for name in groups})
    return {
        "benchmark": "sums", "ranks": options.ranks, "rounds": options.rounds, "torch": torch.__version__,
        "cpu": read_cpu_model(),
        "milliseconds": {name: {case: _summarize([times[name, case] for times in rounds[WARMUPS:]]) for case in cases}
                         for name in groups},
    }  # fmt: skip


def _summarize(times: Sequence[tuple[float, float]]) -> dict[str, float]:
    seconds, cpu_seconds = ([1000 * value for value in values] for values in zip(*times, strict=True))
    quartiles = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [seconds[0]] * 3
    return {
        "min": min(seconds), "lower_quartile": quartiles[0], "median": statistics.median(seconds),
        "upper_quartile": quartiles[2], "cpu_median": statistics.median(cpu_seconds),
    }  # fmt: skip


def render(results: dict[str, Any]) -> str:
    """Return the results as text: median milliseconds, quartiles, and CPU milliseconds of all ranks."""
    tables = results["milliseconds"]
    cases = list(next(iter(tables.values())))
    rows = [["", *cases]]
    for name, found in tables.items():
        rows.append([name, *(
            f"{case['median']:.2f} ({case['lower_quartile']:.2f}-{case['upper_quartile']:.2f}), "
            f"{case['cpu_median']:.2f}"
            for case in found.values()
        )])  # fmt: skip
    heading = (
        f"{results['ranks']} ranks of one core, torch {results['torch']}, {results['cpu']}, {results['rounds']} "
        "alternating rounds: median milliseconds (quartiles), and median CPU milliseconds of all ranks"
    )
    return f"{heading}\n{format_table(rows)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = script_parser(SumOptions, "sums over ranks, by backend, transport and size")
    parser.add_argument("--sizes-mb", type=float, nargs="+", default=SumOptions.sizes_mb, help="sizes in 10^6 bytes")
    options = parse_options(SumOptions, parser.parse_args(argv))
    results = measure(options)
    sys.stdout.write(f"{to_json(results) if options.json else render(results)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
