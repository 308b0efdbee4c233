"""Cost of training on several ranks of one machine, against one rank on the same cores.

    python benchmarks/ranks.py --layers 8 --global-batch-size 64 --compare one silent plain --rounds 3 [--json]

Each rank is a process that runs tasks it is asked for over a pipe, so that all tasks can take turns: training with the
default settings ("ranks"), one rank on all cores ("one"), training without summing gradients ("silent": the time if
communication were free), other bucket sizes, bf16 gradients, divided optimizer state ("zero1"), and "plain": only a sum
of as many bytes, beside a copy in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_large.bench.options import COUNT, PhaseOptions, parse_options, script_parser
from bert_large.bench.output import describe_run, measure_and_print, run_script
from bert_large.bench.training import open_batches
from bert_large.config.options import setting
from bert_large.config.training import RanksConfig
from bert_large.data.order import deal_to_ranks
from bert_large.engines import resolve_engine
from bert_large.errors import InputError
from bert_large.observe.timing import Timing, alternate, as_dicts, format_spread, spread
from bert_large.tables import format_table
from rank_processes import COPY_BYTES, Group, Job, Task

COMPARISONS = ("one", "silent", "buckets", "bf16", "zero1", "plain")
Reports = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
"""By task, for each timed round, what each rank has reported."""


@dataclass(frozen=True, kw_only=True)
class RankOptions(PhaseOptions):
    """Options of this benchmark."""

    rounds: int = setting(5, "timed rounds", within=COUNT, variable="")
    layers: int = setting(4, "encoder layers", within=COUNT, variable="")
    ranks: int = setting(2, "ranks, which share the cores", within=COUNT, variable="")
    backend: str = setting("gloo", "communication backend", choices=("gloo", "ccl"), variable="")
    compare: Sequence[str] = COMPARISONS
    bucket_mb: Sequence[float] = (1.0, 5.0, 100.0)


def _split_cores(ranks: int) -> list[list[int]]:
    """Return the cores of each rank: the same number for each, neighbors by number."""
    cores = sorted(os.sched_getaffinity(0))
    if ranks > len(cores):
        raise InputError(f"--ranks is {ranks}, expected at most one per core; there are {len(cores)} cores")
    share = len(cores) // ranks
    return [cores[rank * share : (rank + 1) * share] for rank in range(ranks)]


def _make_tasks(comparisons: Sequence[str], buckets_mb: Sequence[float]) -> dict[str, Task]:
    """Return the tasks of the several ranks by name; "ranks", training with the defaults, is always included."""
    default = RanksConfig()
    tasks = {"ranks": Task()}
    if "silent" in comparisons:
        tasks["silent"] = Task(silent=True)
    if "buckets" in comparisons:
        others = [size for size in buckets_mb if size != default.bucket_mb]
        tasks |= {f"bucket_mb {size:g}": Task(settings=RanksConfig(bucket_mb=size)) for size in others}
    if "bf16" in comparisons:
        tasks["bf16"] = Task(settings=RanksConfig(gradient_compression="bf16"))
    if "zero1" in comparisons:
        tasks["zero1"] = Task(settings=RanksConfig(zero1=True))
    if "plain" in comparisons:
        bf16 = RanksConfig(gradient_compression="bf16")
        tasks |= {"plain": Task(kind="plain"), "plain bf16": Task(kind="plain", settings=bf16)}
        tasks["copy"] = Task(kind="copy")
    return tasks


@contextlib.contextmanager
def _groups(job: Job, cores: Sequence[Sequence[int]], with_one: bool) -> Iterator[tuple[Group, Group | None]]:
    """Start the several ranks and, if asked for, the one rank that has all of their cores."""
    groups = [Group(job, cores)]
    try:
        if with_one:
            groups.append(Group(job, [[core for rank_cores in cores for core in rank_cores]]))
        yield groups[0], groups[1] if with_one else None
    finally:
        for group in groups:
            group.close()


def measure(options: RankOptions) -> dict[str, Any]:
    """Measure optimizer steps on several ranks and the tasks they are compared with."""
    ranks, batch_size = options.ranks, options.batch_size
    engine, _ = resolve_engine(options.engine, options.precision)
    cores = _split_cores(ranks)
    if batch_size < ranks:
        raise InputError(f"--global-batch-size is {batch_size}, expected at least one sequence per rank")
    tasks = _make_tasks(options.compare, options.bucket_mb)
    with tempfile.TemporaryDirectory(prefix="bert-large-bench-") as folder:
        batches = open_batches(Path(folder), options.model, options, steps=1)
        job = Job(model=options.model, engine=options.engine, precision=options.precision, backend=options.backend,
                  batches=batches)  # fmt: skip
        with _groups(job, cores, "one" in options.compare) as (several, one):
            variants = {name: several.variant(name, task, options.warmups) for name, task in tasks.items()}
            if one is not None:
                variants["one"] = one.variant("one", Task(), options.warmups)
            timings = alternate(variants, rounds=options.rounds, warmups=options.warmups)
            reports = several.reports | (one.reports if one is not None else {})
        lengths = batches.dataset.lengths(batches.order.record_numbers(0, batch_size))
    loads = [int(lengths[positions].sum()) for positions in deal_to_ranks(lengths, ranks)]
    return {
        **describe_run("ranks", options, engine.name),
        "phase": options.phase,
        "backend": options.backend,
        "ranks": ranks,
        "cores_per_rank": len(cores[0]),
        "threads": sum(map(len, cores)),
        "global_batch_size": batch_size,
        "micro_batch_tokens": options.micro_batch_tokens,
        "tokens": sum(loads),
        "most_tokens_over_mean": max(loads) * ranks / sum(loads),
        "bucket_mb": RanksConfig().bucket_mb,
        **_ratios(timings),
        **_bounds(timings, reports, ranks),
        "variants": {name: _summarize(reports[name]) for name in reports if "sum_seconds" in reports[name][0][0]},
        "seconds": as_dicts(timings),
    }


def _ratios(timings: Mapping[str, Timing]) -> dict[str, Any]:
    """Return the throughput of the ranks over that of one rank, and over that without communication."""
    return {
        key: spread(timings[other].over(timings["ranks"]))
        for key, other in (("throughput_ratio", "one"), ("throughput_over_silent", "silent"))
        if other in timings
    }


def _bounds(timings: Mapping[str, Timing], reports: Reports, ranks: int) -> dict[str, float]:
    """Return the rates to compare the sum of gradients with, and the lower bounds of its time.

    The plain sum has as many bytes and nothing beside it. The memory bound: each rank sends 2 (n - 1) / n of its bytes
    round the ring, and each byte is read and written once on its way, while all ranks copy at once.
    """
    if "plain" not in timings:
        return {}
    sent = reports["plain"][0][0]["gradient_bytes"]
    copied = 2 * COPY_BYTES / timings["copy"].median
    return {
        "gradient_bytes": sent,
        "plain_sum_seconds": timings["plain"].median,
        "plain_sum_bytes_per_second": sent / timings["plain"].median,
        "plain_bf16_sum_seconds": timings["plain bf16"].median,
        "plain_bf16_sum_bytes_per_second": sent / timings["plain bf16"].median,
        "copy_bytes_per_second_and_rank": copied,
        "copy_bound_seconds": 2 * sent * 2 * (ranks - 1) / ranks / copied,
    }


def _summarize(rounds: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the slowest rank's measurements: of times the median over rounds, of sizes the largest."""
    results: dict[str, Any] = {}
    for name in rounds[0][0]:
        slowest = [max(report[name] for report in ranks) for ranks in rounds]
        results[name] = statistics.median(slowest) if name.endswith("_seconds") else max(slowest)
    return results


