"""Output folders of runs, without training."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from bert_large.observe.metrics_writer import MetricsWriter
from bert_large.observe.results import StepTotals, write_results

from tests.support.training import EVALUATION, step_metrics

HOSTILE_NAME = '<img src=x onerror="console.error(1)">&amp; $\\frac{x\n\udcff'
"""A folder name with markup, half a formula, a line break and a byte that is not valid UTF-8."""


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
    """Write the files of a run of `steps` steps with one evaluation at its end; return the folder."""
    folder.mkdir(parents=True)
    writer = MetricsWriter(folder, 0)
    metrics = []
    for step in range(1, steps + 1):
        skipped = {"masked_lm_loss": math.nan, "gradient_norm": math.inf} if step == skipped_at else {}
        count = int(skipped_at is not None and step >= skipped_at)
        metrics.append(step_metrics(step, skipped_updates=count, **skipped))
        writer.step(metrics[-1])
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
    for step_of_run in metrics:
        totals.add(step_of_run)
    summary = totals.summarize(EVALUATION.masked_lm_accuracy)
    write_results(folder, summary, phase=1, precision=precision, global_batch_size=8)
    return folder
