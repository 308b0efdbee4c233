"""Time of LAMB and of gradient clipping over the time that their memory traffic alone takes.

    python benchmarks/optimizer.py --layers 12 [--json]

Variants take turns: clipping (the pass over the gradients for their global norm; LAMB scales the gradients as it reads
them), the optimizer step, and a copy between two large buffers, which gives the bandwidth.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from bert_large.bench.options import COUNT, BenchmarkOptions, parse_options, script_parser
from bert_large.bench.output import describe_run, measure_and_print, run_script
from bert_large.bench.training import SEED, build_runner
from bert_large.config.options import setting
from bert_large.engines import resolve_engine
from bert_large.engines.precision import apply_precision
from bert_large.model.bert import BertForPreTraining
from bert_large.observe.timing import Variant, alternate, as_dicts, format_spread, spread
from bert_large.optim.build import clip_gradients
from bert_large.tables import format_table

BYTES_PER_PARAMETER = 40
"""fp32 traffic of LAMB. Its norm over the whole update needs two passes over the memory.

First pass: read weight, gradient and both moments, write both moments (24 bytes). Second pass, when the norms are
known: read weight and both moments, write the weight (16 bytes).
"""


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions(BenchmarkOptions):
    """Options of this benchmark."""

    layers: int = setting(12, "encoder layers", within=COUNT, variable="")
    copy_bytes: int = setting(
        1 << 28, "size of each of the two buffers of the copy: larger than the caches", within="[4, 1e11]", variable=""
    )


def measure(options: OptimizerOptions) -> dict[str, Any]:
    """Measure clipping, the optimizer step and a copy, whose bandwidth counts bytes read and written."""
    engine, _ = resolve_engine(options.engine, options.precision)
    trained = BertForPreTraining(options.model, engine)
    trained.initialize(SEED)
    runner = build_runner(trained, apply_precision(options.precision), global_batch_size=1)
    parameters = list(trained.parameters())
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e-6)
    count = sum(parameter.numel() for parameter in parameters)
    source, target = torch.ones(options.copy_bytes // 4), torch.zeros(options.copy_bytes // 4)

    def measure_and_clip(round_: int) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        clip_gradients(runner.optimizer, engine.global_norm(gradients), runner.max_gradient_norm)

    variants = {
        "clip": Variant(measure_and_clip),
        "optimizer": Variant(lambda round_: runner.optimizer.step()),
        "copy": Variant(lambda round_: target.copy_(source)),
    }
    timings = alternate(variants, rounds=options.rounds, warmups=options.warmups)
    copied, traffic = 2 * source.nbytes, BYTES_PER_PARAMETER * count
    step, clip = (timings[name].over(timings["copy"]) for name in ("optimizer", "clip"))
    return {
        **describe_run("optimizer", options, engine.name),
        "parameters": count,
        "copy_bytes_per_second": spread(timings["copy"].rates(copied)),
        "optimizer_over_bound": spread([ratio * copied / traffic for ratio in step]),
        "clip_and_optimizer_over_bound": spread([(a + b) * copied / traffic for a, b in zip(step, clip, strict=True)]),
        "seconds": as_dicts(timings),
    }


def render(results: dict[str, Any]) -> str:
    """Return the results as text."""
    rows = [["", "seconds, median"]]
    rows += [[name, f"{timing['median']:.4f}"] for name, timing in results["seconds"].items()]
    return (
        f"{results['parameters']} parameters, engine {results['engine']}, {results['rounds']} alternating rounds, "
        f"{results['threads']} threads\n{format_table(rows)}\n"
        f"optimizer over its memory traffic at {format_spread(results['copy_bytes_per_second'], 'GB/s', 1e9)}: "
        f"{format_spread(results['optimizer_over_bound'])}, with clipping "
        f"{format_spread(results['clip_and_optimizer_over_bound'])}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = script_parser(OptimizerOptions, "time LAMB and clipping over their memory traffic")
    return measure_and_print(parse_options(OptimizerOptions, parser.parse_args(argv)), measure, render)


if __name__ == "__main__":
    sys.exit(run_script(main))
