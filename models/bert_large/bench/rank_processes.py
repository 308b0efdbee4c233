"""The processes of `bert-large bench ranks`: each is a rank, and does what it is asked for over a pipe."""

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
from torch import distributed, nn

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

_SETTLING_STEPS = 2  # DDP lays its buckets out anew after the first
COPY_BYTES = 1 << 27
"""Of the buffers that "copy" copies on each rank."""


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
        self._model.initialize(SEED)
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
            self._buffers = [torch.ones(COPY_BYTES // 4) for _ in range(2)]
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


class Group:
    """Processes that are each other's ranks, and what each has told of the timed rounds of each task."""

    def __init__(self, job: Job, cores: Sequence[Sequence[int]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connections, self._processes = [], []
        self.figures: dict[str, list[list[dict[str, Any]]]] = {}
        port = free_port()
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
