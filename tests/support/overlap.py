"""One rank of a step that notes when gradients are summed; run by tests/integration/test_communication.py.

Its argument is the engine. The backward pass of the last micro-batch stands still after the first layer's part, until
the sum of the first bucket is done. Prints the course of it as JSON.
"""

import json
import sys
import threading

import torch
from bert_large.config.training import OptimConfig
from bert_large.data.batch import make_batch
from bert_large.distributed.gradients import GradientSum
from bert_large.distributed.joining import joined_ranks
from bert_large.engines import resolve_engine
from bert_large.engines.precision import Precision
from bert_large.model.bert import Layer
from bert_large.optim.build import build_optimizer, build_schedule
from bert_large.train.step import StepRunner

from tests.support.models import tiny_model
from tests.support.records import make_records

OPTIM = OptimConfig(learning_rate=0.01, total_steps=10)
BUCKET_MB = 0.03  # about a layer of the tiny model
TIMEOUT_SECONDS = 30


def main(engine: str) -> None:
    events: list[str] = []
    first_is_summed = threading.Event()

    def note_bucket(bucket: int, sent_bytes: int, done: bool) -> None:
        events.append(f"bucket {bucket} {'done' if done else 'begins'}")
        if done and bucket == 0:
            first_is_summed.set()

    def note_layer(layer: Layer, hidden: torch.Tensor) -> torch.Tensor:
        """Note when the gradient of what the layer is given is there: its backward pass has ended."""
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: end_layer(layer.number))
        return hidden

    def end_layer(number: int) -> None:
        if number == 0 and any(event.startswith("bucket") for event in events):
            assert first_is_summed.wait(TIMEOUT_SECONDS), "no bucket is summed while the backward pass goes on"
        events.append(f"layer {number} ends")

    attend = Layer.attend
    Layer.attend = lambda self, batch, hidden, *rest: attend(self, batch, note_layer(self, hidden), *rest)  # type: ignore[method-assign]
    with joined_ranks() as ranks:
        model = tiny_model(num_hidden_layers=4)
        model.engine = resolve_engine(engine)[0]
        runner = StepRunner(
            model=model, optimizer=build_optimizer(model, OPTIM, model.engine.lamb), schedule=build_schedule(OPTIM),
            ranks=ranks, precision=Precision("fp32"), global_batch_size=4, max_gradient_norm=1.0, seed=1,
            gradient_sum=GradientSum(bucket_mb=BUCKET_MB, on_bucket=note_bucket),
        )  # fmt: skip
        for step in range(3):  # DDP makes its buckets anew after the first
            events.clear()
            first_is_summed.clear()
            records = make_records(2, seed=ranks.rank)
            runner.run(step, [make_batch([record], [0]) for record in records], 0.0, lambda done: None)
        print(json.dumps(events))


if __name__ == "__main__":
    main(sys.argv[1])
