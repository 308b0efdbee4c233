"""`bert-large bench ranks`: what it costs to train on several ranks, against one rank on the same cores."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_large.bench.rank_processes import COPY_BYTES, Group, Job, Task
from bert_large.bench.report import describe_model, format_rows, seconds_cells
from bert_large.bench.training import open_batches
from bert_large.config.model import ModelConfig
from bert_large.config.training import RanksConfig
from bert_large.data.order import deal_to_ranks
from bert_large.engines import resolve_engine
from bert_large.errors import InputError
from bert_large.observe.machine import describe_software
from bert_large.observe.timing import Timing, alternate, as_figures, best_and_median

Told = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
"""By task, of each timed round, what each rank has told."""


def _split_cores(ranks: int) -> list[list[int]]:
    """Return the cores of each rank: as many for each, neighbours by number."""
    cores = sorted(os.sched_getaffinity(0))
    if ranks > len(cores):
        raise InputError(f"--ranks is {ranks}, expected a core for each at least; there are {len(cores)} cores")
    share = len(cores) // ranks
    return [cores[rank * share : (rank + 1) * share] for rank in range(ranks)]


def _make_tasks(comparisons: Sequence[str], buckets_mb: Sequence[float]) -> dict[str, Task]:
    """Return the tasks of the several ranks by name; "ranks", training with the defaults, is always among them."""
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
        tasks |= {
            "plain": Task(kind="plain"),
            "plain bf16": Task(kind="plain", settings=RanksConfig(gradient_compression="bf16")),
            "copy": Task(kind="copy"),
        }
    return tasks


@contextlib.contextmanager
def _groups(job: Job, cores: Sequence[Sequence[int]], with_one: bool) -> Iterator[tuple[Group, Group | None]]:
    """Start the several ranks and, if wanted, the one that has all of their cores."""
    groups = [Group(job, cores)]
    try:
        if with_one:
            groups.append(Group(job, [[core for its in cores for core in its]]))
        yield groups[0], groups[1] if with_one else None
    finally:
        for group in groups:
            group.close()


def measure(
    *,
    model: ModelConfig,
    phase: int,
    engine: str,
    precision: str,
    ranks: int,
    global_batch_size: int,
    micro_batch_tokens: int,
    comparisons: Sequence[str],
    buckets_mb: Sequence[float],
    rounds: int,
    warmups: int,
) -> dict[str, Any]:
    """Return the figures of optimizer steps on `ranks` ranks and of what they are compared with, turn by turn."""
    operations, _ = resolve_engine(engine, precision)
    cores = _split_cores(ranks)
    if global_batch_size < ranks:
        raise InputError(f"--global-batch-size is {global_batch_size}, expected one sequence a rank at least")
    tasks = _make_tasks(comparisons, buckets_mb)
    with tempfile.TemporaryDirectory(prefix="bert-large-bench-") as folder:
        batches = open_batches(
            Path(folder), model, phase=phase, steps=1, global_batch_size=global_batch_size,
            micro_batch_tokens=micro_batch_tokens,
        )  # fmt: skip
        job = Job(model=model, engine=engine, precision=precision, batches=batches)
        with _groups(job, cores, "one" in comparisons) as (several, one):
            variants = {name: several.variant(name, task, warmups) for name, task in tasks.items()}
            if one is not None:
                variants["one"] = one.variant("one", Task(), warmups)
            timings = alternate(variants, rounds=rounds, warmups=warmups)
            told = several.figures | (one.figures if one is not None else {})
        lengths = batches.dataset.lengths(batches.order.record_numbers(0, global_batch_size))
    loads = [int(lengths[positions].sum()) for positions in deal_to_ranks(lengths, ranks)]
    return {
        "benchmark": "ranks",
        "phase": phase,
        **describe_model(model),
        "precision": precision,
        "engine": operations.name,
        "ranks": ranks,
        "cores_per_rank": len(cores[0]),
        "global_batch_size": global_batch_size,
        "micro_batch_tokens": micro_batch_tokens,
        "tokens": sum(loads),
        "most_tokens_over_mean": max(loads) * ranks / sum(loads),
        "bucket_mb": RanksConfig().bucket_mb,
        "rounds": rounds,
        "warmups": warmups,
        **_ratios(timings),
        **_bounds(timings, told, ranks),
        "variants": {name: _summarize(told[name]) for name in told if "sum_seconds" in told[name][0][0]},
        "seconds": as_figures(timings),
        **describe_software(),
        "threads": sum(map(len, cores)),
    }


def _ratios(timings: Mapping[str, Timing]) -> dict[str, float]:
    """Return throughput of the ranks over that of one rank on all their cores, and what communication adds."""
    figures = {}
    for suffix, seconds in best_and_median(timings):
        if "one" in seconds:
            figures[f"throughput_ratio{suffix}"] = seconds["one"] / seconds["ranks"]
        if "silent" in seconds:
            figures[f"communication_seconds{suffix}"] = seconds["ranks"] - seconds["silent"]
    return figures


def _bounds(timings: Mapping[str, Timing], told: Told, ranks: int) -> dict[str, float]:
    """Return the rates that summing gradients can be held against, and the least time it can take by each.

    The plain sum is of as many bytes with nothing beside it. By memory, each rank sends 2 (n - 1) / n of its bytes
    round the ring, and each byte is read and written once on its way, while all ranks copy at once.
    """
    if "plain" not in timings:
        return {}
    sent = told["plain"][0][0]["gradient_bytes"]
    copied = 2 * COPY_BYTES / timings["copy"].minimum
    return {
        "gradient_bytes": sent,
        "plain_sum_seconds": timings["plain"].minimum,
        "plain_sum_bytes_per_second": sent / timings["plain"].minimum,
        "plain_bf16_sum_seconds": timings["plain bf16"].minimum,
        "plain_bf16_sum_bytes_per_second": sent / timings["plain bf16"].minimum,
        "copy_bytes_per_second_and_rank": copied,
        "copy_bound_seconds": 2 * sent * 2 * (ranks - 1) / ranks / copied,
    }


def _summarize(rounds: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the figures of a task: of times the median over rounds of the slowest rank's, of sizes the largest."""
    figures: dict[str, Any] = {}
    for name in rounds[0][0]:
        slowest = [max(its[name] for its in ranks) for ranks in rounds]
        figures[name] = statistics.median(slowest) if name.endswith("_seconds") else max(slowest)
    return figures


