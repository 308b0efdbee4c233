"""`bert-large pretrain --profile`: traces of a few steps, and a table of their time by stage."""

from __future__ import annotations

import contextlib
import gzip
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from bert_large.data.batch import RaggedBatch
from bert_large.errors import InputError
from bert_large.log import LOGGER
from bert_large.observe.flops import product_flops
from bert_large.observe.gemm import measure_flops_per_second
from bert_large.observe.machine import describe_software
from bert_large.observe.metrics import StepMetrics, mean
from bert_large.observe.observer import Observer
from bert_large.observe.stages import STAGES, StageSeconds, divide_step, mark_methods, stage_marker
from bert_large.storage.atomic import write_atomically, write_json
from bert_large.tables import format_table
from bert_large.train.step import StepRunner

WARMUP_STEPS = 3
"""Steps of a process before the first profiled one: they allocate memory and make the copies of the weights."""
_MAX_LAYER_PASSES = 700
"""Most layers times micro-batches of a step. Its trace then has about 60 MB before compression (native engine).

One layer of one micro-batch makes about 350 events of 260 bytes in the native engine, and 2500 in eager and ipex, whose
dropout masks take many small operations.
"""
_ENGINE_STAGES = {
    "embed_norm_dropout": "embedding",
    "attention_block": "attention",
    "feed_forward_block": "dense",
    "masked_head": "head",
    "global_norm": "optimizer",
    # Methods of the eager engine that compute parts of the blocks above.
    "attention": "attention",
    "dense_gelu": "dense",
    "dense_dropout_residual_norm": "normalization",
}


