"""The whole model on an engine: losses and all gradients; as a program, native against eager for an instruction set.

`python tests/support/whole_model.py avx2` prints as JSON the kernels' instruction set and the worst relative error of a
loss or gradient (norm of the difference over the norm) in float32 and in bfloat16.
"""

from __future__ import annotations

import json
import sys
from typing import Any
from unittest import mock

import torch
from bert_large.data.batch import make_batch
from bert_large.engines.eager import EagerEngine
from bert_large.engines.native import NativeEngine, build
from bert_large.model.bert import BertForPreTraining
from bert_large.model.dropout import StepDropout
from bert_large.model.operations import Operations

from tests.support.models import randomize, tiny_config
from tests.support.operations import Values, relative_error
from tests.support.records import make_records

RECORDS = make_records(9, lengths=(6, 150))


def losses_and_gradients(
    engine: Operations, dtype: torch.dtype, *, dropout: bool = True, micro_batches: int = 2, **changes: Any
) -> Values:
    """Return the summed losses, the counts of correct predictions and every parameter's gradient.

    Weights, biases and norms are random and the same for every engine and type; so are the dropout's masks. In bfloat16
    it is the forward pass under autocast.
    """
    # 3 heads of 24, and 72 and 100 columns: no multiples of a vector's width.
    odd = {"hidden_size": 72, "num_attention_heads": 3, "intermediate_size": 100}
    model = BertForPreTraining(tiny_config(**odd | changes), engine)
    randomize(model, spread=0.15)
    if dtype == torch.float64:
        model.double()
    totals = torch.zeros(4, dtype=torch.float64)
    size = -(-len(RECORDS) // micro_batches)
    for start in range(0, len(RECORDS), size):
        part = RECORDS[start : start + size]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            sums = model(make_batch(part, range(start, start + len(part))), StepDropout(3, 7) if dropout else None)
        (sums.masked_lm_loss + sums.next_sentence_loss).backward()
        totals += torch.stack([value.detach().double() for value in vars(sums).values()])
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    return {"sums": totals, **{name: gradient for name, gradient in gradients.items() if gradient is not None}}


def worst_error(found: Values, expected: Values) -> tuple[float, str]:
    """Return the largest relative error and its name; without key biases, whose exact gradient is 0."""
    names = [name for name in expected if not name.endswith("key.bias")]
    return max((relative_error(found[name].double(), expected[name]), name) for name in names)


def main(instruction_set: str) -> None:
    mock.patch.object(build, "read_cpu_flags", lambda: build.INSTRUCTION_SETS[instruction_set]).start()
    torch.set_num_threads(1)
    native, expected = NativeEngine(), losses_and_gradients(EagerEngine(), torch.float64)
    errors = {
        name: worst_error(losses_and_gradients(native, dtype), expected)
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }
    print(json.dumps({"instructions": native.instructions, **errors}))


if __name__ == "__main__":
    main(sys.argv[1])
