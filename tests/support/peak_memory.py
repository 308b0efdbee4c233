"""Two optimizer steps of a model on the native engine; run by tests/integration/test_doctor_memory.py.

Arguments: ModelConfig's fields as a JSON object, the precision, tokens per micro-batch, tokens per sequence. Prints the
process's peak memory in bytes.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from bert_large.bench.synthetic import make_record
from bert_large.bench.training import build_runner
from bert_large.config.model import ModelConfig
from bert_large.data.batch import make_batch
from bert_large.engines import resolve_engine
from bert_large.engines.precision import apply_precision
from bert_large.model.bert import BertForPreTraining
from bert_large.observe.machine import peak_memory_bytes

MICRO_BATCHES = 2
MOST_PREDICTIONS = 76


def main() -> None:
    shape, precision, tokens, length = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    config = ModelConfig(**shape)
    engine, _ = resolve_engine("native", precision)
    generator = np.random.default_rng(0)
    sequences = tokens // length
    batches = [
        make_batch(
            [
                make_record(generator, length, max_predictions=MOST_PREDICTIONS, vocab_size=config.vocab_size)
                for _ in range(sequences)
            ],
            range(number * sequences, (number + 1) * sequences),
        )
        for number in range(MICRO_BATCHES)
    ]
    model = BertForPreTraining(config, engine)
    model.initialize(0)
    runner = build_runner(model, apply_precision(precision), global_batch_size=MICRO_BATCHES * sequences)
    for step in range(2):
        runner.run(step, batches, 0.0, lambda done: None)
    print(peak_memory_bytes())


if __name__ == "__main__":
    main()