def check_size(*, layers: int, sequences: int, max_seq_length: int, micro_batch_tokens: int) -> None:
    """Raise `InputError` if a step's trace may be too large for memory and viewers.

    `sequences` is the number of sequences of one rank per step, each counted with `max_seq_length` tokens.
    """
    micro_batches = -(-sequences * max_seq_length // micro_batch_tokens)
    if layers * micro_batches > _MAX_LAYER_PASSES:
        raise InputError(
            f"--profile: the trace of a step of up to {micro_batches} micro-batches per rank is too large; with "
            f"{layers} layers at most {_MAX_LAYER_PASSES // layers} can be profiled. Profile with a lower "
            "--global-batch-size and --benchmark in another OUTPUT_DIR: a micro-batch takes the same time there"
        )


@dataclass(kw_only=True)
class StepProfiler(Observer):
    """Profiles `steps` steps after the first few on every rank, without changing their results.

    Each rank writes a trace per step, such as `rank0_step4.json.gz`. Rank 0 also writes `profile.json` and logs the
    table.
    """

    folder: Path
    steps: int
    start_step: int
    """Steps that were done before this process started."""
    runner: StepRunner
    _done: int = field(init=False)
    """Steps of the run that are done."""
    _step: contextlib.ExitStack | None = None
    """Ends the profile of the current step when it is closed."""
    _profile: profile | None = None
    _flops: Counter[str] = field(default_factory=Counter)
    _tokens: list[int] = field(default_factory=list)
    """Tokens of each profiled micro-batch."""
    _profiled: list[int] = field(default_factory=list)
    """Numbers of the profiled steps."""
    _seconds: dict[str, StageSeconds] = field(default_factory=lambda: {stage: StageSeconds() for stage in STAGES})

    def __post_init__(self) -> None:
        self._done = self.start_step

    def watch(self, batches: Iterator[list[RaggedBatch]]) -> Iterator[list[RaggedBatch]]:
        """Yield the micro-batches of each step; record the time to get them and the operations they take."""
        while True:
            with stage_marker("data"):
                micro_batches = next(batches, None)
            if micro_batches is None:
                return
            if self._step is not None:
                self._tokens += [batch.tokens for batch in micro_batches]
                for batch in micro_batches:
                    self._flops.update(product_flops(self.runner.model.config, batch.cu_seqlens, batch.masked_tokens))
            yield micro_batches

    def step_starts(self, samples: int) -> None:
        """Start the profiler if this step is to be profiled."""
        step = self._done
        if not self.start_step + WARMUP_STEPS <= step < self.start_step + WARMUP_STEPS + self.steps:
            return
        runner, engine = self.runner, self.runner.model.engine
        with contextlib.ExitStack() as stack:
            methods = {name: stage for name, stage in _ENGINE_STAGES.items() if hasattr(engine, name)}
            stack.enter_context(mark_methods(engine, methods))
            stack.enter_context(mark_methods(runner.model, {"next_sentence_logits": "head"}))
            stack.enter_context(mark_methods(runner.ranks, {"sum": "communication"}))
            if runner.shards is not None:
                stack.enter_context(mark_methods(runner.shards, {"share_weights": "communication"}))
            self._profile = stack.enter_context(profile(activities=[ProfilerActivity.CPU]))
            stack.enter_context(record_function(f"step {step + 1}"))
            self._step = stack.pop_all()

    def step(self, metrics: StepMetrics) -> None:
        """Stop the profiler, write the trace of the step, and after the last profiled step the table."""
        self._done = metrics.step
        if self._step is None or self._profile is None:
            return
        self._step.close()
        self._step = None
        self.runner.ranks.note(f"writing the profile of step {metrics.step}")
        self._write_trace(metrics.step, self._profile)
        if self.runner.ranks.is_main:
            divided = divide_step(self._profile.events(), f"step {metrics.step}")
            for stage, seconds in divided.items():
                self._seconds[stage].total += seconds.total
                self._seconds[stage].backward += seconds.backward
        self._profile = None
        self._profiled.append(metrics.step)
        if len(self._profiled) == self.steps:
            self._write_table()

    def close(self) -> None:
        """Write the table of a run that ended before all steps were profiled; a discarded step is left out."""
        if self._step is not None:
            self._step.close()
        if not self._profiled:
            LOGGER.warning("warning: --profile: the run ended before step %d", self.start_step + WARMUP_STEPS + 1)
        elif len(self._profiled) < self.steps:
            self._write_table()

    def _write_trace(self, step: int, profiled: profile) -> None:
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"rank{self.runner.ranks.rank}_step{step}.json.gz"
        with tempfile.TemporaryDirectory() as scratch:
            plain = Path(scratch) / "trace.json"
            profiled.export_chrome_trace(str(plain))
            with write_atomically(path) as file, plain.open("rb") as text, gzip.open(file, "wb") as compressed:
                shutil.copyfileobj(text, compressed)

    def _write_table(self) -> None:
        """Measure the rate of matrix products, on all ranks at once as in a step; rank 0 writes and logs the table."""
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
        summary = {
            "steps": self._profiled,
            "engine": self.runner.model.engine.name,
            "precision": self.runner.precision.name,
            "world_size": self.runner.ranks.world_size,
            "rank": self.runner.ranks.rank,
            "micro_batches": len(self._tokens) / steps,
            "tokens": sum(self._tokens) / steps,
            "seconds": sum(seconds.total for seconds in self._seconds.values()) / steps,
            "gemm_gflops_per_second": rate / 1e9,
            "stages": {stage: self._summarize(stage, steps, rate) for stage in STAGES},
            **describe_software(),
        }
        write_json(self.folder / "profile.json", summary)
        for line in render(summary).splitlines():
            LOGGER.info(line)
        LOGGER.info("profile.json and the traces (open them in ui.perfetto.dev or TensorBoard) are in %s", self.folder)

    def _summarize(self, stage: str, steps: int, rate: float) -> dict[str, float | None]:
        """Return the means per step of a stage; the bound is None for a stage without matrix products."""
        seconds, bound = self._seconds[stage].total / steps, self._flops[stage] / steps / rate
        return {
            "seconds": seconds,
            "backward_seconds": self._seconds[stage].backward / steps,
            "share": mean(seconds * steps, sum(stage.total for stage in self._seconds.values())),
            "product_gflops": self._flops[stage] / steps / 1e9,
            "bound_seconds": bound or None,
            "over_bound": seconds / bound if bound else None,
        }


def render(summary: dict[str, Any]) -> str:
    """Return the content of `profile.json` as a table."""
    stages = summary["stages"].values()
    bound = sum(stage["bound_seconds"] or 0.0 for stage in stages)
    total = {
        "seconds": summary["seconds"],
        "backward_seconds": sum(stage["backward_seconds"] for stage in stages),
        "share": 1.0,
        "bound_seconds": bound or None,
        "over_bound": summary["seconds"] / bound if bound else None,
    }
    rows = [["stage", "seconds", "backward", "share", "products' bound", "over bound"]]
    for name, stage in [*summary["stages"].items(), ("step", total)]:
        bounds = ["-", "-"]
        if stage["bound_seconds"] is not None:
            bounds = [f"{stage['bound_seconds']:.4f}", f"{stage['over_bound']:.2f}"]
        rows.append(
            [name, f"{stage['seconds']:.4f}", f"{stage['backward_seconds']:.4f}", f"{stage['share']:.1%}", *bounds]
        )
    return (
        f"profile of step{'s' * (len(summary['steps']) > 1)} {', '.join(map(str, summary['steps']))}, mean per step on "
        f"rank {summary['rank']} of {summary['world_size']}: engine {summary['engine']}, {summary['precision']}, "
        f"{summary['tokens']:.0f} tokens in {summary['micro_batches']:.0f} micro-batches; matrix products alone run at "
        f"{summary['gemm_gflops_per_second']:.0f} GFLOP/s here\n{format_table(rows)}"
    )
