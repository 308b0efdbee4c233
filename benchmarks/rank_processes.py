"""The processes of ranks.py: each is one rank and runs the tasks that it is asked for over a pipe."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

import torch
from bert_large.bench.training import SEED, build_runner
from bert_large.config.model import ModelConfig
from bert_large.config.training import RanksConfig
from bert_large.data.batch import make_batch
from bert_large.data.loader import StepBatches
from bert_large.distributed.collectives import Ranks
from bert_large.distributed.gradients import GradientSum
from bert_large.distributed.joining import joined_ranks
from bert_large.distributed.network import free_port
from bert_large.engines import resolve_engine
from bert_large.engines.precision import apply_precision
from bert_large.errors import UserError
from bert_large.model.bert import BertForPreTraining
from bert_large.observe.machine import peak_memory_bytes
from bert_large.observe.timing import Variant
from bert_large.train.step import StepRunner
from bert_large.worker_processes import end_with_parent
from torch import distributed, nn

COPY_BYTES = 1 << 27
"""Size of the buffers that "copy" copies on each rank."""
_SETTLING_STEPS = 2
"""Steps before the timed ones: DistributedDataParallel rebuilds its buckets after the first."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """The model and the data of every rank."""

    model: ModelConfig
    engine: str
    precision: str
    backend: str
    batches: StepBatches
    """Those of one rank; the others take their own part of the same global batch."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Work that ranks are timed at."""

    kind: str = "train"
    """"train": optimizer steps; "plain": only a sum of as many bytes; "copy": a copy in memory."""
    settings: RanksConfig = field(default_factory=RanksConfig)
    silent: bool = False
    """Train without summing gradients."""


class _NoSum(GradientSum):
    """A sum of gradients that does nothing."""

    def replicate(self, model: nn.Module, ranks: Ranks) -> nn.Module:
        """Return the model itself."""
        return model


@dataclass
class BucketTimes:
    """Times at which the sum of each bucket began and ended, in one step."""

    begun: dict[int, float] = field(default_factory=dict)
    done: dict[int, float] = field(default_factory=dict)
    sent_bytes: int = 0

    def note(self, bucket: int, sent_bytes: int, done: bool) -> None:
        """Record the beginning or the end of a sum; called by `GradientSum`."""
        if done:
            self.done[bucket] = time.perf_counter()
        else:
            self.begun[bucket] = time.perf_counter()
            self.sent_bytes += sent_bytes

    @property
    def seconds(self) -> float:
        """Time in which at least one bucket was being summed."""
        total, reached = 0.0, 0.0
        for begun, done in sorted((self.begun[bucket], self.done[bucket]) for bucket in self.begun):
            total += max(0.0, done - max(begun, reached))
            reached = max(reached, done)
        return total

    @property
    def exposed_seconds(self) -> float:
        """Time from the beginning of the last sum, when the backward pass is over, to the end of all sums."""
        return max(self.done.values()) - max(self.begun.values()) if self.begun else 0.0


