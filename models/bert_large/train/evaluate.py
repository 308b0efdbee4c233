"""Evaluation: the whole held-out set in order, dropout off, figures over all of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from bert_large.data.dataset import Dataset
from bert_large.data.loader import EvalBatches
from bert_large.distributed.collectives import Ranks
from bert_large.engines.precision import Precision
from bert_large.model.bert import BertForPreTraining
from bert_large.observe.metrics import EvalFigures, mean, mean_or_none
from bert_large.observe.progress import Progress
from bert_large.train.stopping import WorkDropped


def count_eval_records(dataset: Dataset, samples: int | None) -> int:
    """Return how many records an evaluation on the first `samples` (None: all) takes in."""
    return min(samples or len(dataset), len(dataset))


@torch.no_grad()
def evaluate(
    model: BertForPreTraining,
    dataset: Dataset,
    *,
    ranks: Ranks,
    precision: Precision,
    micro_batch_tokens: int,
    samples: int | None,
    is_stop_asked: Callable[[], bool] = lambda: False,
) -> EvalFigures:
    """Evaluate on the first `samples` records of `dataset` (None: all), every record once, over all ranks.

    Raises `WorkDropped` on all ranks when `is_stop_asked()` comes true on any of them.
    """
    started = time.perf_counter()
    records = count_eval_records(dataset, samples)
    batches = EvalBatches.cut(
        dataset, records=records, micro_batch_tokens=micro_batch_tokens, rank=ranks.rank, world_size=ranks.world_size
    )
    # masked-LM loss, its right predictions, masked tokens, next-sentence loss, its right predictions, sequences
    sums = torch.zeros(6, dtype=torch.float64)
    label_counts = torch.zeros(model.config.vocab_size, dtype=torch.int64)
    progress = Progress(len(batches), "batch", visible=ranks.is_main, listener=ranks.note)
    for number in range(len(batches)):
        if is_stop_asked():
            break
        (batch,) = batches[number]
        progress.within(f"evaluating: micro-batch {number + 1} of {len(batches)}")
        with precision.autocast():
            result = model(batch, None)
        sums += torch.tensor(
            [
                float(result.masked_lm_loss),
                float(result.masked_lm_correct),
                batch.masked_tokens,
                float(result.next_sentence_loss),
                float(result.next_sentence_correct),
                batch.sequences,
            ],
            dtype=torch.float64,
        )
        label_counts += torch.bincount(batch.masked_labels, minlength=len(label_counts))
        progress.advance()
    progress.close()

    if ranks.any(is_stop_asked()):
        raise WorkDropped
    sums, label_counts = ranks.sum(sums), ranks.sum(label_counts)
    masked_lm_loss, masked_lm_correct, masked_tokens, next_sentence_loss, next_sentence_correct, sequences = (
        sums.tolist()
    )
    next_sentences = model.next_sentence_predictions(int(sequences))
    return EvalFigures(
        samples=int(sequences),
        masked_lm_loss=mean(masked_lm_loss, masked_tokens),
        masked_lm_accuracy=mean(masked_lm_correct, masked_tokens),
        next_sentence_loss=mean_or_none(next_sentence_loss, next_sentences),
        next_sentence_accuracy=mean_or_none(next_sentence_correct, next_sentences),
        most_frequent_token_accuracy=mean(float(label_counts.max()), masked_tokens),
        seconds=time.perf_counter() - started,
    )
