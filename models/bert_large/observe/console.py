"""What a person sees: a progress bar on a terminal, plain lines elsewhere, and all lines in the log file."""

from __future__ import annotations

from bert_large.observe.metrics import EvalFigures, StepFigures


def step_line(figures: StepFigures, max_steps: int) -> str:
    """Return the log line of a step; the field names are those that users' scripts look for."""
    next_loss = _if_any(" next_sentence {:.4f}", figures.next_sentence_loss)
    return (
        f"step {figures.step}/{max_steps} loss {figures.loss:.4f} "
        f"(masked_lm {figures.masked_lm_loss:.4f}{next_loss}) "
        f"lm_acc {figures.masked_lm_accuracy:.4f}{_if_any(' seq_acc {:.4f}', figures.next_sentence_accuracy)} "
        f"lr {figures.learning_rate:.3e} grad_norm {figures.gradient_norm:.3f} "
        f"{figures.sequences_per_second:.2f} sentence/s {figures.tokens_per_second:.0f} token/s "
        f"{figures.seconds:.2f} s (data {figures.data_seconds:.2f} s)"
    )


def step_status(figures: StepFigures) -> str:
    """Return what a progress bar says of the last step."""
    return (
        f"loss {figures.loss:.3f}, accuracy {figures.masked_lm_accuracy:.3f}, "
        f"{figures.sequences_per_second:.1f} sequences/s"
    )


def eval_line(figures: EvalFigures) -> str:
    """Return the log line of an evaluation."""
    return (
        f"masked_lm_accuracy {figures.masked_lm_accuracy:.5f} "
        f"(always the most frequent token: {figures.most_frequent_token_accuracy:.5f}) "
        f"masked_lm_loss {figures.masked_lm_loss:.4f}"
        f"{_if_any(' next_sentence_accuracy {:.4f}', figures.next_sentence_accuracy)}"
        f"{_if_any(' next_sentence_loss {:.4f}', figures.next_sentence_loss)} "
        f"on {figures.samples} samples, {figures.seconds:.1f} s"
    )


def _if_any(form: str, figure: float | None) -> str:
    """Return a figure in a form, nothing where there is none."""
    return "" if figure is None else form.format(figure)