def render(results: dict[str, Any]) -> str:
    """Return the results as text."""
    rows = [["", "seconds per step, median", "sum of gradients, s", "exposed, s", "sent, MB", "buckets",
             "moments, MB per rank"]]  # fmt: skip
    for name, timing in results["seconds"].items():
        cells = [""] * 5
        if (variant := results["variants"].get(name)) is not None:
            cells = [
                f"{variant['sum_seconds']:.4f}", f"{variant['exposed_seconds']:.4f}",
                f"{variant['sent_bytes'] / 1e6:.1f}", str(variant["buckets"]),
                f"{variant['optimizer_state_bytes'] / 1e6:.1f}",
            ]  # fmt: skip
        rows.append([name, f"{timing['median']:.4f}", *cells])
    lines = [
        f"phase {results['phase']}, {results['layers']} layers with both heads (vocabulary of "
        f"{results['vocab_size']}), {results['precision']}, engine {results['engine']}, "
        f"{results['global_batch_size']} sequences per step "
        f"({results['tokens']} tokens, most on a rank over mean {results['most_tokens_over_mean']:.4f}), "
        f"{results['ranks']} ranks of {results['cores_per_rank']} cores over {results['backend']}, "
        f"buckets of {results['bucket_mb']:g} MiB, "
        f"{results['rounds']} alternating rounds",
        format_table(rows),
    ]
    if "throughput_ratio" in results:
        lines.append(
            f"throughput of {results['ranks']} ranks over one rank on the same cores: "
            f"{format_spread(results['throughput_ratio'])}"
        )
    if "throughput_over_silent" in results:
        lines.append(f"over the same ranks without communication: {format_spread(results['throughput_over_silent'])}")
    if "plain_sum_seconds" in results:
        rates = [f"{results[f'plain{kind}_sum_bytes_per_second'] / 1e9:.2f} GB/s" for kind in ("", "_bf16")]
        lines.append(
            f"plain sum of {results['gradient_bytes'] / 1e6:.1f} MB: {results['plain_sum_seconds']:.4f} s, {rates[0]}; "
            f"in bf16 {results['plain_bf16_sum_seconds']:.4f} s, {rates[1]} of float32; by memory, at "
            f"{results['copy_bytes_per_second_and_rank'] / 1e9:.1f} GB/s per rank, "
            f"{results['copy_bound_seconds']:.4f} s"
        )
    peaks = (f"{name} {variant['peak_memory_bytes'] / 2**30:.2f}" for name, variant in results["variants"].items())
    return "\n".join([*lines, f"peak memory of a rank up to its last round, GiB: {', '.join(peaks)}"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = script_parser(RankOptions, "cost of training on several ranks against one rank")
    parser.add_argument(
        "--compare", nargs="+", choices=COMPARISONS, default=list(COMPARISONS),
        help="one rank on all cores, no communication, other bucket sizes, bf16 gradients, divided optimizer state, a "
        "plain sum of as many bytes (default: all)",
    )  # fmt: skip
    sizes = " ".join(f"{size:g}" for size in RankOptions.bucket_mb)
    parser.add_argument(
        "--bucket-mb", type=_bucket_size, nargs="+", default=RankOptions.bucket_mb,
        help=f"the other bucket sizes in MiB (default {sizes})",
    )  # fmt: skip
    return measure_and_print(parse_options(RankOptions, parser.parse_args(argv)), measure, render)


def _bucket_size(text: str) -> float:
    try:
        return RanksConfig(bucket_mb=float(text)).bucket_mb  # which checks its range
    except (ValueError, InputError):
        raise argparse.ArgumentTypeError(f"{text!r}, expected a size in MiB above 0") from None


if __name__ == "__main__":
    sys.exit(run_script(main))
