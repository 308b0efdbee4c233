"""A program that runs models on micro-batches of several sizes, for a test that counts what oneDNN compiles.

    python -m tests.support.new_sizes [MODEL ...]

It prints `NEW_SIZES` after the first sizes, and then runs others and a product of PyTorch's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import bert_large
import torch
from bert_large.engines.native import NativeEngine
from bert_large.model.bert import BertForPreTraining
from bert_large.model.dropout import StepDropout
from bert_large.train.loss import micro_batch_loss

from tests.support.models import tiny_config
from tests.support.operations import batch_of

NEW_SIZES = "new sizes"
_SEQUENCES = 4
Run = Callable[[list[int]], None]


def pretraining() -> Run:
    """Return a step of pretraining: forward and backward pass and a change of the weights."""
    model = BertForPreTraining(tiny_config(hidden_act="gelu"), NativeEngine())
    model.initialize(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def run(lengths: list[int]) -> None:
        batch = batch_of(lengths, model.config.vocab_size)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            sums = model(batch, StepDropout(0, 0))
        micro_batch_loss(sums, batch.masked_tokens, batch.sequences).backward()
        optimizer.step()

    return run


def evaluation() -> Run:
    """Return the evaluation of a batch."""
    model = BertForPreTraining(tiny_config(), NativeEngine())
    model.initialize(0)

    def run(lengths: list[int]) -> None:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            model(batch_of(lengths, model.config.vocab_size), None)

    return run


def accelerated() -> Run:
    """Return a training step of an accelerated model of `transformers`.

    Its batches have `_SEQUENCES` sequences each, because the head is computed by `transformers`.
    """
    from tests.support.transformers_models import add_labels, make_inputs, make_model

    name = "BertForSequenceClassification"
    model = bert_large.accelerate(make_model(name, dropout=0.1, max_position_embeddings=128), "bf16")

    def run(lengths: list[int]) -> None:
        short = _SEQUENCES - len(lengths)
        parts = (lengths[0] - short, *lengths[1:], *(1,) * short)
        model(**add_labels(name, make_inputs(lengths=parts))).loss.backward()

    return run


def main(*models: str) -> None:
    """Run models in bf16 by the names of the functions that make them."""
    runs = [globals()[model]() for model in models]
    for lengths in ([40, 30, 30], [20, 60, 23]):
        for run in runs:
            run(lengths)
    print(NEW_SIZES, flush=True)
    for lengths in ([64, 64], [127, 1], [17, 29, 19, 42]):
        for run in runs:
            run(lengths)
    torch.mm(torch.ones(100, 64).bfloat16(), torch.ones(64, 64).bfloat16())


if __name__ == "__main__":
    main(*sys.argv[1:])
