"""Evaluation on the whole held-out set, in order and without dropout."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from bert_large.data.dataset import Dataset
from bert_large.data.loader import EvalBatches
from bert_large.distributed.collectives import Ranks
from bert_large.engines.precision import Precision
from bert_large.model.bert import BertForPreTraining
from bert_large.observe.metrics import EvalMetrics, mean, mean_or_none
from bert_large.observe.progress import Progress
from bert_large.train.loss import as_row
from bert_large.train.stopping import WorkDropped


def count_eval_records(dataset: Dataset, samples: int | None) -> int:
    """Return the number of records in an evaluation on the first `samples` (all if None)."""
    return min(samples or len(dataset), len(dataset))


@torch.no_grad()
def evaluate(
    model: BertForPreTraining, dataset: Dataset, *, ranks: Ranks, precision: Precision, micro_batch_tokens: int,
    samples: int | None, is_stop_requested: Callable[[], bool] = lambda: False,
) -> EvalMetrics:  # fmt: skip
    """Evaluate on the first `samples` records of `dataset` (None: all), each once, spread over all ranks.

    Raises `WorkDropped` on all ranks if `is_stop_requested()` becomes true on any of them.
    """
    started = time.perf_counter()
    batches = EvalBatches.cut(
        dataset,
        records=count_eval_records(dataset, samples),
        micro_batch_tokens=micro_batch_tokens,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    sums = torch.zeros(4, dtype=torch.float64)
    counts = torch.zeros(2, dtype=torch.float64)  # masked tokens, sequences
    label_counts = torch.zeros(model.config.vocab_size, dtype=torch.int64)
    with Progress(len(batches), "batch", visible=ranks.is_main, listener=ranks.note) as progress:
        for number in range(len(batches)):
            if is_stop_requested():
                break
            (batch,) = batches[number]
            progress.within(f"evaluating: micro-batch {number + 1} of {len(batches)}")
            with precision.autocast():
                sums += as_row(model(batch, None))
            counts += torch.tensor([batch.masked_tokens, batch.records], dtype=torch.float64)
            label_counts += torch.bincount(batch.masked_labels, minlength=len(label_counts))
            progress.advance()
    if ranks.any(is_stop_requested()):
        raise WorkDropped

    masked_lm_loss, masked_lm_correct, next_sentence_loss, next_sentence_correct = ranks.sum(sums).tolist()
    masked_tokens, sequences = ranks.sum(counts).tolist()
    next_sentences = model.next_sentence_predictions(int(sequences))
    return EvalMetrics(
        samples=int(sequences),
        masked_lm_loss=mean(masked_lm_loss, masked_tokens),
        masked_lm_accuracy=mean(masked_lm_correct, masked_tokens),
        next_sentence_loss=mean_or_none(next_sentence_loss, next_sentences),
        next_sentence_accuracy=mean_or_none(next_sentence_correct, next_sentences),
        most_frequent_token_accuracy=mean(float(ranks.sum(label_counts).max()), masked_tokens),
        seconds=time.perf_counter() - started,
    )
