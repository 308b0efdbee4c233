"""The results of a run: metrics over seeds, and a table of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bert_large.tables import format_table

RESULTS_FILE = "results.json"


def summarize(seeds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return mean and sample standard deviation over seeds of every metric, as split → metric → both.

    The deviation of a single seed is None.
    """
    return {
        split: {
            metric: {
                "mean": statistics.fmean(values),
                "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
            }
            for metric in metrics
            if (values := [seed["metrics"][split][metric] for seed in seeds])
        }
        for split, metrics in seeds[0]["metrics"].items()
    }


def best_seed(seeds: Sequence[Mapping[str, Any]], main_metric: str) -> int:
    """Return the seed with the highest main metric on the first split; on a tie, the earliest."""
    return int(max(seeds, key=lambda seed: next(iter(seed["metrics"].values()))[main_metric])["seed"])


def results_table(task: str, results: Mapping[str, Any]) -> str:
    """Return a table of every metric of every seed, with mean and deviation."""
    seeds = results["seeds"]
    rows = [[task, "mean", "deviation", *(f"seed {seed['seed']}" for seed in seeds)]]
    for split, metrics in results["summary"].items():
        for metric, values in metrics.items():
            numbers = [*values.values(), *(seed["metrics"][split][metric] for seed in seeds)]
            rows.append([f"{split} {metric}", *("-" if number is None else f"{number:.4f}" for number in numbers)])
    for name, unit in (("train_seconds", "seconds of training"), ("train_samples_per_second", "samples/s")):
        rows.append([unit, "", "", *(f"{seed[name]:.1f}" for seed in seeds)])
    return format_table(rows)


def metrics_table(task: str, metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table of the metrics of each split."""
    values = {f"{split} {metric}": value for split, found in metrics.items() for metric, value in found.items()}
    return format_table([[task, "value"], *([name, f"{value:.4f}"] for name, value in values.items())])
