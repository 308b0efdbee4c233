"""Output folders like those of runs, written without training."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from bert_large.observe.metrics_writer import MetricsWriter
from bert_large.observe.results import StepTotals, write_results

from tests.unit.observe.test_metrics import EVALUATION, step_figures

HOSTILE_NAME = '<img src=x onerror="console.error(1)">&amp; $\\frac{x\n\udcff'
"""A folder's name with markup, half a formula, a line break and a byte that is not UTF-8."""


def record_run(
    folder: Path,
    *,
    steps: int = 20,
    restarts: Sequence[int] = (),
    skipped_at: int | None = None,
    precision: str = "fp32",
    engine: str = "native",
    ended: str | None = None,
) -> Path:
    """Write the files of a run of `steps` steps that is evaluated once at its end; return the folder."""
    folder.mkdir(parents=True)
    writer = MetricsWriter(folder, 0)
    figures = []
    for step in range(1, steps + 1):
        skipped = {"masked_lm_loss": math.nan, "gradient_norm": math.inf} if step == skipped_at else {}
        count = int(skipped_at is not None and step >= skipped_at)
        figures.append(step_figures(step, skipped_updates=count, **skipped))
        writer.step(figures[-1])
    writer.evaluation(steps, 8 * steps, EVALUATION)
    writer.close()
    identity = {"precision": precision, "seed": 42, "model": {"hidden_size": 128}}
    (folder / "run.json").write_text(json.dumps(identity))
    reason = ended or f"all {steps} steps done"
    (folder / "ended.json").write_text(json.dumps({"reason": reason}))
    start = ["bert-large 0.1.0, torch 2, Python 3; 1 rank, 2 threads", f"engine {engine}: kernels"]
    settings = [f"settings from recipe demo: max_steps {steps}, target_accuracy 0.72", "step 1/20 loss 3.0"]
    messages = [*start, "starting from random weights, seed 42", *settings]
    for step in restarts:
        messages += [*start, f"resuming after step {step} from checkpoints/step-{step}", *settings]
    messages.append(f"training ended: {reason}")
    (folder / "train.log").write_text("".join(f"2026-11-01 10:00:00 {message}\n" for message in messages))
    totals = StepTotals(warmup_steps=0)
    for its in figures:
        totals.add(its)
    summary = totals.summarize(8, EVALUATION.masked_lm_accuracy)
    write_results(folder, summary, phase=1, precision=precision, global_batch_size=8)
    return folder
