"""From the logits of a question's windows to its answer: the n best texts, and whether there is an answer.

As in BERT's own code (Devlin et al. 2019, arXiv:1810.04805), the score of a span is the sum of its first token's start
logit and its last token's end logit; the score of "no answer" is the lowest sum at [CLS] over all windows. Unlike
there, all spans are considered, not only those between the most likely starts and ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ScoredWindow:
    """A window (see `squad_windows.Window`) and its logits [tokens], of which the first is at [CLS]."""

    context_begin: int
    offsets: NDArray[np.int32]
    start_logits: Logits
    end_logits: Logits


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible answer; the empty text means that there is none."""

    text: str
    start_logit: float
    end_logit: float

    @property
    def score(self) -> float:
        """The logarithm of its probability, up to a constant of the question."""
        return self.start_logit + self.end_logit


@dataclass(frozen=True, slots=True)
class Prediction:
    """The model's answer to a question.

    `candidates` are different texts, the most likely first; there is at least one, which for a context without tokens
    is the empty text. `no_answer` is the empty text with the logits at [CLS].
    """

    candidates: list[Candidate]
    no_answer: Candidate

    @property
    def text(self) -> str:
        """The most likely answer, assuming that there is one."""
        return self.candidates[0].text

    @property
    def null_odds(self) -> float:
        """The score of "no answer" minus that of the most likely answer, in nats."""
        return self.no_answer.score - self.candidates[0].score

    def n_best(self, *, with_no_answer: bool) -> list[dict[str, str | float]]:
        """Return the candidates in the form of `nbest_predictions.json`, with probabilities that sum to 1."""
        candidates = self.candidates
        if with_no_answer and candidates[0].text:
            candidates = sorted([*candidates, self.no_answer], key=lambda candidate: -candidate.score)
        highest = candidates[0].score
        weights = [math.exp(candidate.score - highest) for candidate in candidates]
        return [
            {"text": found.text, "probability": weight / sum(weights), "start_logit": found.start_logit,
             "end_logit": found.end_logit}
            for found, weight in zip(candidates, weights, strict=True)
        ]  # fmt: skip


def predict(context: str, windows: Sequence[ScoredWindow], *, n_best: int, max_answer_length: int) -> Prediction:
    """Return the prediction from all windows: up to `n_best` candidates of up to `max_answer_length` tokens."""
    found = [
        Candidate(context[window.offsets[first, 0] : window.offsets[last, 1]], *logits)
        for window in windows
        for first, last, logits in _best_spans(window, n_best, max_answer_length)
    ]
    best: dict[str, Candidate] = {}
    for candidate in sorted(found, key=lambda candidate: -candidate.score):
        best.setdefault(candidate.text, candidate)
    no_answer = min(
        (Candidate("", float(window.start_logits[0]), float(window.end_logits[0])) for window in windows),
        key=lambda candidate: candidate.score,
    )
    return Prediction(list(best.values())[:n_best] or [no_answer], no_answer)


def _best_spans(window: ScoredWindow, count: int, max_length: int) -> Iterator[tuple[int, int, tuple[float, float]]]:
    """Yield the first and last context token of the `count` best spans, and their logits."""
    inside = slice(window.context_begin, window.context_begin + len(window.offsets))
    starts, ends = window.start_logits[inside], window.end_logits[inside]
    length = min(max_length, len(starts))
    if not length:
        return
    following = np.concatenate([ends, np.full(length - 1, -np.inf, dtype=ends.dtype)])
    # Row: first token of the span; column: its length - 1.
    scores = (starts[:, None] + sliding_window_view(following, length)).ravel()
    for index in np.argpartition(-scores, min(count, len(scores)) - 1)[:count]:
        if scores[index] > -np.inf:
            first, more = divmod(int(index), length)
            yield first, first + more, (float(starts[first]), float(ends[first + more]))
