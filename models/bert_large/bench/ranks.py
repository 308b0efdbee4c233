"""`bert-large bench ranks`: what it costs to train on several ranks, against one rank on the same cores."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from bert_large.bench.machine import describe_software, peak_memory_bytes
from bert_large.bench.report import format_rows
from bert_large.bench.timing import Timing, Variant, alternate
from bert_large.bench.train import build_runner, open_batches
from bert_large.config import ModelConfig, RanksConfig
from bert_large.data.batch import make_batch
from bert_large.data.loader import StepBatches
from bert_large.data.order import deal_to_ranks
from bert_large.distributed.environment import Ranks, joined_ranks
from bert_large.distributed.gradients import GradientSum
from bert_large.engines import resolve_engine
from bert_large.engines.precision import apply_precision
from bert_large.errors import InputError, UserError
from bert_large.model.bert import BertForPreTraining
from bert_large.processes import end_with_parent
from bert_large.train.step import StepRunner

_SEED = 42
_SETTLING_STEPS = 2  # DDP lays its buckets out anew after the first
_COPY_BYTES = 1 << 27


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every rank works on."""

    model: ModelConfig
    engine: str
    precision: str
    batches: StepBatches
    """Of one rank; others take their own part of the same global batch."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Something that ranks are timed at."""

    kind: str = "train"
    """"train": optimizer steps; "plain": the sum of as many bytes and nothing else; "copy": of memory."""
    settings: RanksConfig = field(default_factory=RanksConfig)
    silent: bool = False
    """Train without summing gradients: what the ranks would do if communication were free."""


class _NoSum(GradientSum):
    """In place of a sum of gradients: none."""

    def replicate(self, model: nn.Module, ranks: Ranks) -> nn.Module:
        """Return the model itself."""
        return model


@dataclass
class BucketTimes:
    """When each bucket's sum began and was done, in one step."""

    begun: dict[int, float] = field(default_factory=dict)
    done: dict[int, float] = field(default_factory=dict)
    sent_bytes: int = 0

    def note(self, bucket: int, sent_bytes: int, done: bool) -> None:
        """Note what `GradientSum` tells."""
        if done:
            self.done[bucket] = time.perf_counter()
        else:
            self.begun[bucket] = time.perf_counter()
            self.sent_bytes += sent_bytes

    @property
    def seconds(self) -> float:
        """Time in which any bucket was on its way."""
        total, reached = 0.0, 0.0
        for begun, done in sorted((self.begun[bucket], self.done[bucket]) for bucket in self.begun):
            total += max(0.0, done - max(begun, reached))
            reached = max(reached, done)
        return total

    @property
    def exposed_seconds(self) -> float:
        """Time from the last bucket's beginning, when the backward pass is over, to the end of all sums."""
        return max(self.done.values()) - max(self.begun.values()) if self.begun else 0.0


