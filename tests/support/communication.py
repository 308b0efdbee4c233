"""One rank of a program that records what ranks send each other; run by tests/integration/test_communication.py.

Prints JSON with three parts: `reduced` and `overlap` by engine, and `state`. They are described at their functions.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from typing import Any

import torch
from bert_large.config.training import OptimConfig
from bert_large.data.batch import RaggedBatch, make_batch
from bert_large.data.order import BatchSizes
from bert_large.distributed.collectives import Ranks
from bert_large.distributed.gradients import GradientSum
from bert_large.distributed.joining import joined_ranks
from bert_large.distributed.sharding import ParameterShards
from bert_large.engines import available_engines, resolve_engine
from bert_large.engines.precision import Precision
from bert_large.model.bert import BertForPreTraining, Layer
from bert_large.optim.build import build_optimizer, build_schedule, get_moments, moment_names
from bert_large.train.step import StepRunner

from tests.support.models import tiny_model
from tests.support.records import make_records

OPTIM = OptimConfig(learning_rate=0.01, total_steps=10)
STEPS, MICRO_BATCHES = 3, 4  # DDP rearranges its buckets after the first step
SMALL_BUCKET_MB = 0.03  # about one layer of the tiny model
TIMEOUT_SECONDS = 30


def make_runner(model: BertForPreTraining, engine: str, ranks: Ranks, gradient_sum: GradientSum) -> StepRunner:
    model.engine = resolve_engine(engine)[0]
    return StepRunner(
        model=model, optimizer=build_optimizer(model, OPTIM, model.engine.lamb), schedule=build_schedule(OPTIM),
        ranks=ranks, precision=Precision("fp32"), batch_sizes=BatchSizes(ranks.world_size * MICRO_BATCHES),
        max_gradient_norm=1.0, seed=1, gradient_sum=gradient_sum,
    )  # fmt: skip


def micro_batches(ranks: Ranks) -> list[RaggedBatch]:
    return [make_batch([record], [0]) for record in make_records(MICRO_BATCHES, seed=ranks.rank)]


def weights_of(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def digest(weights: torch.Tensor) -> str:
    return hashlib.sha256(weights.numpy().tobytes()).hexdigest()


def count_reductions(ranks: Ranks, engine: str) -> dict[str, Any]:
    """Return the number of gradient elements summed in each step, and a digest of the weights after the last one."""
    reduced: list[int] = []
    model = tiny_model()
    runner = make_runner(
        model, engine, ranks,
        GradientSum(on_bucket=lambda bucket, sent_bytes, done: reduced.append(sent_bytes // 4 if done else 0)),
    )  # fmt: skip
    per_step = []
    for step in range(STEPS):
        runner.run(step, micro_batches(ranks), 0.0, lambda done: None)
        per_step.append(sum(reduced))
        reduced.clear()
    weights = weights_of(model)
    return {"parameters": len(weights), "elements": per_step, "weights": digest(weights)}


def record_overlap(ranks: Ranks, engine: str) -> list[str]:
    """Return the order of events in the last step: when layers end their backward pass and buckets are summed.

    In the last micro-batch the backward pass waits after layer 1 until the sum of the first bucket is done.
    """
    events: list[str] = []
    first_is_summed = threading.Event()

    def note_bucket(bucket: int, sent_bytes: int, done: bool) -> None:
        events.append(f"bucket {bucket} {'done' if done else 'begins'}")
        if done and bucket == 0:
            first_is_summed.set()

    def end_layer(number: int) -> None:
        if number == 0 and any(event.startswith("bucket") for event in events):
            assert first_is_summed.wait(TIMEOUT_SECONDS), "no bucket is summed during the backward pass"
        events.append(f"layer {number} ends")

    attend: Callable[..., torch.Tensor] = Layer.attend

    def watched_attend(layer: Layer, batch: RaggedBatch, hidden: torch.Tensor, *rest: Any) -> torch.Tensor:
        if hidden.requires_grad:  # the gradient of a layer's input is computed last
            hidden.register_hook(lambda gradient: end_layer(layer.number))
        return attend(layer, batch, hidden, *rest)

    Layer.attend = watched_attend  # type: ignore[method-assign, assignment]
    try:
        gradient_sum = GradientSum(bucket_mb=SMALL_BUCKET_MB, on_bucket=note_bucket)
        runner = make_runner(tiny_model(num_hidden_layers=4), engine, ranks, gradient_sum)
        for step in range(STEPS):
            events.clear()
            first_is_summed.clear()
            runner.run(step, micro_batches(ranks), 0.0, lambda done: None)
    finally:
        Layer.attend = attend  # type: ignore[method-assign]
    return events


def divide_state(ranks: Ranks) -> dict[str, Any]:
    """Update a model whose optimizer state is divided; return sizes, the moments received here, and a digest."""
    model = tiny_model()
    shards = ParameterShards(model, ranks)
    optimizer = build_optimizer(model, OPTIM, owned=shards.owned)
    parameters = dict(model.named_parameters())
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    versions = [parameter._version for parameter in parameters.values()]
    optimizer.step()
    shards.share_weights()
    assert all(weight._version > before for weight, before in zip(parameters.values(), versions, strict=True))
    kept = get_moments(model, optimizer)
    received = [
        moment
        for name in parameters
        for moment in moment_names(name)
        if (tensor := shards.send_to_main(name, kept.get(moment))) is not None and bool((tensor > 0).all())
    ]
    state = [value for values in optimizer.state.values() for value in values.values() if torch.is_tensor(value)]
    weights = weights_of(model)
    return {"parameters": len(weights), "tensors": len(parameters), "kept": sum(value.numel() for value in state),
            "received": received, "weights": digest(weights)}  # fmt: skip


def main() -> None:
    with joined_ranks() as ranks:
        found = {
            "reduced": {engine: count_reductions(ranks, engine) for engine in available_engines()},
            "overlap": {engine: record_overlap(ranks, engine) for engine in available_engines()},
            "state": divide_state(ranks),
        }
        print(json.dumps(found))


if __name__ == "__main__":
    main()
