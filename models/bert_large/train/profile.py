"""`bert-large pretrain --profile`: traces of a few steps, and a table of where their time goes."""

from __future__ import annotations

import contextlib
import gzip
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from bert_large.bench.report import format_rows
from bert_large.data.batch import RaggedBatch
from bert_large.errors import InputError
from bert_large.log import LOGGER
from bert_large.observe.flops import product_flops
from bert_large.observe.gemm import measure_flops_per_second
from bert_large.observe.machine import describe_software
from bert_large.observe.metrics import StepMetrics, mean
from bert_large.observe.observer import Observer
from bert_large.observe.stages import STAGES, StageSeconds, divide_step, marked, stage_marker
from bert_large.storage.atomic import write_atomically
from bert_large.train.step import StepRunner

WARMUP_STEPS = 3
"""Steps of a process before the first that is profiled: memory and copies of weights are made in them."""
_MAX_LAYER_PASSES = 700
"""Layers times micro-batches of a step, so that its trace has some 60 MB before compression (native).

Each leaves about 350 events of 260 bytes (native), or 2500 (eager and ipex, whose dropout masks are many small steps).
"""
_ENGINE_STAGES = {
    "embed_norm_dropout": "embedding",
    "attention_block": "attention",
    "feed_forward_block": "dense",
    "masked_head": "head",
    "global_norm": "optimizer",
    # What the eager engine makes of them.
    "attention": "attention",
    "dense_gelu": "dense",
    "dense_dropout_residual_norm": "normalisation",
}


