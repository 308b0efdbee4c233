"""Loss curves of runs as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bert_large.errors import InputError
from bert_large.observe.metrics import read_rows


def plot_runs(runs: Mapping[str, Path], picture: Path) -> None:
    """Draw masked-LM loss and accuracy over samples for each run folder, by its label, into a PNG."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise InputError("drawing needs matplotlib, which is not installed; pip install 'bert-large[plot]'") from None

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    for label, folder in runs.items():
        metrics = folder / "metrics.jsonl"
        if not metrics.is_file():
            raise InputError(f"{metrics} does not exist; expected the OUTPUT_DIR of a run at {folder}")
        for axes, figure_name in ((loss_axes, "masked_lm_loss"), (accuracy_axes, "masked_lm_accuracy")):
            steps, evaluations = read_rows(metrics, "step"), read_rows(metrics, "eval")
            (line,) = axes.plot([row["samples"] for row in steps], [row[figure_name] for row in steps],
                                linewidth=0.8, alpha=0.6, label=f"{label}, training")  # fmt: skip
            if evaluations:
                axes.plot([row["samples"] for row in evaluations], [row[figure_name] for row in evaluations],
                          marker="o", markersize=4, color=line.get_color(), label=f"{label}, held out")  # fmt: skip
    loss_axes.set_ylabel("masked-LM loss (nats)")
    accuracy_axes.set_ylabel("masked-LM accuracy")
    for axes in (loss_axes, accuracy_axes):
        axes.set_xlabel("samples")
        axes.grid(alpha=0.3)
        axes.legend()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=120)