class _Rank:
    """The part of one process in the tasks."""

    def __init__(self, job: Job, ranks: Ranks) -> None:
        self._job, self._ranks = job, ranks
        engine, _ = resolve_engine(job.engine, job.precision)
        self._precision = apply_precision(job.precision)
        self._model = BertForPreTraining(job.model, engine)
        self._model.initialize(SEED)
        self._micro_batches = job.batches[0]
        first = job.batches.order.record_numbers(0, 1)
        self._single = make_batch(job.batches.dataset.read_all(first), [0])
        self._runner: StepRunner | None = None
        self._times = BucketTimes()
        self._buffers: list[torch.Tensor] = []

    def prepare(self, task: Task) -> dict[str, Any]:
        """Allocate the memory of a task and let DistributedDataParallel lay out its buckets."""
        self._runner, self._buffers = None, []
        self._model.zero_grad(set_to_none=True)
        gc.collect()
        if task.kind == "train":
            self._runner = self._build_runner(task)
            for step in range(_SETTLING_STEPS):
                self._runner.run(step, [self._single], 0.0, lambda done: None)
            return {}
        if task.kind == "copy":
            self._buffers = [torch.ones(COPY_BYTES // 4) for _ in range(2)]
        else:
            size = int(task.settings.bucket_mb * (1 << 20)) // 4
            total = sum(parameter.numel() for parameter in self._model.parameters())
            self._buffers = [torch.ones(min(size, total - start)) for start in range(0, total, size)]
        return self.run(task)

    def _build_runner(self, task: Task) -> StepRunner:
        sum_type = _NoSum if task.silent else GradientSum
        return build_runner(
            self._model,
            self._precision,
            global_batch_size=self._job.batches.batch_sizes.full,
            ranks=self._ranks,
            gradient_sum=sum_type(
                bucket_mb=task.settings.bucket_mb,
                compression=task.settings.gradient_compression,
                on_bucket=lambda *event: self._times.note(*event),
            ),
            zero1=task.settings.zero1,
        )

    def run(self, task: Task) -> dict[str, Any]:
        """Run a task and return the measurements of this rank."""
        self._times = BucketTimes()
        if task.kind == "copy":
            self._buffers[1].copy_(self._buffers[0])
            return {}
        if task.kind == "plain":
            self._sum_buffers(rounded=task.settings.gradient_compression == "bf16")
            return {"gradient_bytes": sum(buffer.nbytes for buffer in self._buffers)}
        assert self._runner is not None
        self._runner.run(_SETTLING_STEPS, self._micro_batches, 0.0, lambda done: None)
        moments = [tensor for state in self._runner.optimizer.state.values() for tensor in state.values()]
        return {
            "sum_seconds": self._times.seconds,
            "exposed_seconds": self._times.exposed_seconds,
            "sent_bytes": self._times.sent_bytes,
            "buckets": len(self._times.begun),
            "optimizer_state_bytes": sum(moment.nbytes for moment in moments if torch.is_tensor(moment)),
            "peak_memory_bytes": peak_memory_bytes(),
        }

    def _sum_buffers(self, *, rounded: bool) -> None:
        """Sum the buffers over ranks, rounded to bfloat16 in transfer if asked, as `GradientSum` does."""
        sent = [buffer.bfloat16() if rounded else buffer for buffer in self._buffers]
        for work in [distributed.all_reduce(buffer, async_op=True) for buffer in sent]:
            work.wait()
        if rounded:
            for buffer, summed in zip(self._buffers, sent, strict=True):
                buffer.copy_(summed)


def _serve(connection: Connection, job: Job, cores: Sequence[int], rank: int, world_size: int, port: int) -> None:
    """Run as one rank: answer requests until the connection closes."""
    end_with_parent()
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank),
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # as the launcher does
    with joined_ranks(job.backend) as ranks, contextlib.suppress(EOFError):
        part = _Rank(job, ranks)
        connection.send({})
        while True:
            request, task = connection.recv()
            connection.send(part.prepare(task) if request == "prepare" else part.run(task))


class Group:
    """Processes that train together, and their reports of the timed rounds of each task."""

    def __init__(self, job: Job, cores: Sequence[Sequence[int]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connections, self._processes = [], []
        self.reports: dict[str, list[list[dict[str, Any]]]] = {}
        port = free_port()
        for rank, rank_cores in enumerate(cores):
            ours, theirs = context.Pipe()
            rank_job = replace(job, batches=replace(job.batches, rank=rank, world_size=len(cores)))
            arguments = (theirs, rank_job, rank_cores, rank, len(cores), port)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
        self._collect()

    def variant(self, name: str, task: Task, warmups: int) -> Variant:
        """Return a variant that times a task; the reports of its timed rounds are kept under `name`."""

        def run(round_: int) -> None:
            reports = self._ask("run", task)
            if round_ >= warmups:
                self.reports.setdefault(name, []).append(reports)

        return Variant(run, lambda round_: self._ask("prepare", task))

    def _ask(self, request: str, task: Task) -> list[dict[str, Any]]:
        for connection in self._connections:
            connection.send((request, task))
        return self._collect()

    def _collect(self) -> list[dict[str, Any]]:
        try:
            return [connection.recv() for connection in self._connections]
        except (EOFError, ConnectionError):
            raise UserError("a rank of the benchmark ended early; its error is printed above") from None

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(timeout=10)
            process.kill()
