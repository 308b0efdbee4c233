"""What a run found: figures over seeds, their file, and a table for people."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bert_large.storage.atomic import write_atomically

RESULTS_FILE = "results.json"


def summarize(seeds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return mean and sample standard deviation over seeds of every figure: split → metric → figures.

    Of a single seed there is no deviation: None.
    """
    return {
        split: {
            metric: {
                "mean": statistics.fmean(values),
                "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
            }
            for metric in figures
            if (values := [seed["metrics"][split][metric] for seed in seeds])
        }
        for split, figures in seeds[0]["metrics"].items()
    }


def best_seed(seeds: Sequence[Mapping[str, Any]], main_metric: str) -> int:
    """Return the seed with the highest main metric on the first split, the first of equals."""
    return int(max(seeds, key=lambda seed: next(iter(seed["metrics"].values()))[main_metric])["seed"])


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write values for people and programs to read, whole or not at all."""
    with write_atomically(path) as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())


def table_lines(task: str, results: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a table: every figure of every seed, their mean and deviation."""
    seeds = results["seeds"]
    names = ["mean", "deviation", *(f"seed {seed['seed']}" for seed in seeds)]
    yield f"{task:<42}" + "".join(f"{name:>12}" for name in names)
    for split, figures in results["summary"].items():
        for metric, values in figures.items():
            deviation = values["standard_deviation"]
            numbers = [values["mean"], deviation, *(seed["metrics"][split][metric] for seed in seeds)]
            yield f"{f'{split} {metric}':<42}" + "".join(
                f"{'-' if number is None else format(number, '.4f'):>12}" for number in numbers
            )
    for name, unit in (("train_seconds", "seconds of training"), ("train_samples_per_second", "samples/s")):
        yield f"{unit:<42}" + " " * 24 + "".join(f"{seed[name]:>12.1f}" for seed in seeds)