class _Rank:
    """A process's part in the tasks."""

    def __init__(self, job: Job, ranks: Ranks) -> None:
        self._job, self._ranks = job, ranks
        engine, _ = resolve_engine(job.engine, job.precision)
        self._precision = apply_precision(job.precision)
        self._model = BertForPreTraining(job.model, engine)
        self._model.initialize(_SEED)
        self._micro_batches = job.batches[0]
        first = job.batches.order.record_numbers(0, 1)
        self._single = make_batch(job.batches.dataset.read_all(first), [0])
        self._runner: StepRunner | None = None
        self._times = BucketTimes()
        self._buffers: list[torch.Tensor] = []

    def prepare(self, task: Task) -> dict[str, Any]:
        """Get ready for a task, so that memory is there and buckets are laid out."""
        self._runner, self._buffers = None, []
        self._model.zero_grad(set_to_none=True)
        gc.collect()
        if task.kind == "copy":
            self._buffers = [torch.ones(_COPY_BYTES // 4) for _ in range(2)]
        elif task.kind == "plain":
            size = int(task.settings.bucket_mb * (1 << 20)) // 4
            total = sum(parameter.numel() for parameter in self._model.parameters())
            self._buffers = [torch.ones(min(size, total - start)) for start in range(0, total, size)]
        else:
            sum_type = _NoSum if task.silent else GradientSum
            self._runner = build_runner(
                self._model,
                self._precision,
                global_batch_size=self._job.batches.global_batch_size,
                ranks=self._ranks,
                gradient_sum=sum_type(
                    bucket_mb=task.settings.bucket_mb,
                    compression=task.settings.gradient_compression,
                    on_bucket=lambda *news: self._times.note(*news),
                ),
                zero1=task.settings.zero1,
            )
        if self._runner is not None:
            for step in range(_SETTLING_STEPS):
                self._runner.run(step, [self._single], 0.0, lambda done: None)
        else:
            self.run(task)
        return {}

    def run(self, task: Task) -> dict[str, Any]:
        """Carry a task out and return its figures on this rank."""
        self._times = BucketTimes()
        if task.kind == "copy":
            self._buffers[1].copy_(self._buffers[0])
            return {}
        if task.kind == "plain":
            self._sum_buffers(rounded=task.settings.gradient_compression == "bf16")
            return {"gradient_bytes": sum(buffer.nbytes for buffer in self._buffers)}
        assert self._runner is not None
        self._runner.run(_SETTLING_STEPS, self._micro_batches, 0.0, lambda done: None)
        state = self._runner.optimizer.state.values()
        return {
            "sum_seconds": self._times.seconds,
            "exposed_seconds": self._times.exposed_seconds,
            "sent_bytes": self._times.sent_bytes,
            "buckets": len(self._times.begun),
            "optimizer_state_bytes": sum(
                its.nbytes for moments in state for its in moments.values() if torch.is_tensor(its)
            ),
            "peak_memory_bytes": peak_memory_bytes(),
        }

    def _sum_buffers(self, *, rounded: bool) -> None:
        """Sum the buffers over ranks, rounded to bfloat16 on their way if asked, as `GradientSum` does."""
        sent = [buffer.bfloat16() if rounded else buffer for buffer in self._buffers]
        for work in [distributed.all_reduce(buffer, async_op=True) for buffer in sent]:
            work.wait()
        if rounded:
            for buffer, its in zip(self._buffers, sent, strict=True):
                buffer.copy_(its)


def _serve(connection: Connection, job: Job, cores: Sequence[int], rank: int, world_size: int, port: int) -> None:
    """Be one rank: do what the connection asks for until it closes."""
    end_with_parent()
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    with joined_ranks() as ranks, contextlib.suppress(EOFError):
        part = _Rank(job, ranks)
        connection.send({})
        while True:
            request, task = connection.recv()
            connection.send(part.prepare(task) if request == "prepare" else part.run(task))


class _Group:
    """Processes that are each other's ranks, and what each has told of the timed rounds of each task."""

    def __init__(self, job: Job, cores: Sequence[Sequence[int]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connections, self._processes = [], []
        self.figures: dict[str, list[list[dict[str, Any]]]] = {}
        port = _free_port()
        for rank, its_cores in enumerate(cores):
            ours, theirs = context.Pipe()
            its_job = replace(job, batches=replace(job.batches, rank=rank, world_size=len(cores)))
            process = context.Process(
                target=_serve, args=(theirs, its_job, its_cores, rank, len(cores), port), daemon=True
            )
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
        self._collect()

    def variant(self, name: str, task: Task, warmups: int) -> Variant:
        """Return what times a task; the group keeps the figures of timed rounds by its name."""

        def run(round_: int) -> None:
            told = self._ask("run", task)
            if round_ >= warmups:
                self.figures.setdefault(name, []).append(told)

        return Variant(run, lambda round_: self._ask("prepare", task))

    def _ask(self, request: str, task: Task) -> list[dict[str, Any]]:
        for connection in self._connections:
            connection.send((request, task))
        return self._collect()

    def _collect(self) -> list[dict[str, Any]]:
        try:
            return [connection.recv() for connection in self._connections]
        except (EOFError, ConnectionError):
            raise UserError("a rank of the benchmark has ended; what it said stands above") from None

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(timeout=10)
            process.kill()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


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
def _groups(job: Job, cores: Sequence[Sequence[int]], with_one: bool) -> Iterator[tuple[_Group, _Group | None]]:
    """Start the several ranks and, if wanted, the one that has all of their cores."""
    groups = [_Group(job, cores)]
    try:
        if with_one:
            groups.append(_Group(job, [[core for its in cores for core in its]]))
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
        "layers": model.num_hidden_layers,
        "hidden_size": model.hidden_size,
        "attention_heads": model.num_attention_heads,
        "intermediate_size": model.intermediate_size,
        "vocab_size": model.vocab_size,
        "dropout": model.hidden_dropout_prob,
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
        "seconds": {name: timing.as_figures() for name, timing in timings.items()},
        **describe_software(),
        "threads": sum(map(len, cores)),
    }


def _ratios(timings: Mapping[str, Timing]) -> dict[str, float]:
    """Return throughput of the ranks over that of one rank on all their cores, and what communication adds."""
    figures = {}
    for suffix, of in (("", "minimum"), ("_median", "median")):
        seconds = {name: float(getattr(timing, of)) for name, timing in timings.items()}
        if "one" in seconds:
            figures[f"throughput_ratio{suffix}"] = seconds["one"] / seconds["ranks"]
        if "silent" in seconds:
            figures[f"communication_seconds{suffix}"] = seconds["ranks"] - seconds["silent"]
    return figures


def _bounds(
    timings: Mapping[str, Timing], told: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], ranks: int
) -> dict[str, float]:
    """Return the rates that summing gradients can be held against, and the least time it can take by each.

    The plain sum is of as many bytes with nothing beside it. By memory, each rank sends 2 (n - 1) / n of its bytes
    round the ring, and each byte is read and written once on its way, while all ranks copy at once.
    """
    if "plain" not in timings:
        return {}
    sent = told["plain"][0][0]["gradient_bytes"]
    copied = 2 * _COPY_BYTES / timings["copy"].minimum
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
        rows.append([name, f"{its['minimum']:.4f}", f"{its['median']:.4f}", *cells])
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
