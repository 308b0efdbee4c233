"""Output that the benchmarks share: common results, JSON, and parts of the tables."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bert_large.bench.options import BenchmarkOptions, Options
from bert_large.errors import UserError


def describe_run(benchmark: str, options: BenchmarkOptions, engine: str, *, has_heads: bool = True) -> dict[str, Any]:
    """Return what all benchmarks report of the model, the run and the software; an encoder alone has no vocabulary."""
    from bert_large.observe.machine import describe_software  # imports torch, which `--help` does not wait for

    model = options.model
    return {
        "benchmark": benchmark,
        "layers": model.num_hidden_layers,
        "hidden_size": model.hidden_size,
        "attention_heads": model.num_attention_heads,
        "intermediate_size": model.intermediate_size,
        **({"vocab_size": model.vocab_size} if has_heads else {}),
        "dropout": model.hidden_dropout_prob,
        "precision": options.precision,
        "engine": engine,
        "rounds": options.rounds,
        "warmups": options.warmups,
        **describe_software(),
    }


def to_json(results: Mapping[str, Any]) -> str:
    """Return results as one line of JSON; values that are not finite, which JSON does not have, become null."""
    return json.dumps(_without_non_finite(results), allow_nan=False)


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_non_finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_non_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def not_comparable_lines(results: Mapping[str, Any]) -> list[str]:
    """Return one line per variant that was not timed because it computes something different."""
    return [f"{name}: not comparable: {difference}" for name, difference in results["not_comparable"].items()]


def measure_and_print(
    options: Options, measure: Callable[[Options], dict[str, Any]], render: Callable[[dict[str, Any]], str]
) -> int:
    """Print the results of a benchmark as a table or as JSON, and return the exit code."""
    try:
        results = measure(options)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):  # PyTorch raises both types
            raise
        raise UserError("there is not enough memory for this model and batch size; choose smaller ones") from None
    sys.stdout.write(f"{to_json(results) if options.json else render(results)}\n")
    return 0


def run_script(run: Callable[[], int]) -> int:
    """Return the exit code of a script in benchmarks/; an error the user can fix is printed as one line."""
    try:
        return run()
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        return error.exit_code
