"""The lines of the log for steps and evaluations."""

from __future__ import annotations

from bert_large.observe.metrics import EvalMetrics, StepMetrics


def step_line(metrics: StepMetrics, max_steps: int | None) -> str:
    """Return the log line of a step; `max_steps` None: their number is not known.

    Users' scripts parse it, so field names must not change.
    """
    return (
        f"step {metrics.step}/{max_steps or '?'} loss {metrics.loss:.4f} "
        f"(masked_lm {metrics.masked_lm_loss:.4f}{_if_any(' next_sentence {:.4f}', metrics.next_sentence_loss)}) "
        f"lm_acc {metrics.masked_lm_accuracy:.4f}{_if_any(' seq_acc {:.4f}', metrics.next_sentence_accuracy)} "
        f"lr {metrics.learning_rate:.3e} grad_norm {metrics.gradient_norm:.3f} "
        f"{metrics.sequences_per_second:.2f} sentence/s {metrics.tokens_per_second:.0f} token/s "
        f"{metrics.seconds:.2f} s (data {metrics.data_seconds:.2f} s)"
    )


def step_status(metrics: StepMetrics) -> str:
    """Return the summary of the last step for the progress bar."""
    return (
        f"loss {metrics.loss:.3f}, accuracy {metrics.masked_lm_accuracy:.3f}, "
        f"{metrics.sequences_per_second:.1f} sequences/s"
    )


def eval_line(metrics: EvalMetrics) -> str:
    """Return the log line of an evaluation."""
    return (
        f"masked_lm_accuracy {metrics.masked_lm_accuracy:.5f} "
        f"(always the most frequent token: {metrics.most_frequent_token_accuracy:.5f}) "
        f"masked_lm_loss {metrics.masked_lm_loss:.4f}"
        f"{_if_any(' next_sentence_accuracy {:.4f}', metrics.next_sentence_accuracy)}"
        f"{_if_any(' next_sentence_loss {:.4f}', metrics.next_sentence_loss)} "
        f"on {metrics.samples} samples, {metrics.seconds:.1f} s"
    )


def _if_any(template: str, value: float | None) -> str:
    return "" if value is None else template.format(value)
