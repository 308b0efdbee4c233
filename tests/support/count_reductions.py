"""One rank of a run that counts what gradient reduction communicates; run by tests/integration/test_ranks.py.

Its argument is the engine. Prints as JSON: parameters of the model, elements reduced in each step, and a digest of the
weights after the last.
"""

import hashlib
import json
import sys

import torch
from bert_large.config.training import OptimConfig
from bert_large.data.batch import make_batch
from bert_large.distributed.gradients import GradientSum
from bert_large.distributed.joining import joined_ranks
from bert_large.engines import resolve_engine
from bert_large.engines.precision import Precision
from bert_large.optim.build import build_optimizer, build_schedule
from bert_large.train.step import StepRunner

from tests.support.models import tiny_model
from tests.support.records import make_records

STEPS, MICRO_BATCHES = 3, 4
OPTIM = OptimConfig(learning_rate=0.01, total_steps=10)


def main(engine: str) -> None:
    reduced: list[int] = []

    def count(bucket: int, sent_bytes: int, done: bool) -> None:
        reduced.append(sent_bytes // 4 if done else 0)

    with joined_ranks() as ranks:
        model = tiny_model()
        model.engine = resolve_engine(engine)[0]
        runner = StepRunner(
            model=model, optimizer=build_optimizer(model, OPTIM, model.engine.lamb), schedule=build_schedule(OPTIM),
            ranks=ranks, precision=Precision("fp32"), global_batch_size=2 * MICRO_BATCHES, max_gradient_norm=1.0,
            seed=1, gradient_sum=GradientSum(on_bucket=count),
        )  # fmt: skip
        per_step = []
        for step in range(STEPS):
            records = make_records(MICRO_BATCHES, seed=ranks.rank)
            runner.run(step, [make_batch([record], [0]) for record in records], 0.0, lambda done: None)
            per_step.append(sum(reduced))
            reduced.clear()
        weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        digest = hashlib.sha256(weights.numpy().tobytes()).hexdigest()
        print(json.dumps({"parameters": len(weights), "reduced": per_step, "weights": digest}))


if __name__ == "__main__":
    main(sys.argv[1])