def check_size(*, layers: int, sequences: int, max_seq_length: int, micro_batch_tokens: int) -> None:
    """Refuse to profile steps, of so many sequences on a rank, whose events may be too many for memory and viewers."""
    micro_batches = -(-sequences * max_seq_length // micro_batch_tokens)
    if layers * micro_batches > _MAX_LAYER_PASSES:
        raise InputError(
            f"--profile: a step of up to {micro_batches} micro-batches on a rank makes too large a trace, at most "
            f"{_MAX_LAYER_PASSES // layers} with {layers} layers; profile a lower "
            "--global-batch-size, with --benchmark in an OUTPUT_DIR of its own: a micro-batch's time is the same"
        )


@dataclass(kw_only=True)
class StepProfiler(Observer):
    """Profiles, on every rank, `steps` steps after the first few and leaves the run as it is.

    Each rank writes a trace of each step, `rank0_step4.json.gz`; rank 0 writes `profile.json` and logs the table.
    """

    folder: Path
    steps: int
    start_step: int
    """Steps that were done before this process."""
    runner: StepRunner
    _step: contextlib.ExitStack | None = None
    """What ends the profile of the step in hand."""
    _profile: profile | None = None
    _flops: Counter[str] = field(default_factory=Counter)
    _tokens: list[int] = field(default_factory=list)
    """Of each micro-batch."""
    _profiled: list[int] = field(default_factory=list)
    _seconds: dict[str, StageSeconds] = field(default_factory=lambda: {stage: StageSeconds() for stage in STAGES})

    def watch(self, batches: Iterator[list[RaggedBatch]]) -> Iterator[list[RaggedBatch]]:
        """Hand on each step's micro-batches, taking note of the time that they take to come and of their work."""
        while True:
            with stage_marker("data"):
                micro_batches = next(batches, None)
            if micro_batches is None:
                return
            if self._step is not None:
                self._tokens += [batch.tokens for batch in micro_batches]
                for batch in micro_batches:
                    self._flops.update(product_flops(self.runner.model.config, batch))
            yield micro_batches

    def step_starts(self, samples: int) -> None:
        """Profile the step if it is one of those."""
        step = samples // self.runner.global_batch_size
        if not self.start_step + WARMUP_STEPS <= step < self.start_step + WARMUP_STEPS + self.steps:
            return
        runner, engine = self.runner, self.runner.model.engine
        with contextlib.ExitStack() as stack:
            stack.enter_context(marked(engine, {n: stage for n, stage in _ENGINE_STAGES.items() if hasattr(engine, n)}))
            stack.enter_context(marked(runner.model, {"next_sentence_logits": "head"}))
            stack.enter_context(marked(runner.ranks, {"sum": "communication"}))
            if runner.shards is not None:
                stack.enter_context(marked(runner.shards, {"share_weights": "communication"}))
            if runner.ranks.world_size > 1:  # outside of autograd's nodes it waits for the sums of gradients
                stack.enter_context(marked(runner, {"backward": "communication"}))
            self._profile = stack.enter_context(profile(activities=[ProfilerActivity.CPU]))
            stack.enter_context(record_function(_event_name(step + 1)))
            self._step = stack.pop_all()

    def step(self, figures: StepMetrics) -> None:
        """End the profile of a step, write its trace, and after the last one the table."""
        if self._step is None or self._profile is None:
            return
        self._step.close()
        self._step = None
        self.runner.ranks.note(f"writing the profile of step {figures.step}")
        self._write_trace(figures.step, self._profile)
        if self.runner.ranks.is_main:
            divided = divide_step(self._profile.events(), _event_name(figures.step))
            for stage, seconds in divided.items():
                self._seconds[stage].total += seconds.total
                self._seconds[stage].backward += seconds.backward
        self._profile = None
        self._profiled.append(figures.step)
        if len(self._profiled) == self.steps:
            self._leave_table()

    def close(self) -> None:
        """Make the table of a run that ended before all steps were profiled; a dropped step is left out."""
        if self._step is not None:
            self._step.close()
        if not self._profiled:
            LOGGER.warning("warning: --profile: the run ended before step %d", self.start_step + WARMUP_STEPS + 1)
        elif len(self._profiled) < self.steps:
            self._leave_table()

    def _write_trace(self, step: int, profiled: profile) -> None:
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"rank{self.runner.ranks.rank}_step{step}.json.gz"
        with tempfile.TemporaryDirectory() as scratch:
            plain = Path(scratch) / "trace.json"
            profiled.export_chrome_trace(str(plain))
            with write_atomically(path) as file, plain.open("rb") as text, gzip.open(file, "wb") as compressed:
                shutil.copyfileobj(text, compressed)

    def _leave_table(self) -> None:
        """Measure the rate of products, on all ranks at once as in a step; write and log the table on rank 0."""
        self.runner.ranks.note("measuring the rate of matrix products")
        model = self.runner.model.config
        rate = measure_flops_per_second(
            tokens=round(mean(sum(self._tokens), len(self._tokens))),
            hidden=model.hidden_size,
            intermediate=model.intermediate_size,
            dtype=self.runner.precision.activation_dtype,
        )
        if not self.runner.ranks.is_main:
            return
        steps = len(self._profiled)
        figures = {
            "steps": self._profiled,
            "engine": self.runner.model.engine.name,
            "precision": self.runner.precision.name,
            "world_size": self.runner.ranks.world_size,
            "rank": self.runner.ranks.rank,
            "micro_batches": len(self._tokens) / steps,
            "tokens": sum(self._tokens) / steps,
            "seconds": sum(seconds.total for seconds in self._seconds.values()) / steps,
            "gemm_gflops_per_second": rate / 1e9,
            "stages": {stage: self._figures(stage, steps, rate) for stage in STAGES},
            **describe_software(),
        }
        with write_atomically(self.folder / "profile.json") as file:
            file.write(json.dumps(figures, indent=1).encode())
        for line in render(figures).splitlines():
            LOGGER.info(line)
        LOGGER.info("traces, for ui.perfetto.dev or TensorBoard, and profile.json are in %s", self.folder)

    def _figures(self, stage: str, steps: int, rate: float) -> dict[str, float | None]:
        """Return a stage's figures in a step; without products its bound is None."""
        seconds, bound = self._seconds[stage].total / steps, self._flops[stage] / steps / rate
        return {
            "seconds": seconds,
            "backward_seconds": self._seconds[stage].backward / steps,
            "share": mean(seconds * steps, sum(its.total for its in self._seconds.values())),
            "product_gflops": self._flops[stage] / steps / 1e9,
            "bound_seconds": bound or None,
            "over_bound": seconds / bound if bound else None,
        }


def render(figures: dict[str, Any]) -> str:
    """Return the figures of `profile.json` as a table."""
    stages = figures["stages"].values()
    bound = sum(its["bound_seconds"] or 0.0 for its in stages)
    whole = {
        "seconds": figures["seconds"],
        "backward_seconds": sum(its["backward_seconds"] for its in stages),
        "share": 1.0,
        "bound_seconds": bound or None,
        "over_bound": figures["seconds"] / bound if bound else None,
    }
    rows = [["stage", "seconds", "of it backward", "share", "products' bound", "over bound"]]
    for name, its in [*figures["stages"].items(), ("step", whole)]:
        bounds = ["-", "-"]
        if its["bound_seconds"] is not None:
            bounds = [f"{its['bound_seconds']:.4f}", f"{its['over_bound']:.2f}"]
        rows.append([name, f"{its['seconds']:.4f}", f"{its['backward_seconds']:.4f}", f"{its['share']:.1%}", *bounds])
    return (
        f"profile of step{'s' * (len(figures['steps']) > 1)} {', '.join(map(str, figures['steps']))}, a step's mean on "
        f"rank {figures['rank']} of {figures['world_size']}: engine {figures['engine']}, {figures['precision']}, "
        f"{figures['tokens']:.0f} tokens in {figures['micro_batches']:.0f} micro-batches; matrix products alone make "
        f"{figures['gemm_gflops_per_second']:.0f} GFLOP/s here\n{format_rows(rows)}"
    )


def _event_name(step: int) -> str:
    return f"step {step}"