def render(figures: dict[str, Any]) -> str:
    """Return the figures as text."""
    rows = [["", "seconds a step, min", "median", "sum of gradients, s", "exposed, s", "sent, MB", "buckets",
             "moments, MB a rank"]]  # fmt: skip
    for name, its in figures["seconds"].items():
        told = figures["variants"].get(name)
        cells = (
            ["", "", "", "", ""]
            if told is None
            else [
                f"{told['sum_seconds']:.4f}", f"{told['exposed_seconds']:.4f}", f"{told['sent_bytes'] / 1e6:.1f}",
                str(told["buckets"]), f"{told['optimizer_state_bytes'] / 1e6:.1f}",
            ]
        )  # fmt: skip
        rows.append([name, *seconds_cells(its), *cells])
    lines = [
        f"phase {figures['phase']}, {figures['layers']} layers with both heads ({figures['vocab_size']} words), "
        f"{figures['precision']}, engine {figures['engine']}, {figures['global_batch_size']} sequences a step "
        f"({figures['tokens']} tokens, most on a rank over mean {figures['most_tokens_over_mean']:.4f}), "
        f"{figures['ranks']} ranks of {figures['cores_per_rank']} cores, buckets of {figures['bucket_mb']:g} MiB, "
        f"{figures['rounds']} alternating rounds",
        format_rows(rows),
    ]
    if "throughput_ratio" in figures:
        lines.append(
            f"throughput of {figures['ranks']} ranks over one rank on the same cores: "
            f"{figures['throughput_ratio']:.3f}, of medians {figures['throughput_ratio_median']:.3f}"
        )
    if "communication_seconds" in figures:
        lines.append(
            f"communication adds {figures['communication_seconds']:.4f} s to a step, by medians "
            f"{figures['communication_seconds_median']:.4f} s"
        )
    if "plain_sum_seconds" in figures:
        rates = [f"{figures[f'plain{kind}_sum_bytes_per_second'] / 1e9:.2f} GB/s" for kind in ("", "_bf16")]
        lines.append(
            f"plain sum of {figures['gradient_bytes'] / 1e6:.1f} MB: {figures['plain_sum_seconds']:.4f} s, {rates[0]}; "
            f"in bf16 {figures['plain_bf16_sum_seconds']:.4f} s, {rates[1]} of float32; by memory, at "
            f"{figures['copy_bytes_per_second_and_rank'] / 1e9:.1f} GB/s a rank, {figures['copy_bound_seconds']:.4f} s"
        )
    peaks = ", ".join(f"{name} {its['peak_memory_bytes'] / 2**30:.2f}" for name, its in figures["variants"].items())
    return "\n".join([*lines, f"peak memory of a rank so far, GiB, when each was last run: {peaks}"])
