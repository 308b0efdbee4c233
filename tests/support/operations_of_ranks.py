"""One rank of a program that uses every operation of a backend; run by tests/integration/test_ccl.py.

Prints JSON: for each operation and dtype the largest error relative to a reference in float64, and what a wait for a
rank that does not answer raises.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta

import torch
from bert_large.distributed.collectives import Ranks
from bert_large.distributed.joining import joined_ranks
from torch import distributed

SIZES = (1, 7, 1000, 3_000_001)
FLOATS = (torch.float32, torch.bfloat16, torch.float64)
WHOLE = (torch.int64, torch.uint8)
TIMEOUT_SECONDS = 0.5


def values_of(rank: int, size: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the same values of a rank on every rank."""
    generator = torch.Generator().manual_seed(100 * rank + size % 89)
    if dtype in FLOATS:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
    return torch.randint(0, 50, (size,), generator=generator).to(dtype)


def sum_error(ranks: Ranks, size: int, dtype: torch.dtype) -> float:
    """Return the largest error of a sum, relative to the sum of the absolute values."""
    inputs = [values_of(rank, size, dtype).double() for rank in range(ranks.world_size)]
    found = values_of(ranks.rank, size, dtype)
    work = distributed.all_reduce(found, async_op=True)
    assert work is not None
    (summed,) = work.get_future().then(lambda future: future.value()).wait()
    assert summed.data_ptr() == found.data_ptr()
    scale = torch.stack([values.abs() for values in inputs]).sum(0).clamp(min=1e-30)
    return float(((found.double() - sum(inputs)).abs() / scale).max())


def is_repeatable(ranks: Ranks, size: int) -> bool:
    """Return whether sums have the same bits in 20 repetitions and on all ranks, whichever rank comes last."""
    sums = []
    for repetition in range(20):
        if ranks.rank == repetition % ranks.world_size:
            time.sleep(0.002)
        sums.append(values_of(ranks.rank, size, torch.float32))
        distributed.all_reduce(sums[-1])
    first = sums[0].clone()
    distributed.broadcast(first, src=0)
    return not ranks.any(any(not torch.equal(found, first) for found in sums))


def moves_exactly(ranks: Ranks, size: int, dtype: torch.dtype) -> bool:
    """Return whether broadcasts, gathers and messages between all pairs of ranks keep every bit."""
    inputs = [values_of(rank, size, dtype) for rank in range(ranks.world_size)]
    exact = True
    for root in range(ranks.world_size):
        found = inputs[ranks.rank].clone()
        distributed.broadcast(found, src=root)
        exact &= torch.equal(found, inputs[root])
    gathered = [torch.empty_like(values) for values in inputs]
    distributed.all_gather(gathered, inputs[ranks.rank])
    exact &= all(map(torch.equal, gathered, inputs))
    for sender in range(ranks.world_size):
        for receiver in range(ranks.world_size):
            if ranks.rank == sender != receiver:
                distributed.send(inputs[sender], dst=receiver)
            elif ranks.rank == receiver != sender:
                found = torch.empty_like(inputs[sender])
                distributed.recv(found, src=sender)
                exact &= torch.equal(found, inputs[sender])
    return exact


def wait_in_vain(ranks: Ranks) -> str:
    """Return the type of the error that a wait of rank 0 ends with when the others come too late."""
    if ranks.rank != 0:
        time.sleep(4 * TIMEOUT_SECONDS)
    work = distributed.all_reduce(torch.ones(1), async_op=True)
    assert work is not None
    if ranks.rank != 0:
        work.wait()
        return ""
    try:
        work.wait(timeout=timedelta(seconds=TIMEOUT_SECONDS))
    except RuntimeError as error:
        work.get_future().wait()  # the operation itself ends once the others have come
        return type(error).__name__
    return "nothing"


def refusal(call: object) -> str:
    """Return the message of the error that a call raises."""
    assert callable(call)
    try:
        call()
    except (RuntimeError, ValueError) as error:
        return str(error).splitlines()[0]
    return ""


def main() -> None:
    with joined_ranks(sys.argv[1]) as ranks:
        found = {
            "backend": distributed.get_backend(),
            "described": ranks.describe_bindings()[0],
            "sums": {str(dtype): max(sum_error(ranks, size, dtype) for size in SIZES) for dtype in FLOATS + WHOLE},
            "exact": {str(dtype): all(moves_exactly(ranks, size, dtype) for size in SIZES) for dtype in FLOATS + WHOLE},
            "is_repeatable": all(is_repeatable(ranks, size) for size in (5, 1000, 5000, 40_000, 1_000_000)),
            "late": wait_in_vain(ranks),
            "refusals": [
                refusal(lambda: distributed.all_reduce(torch.ones(3), op=distributed.ReduceOp.MAX)),
                refusal(lambda: distributed.all_reduce(torch.ones(3, dtype=torch.int16))),
                refusal(lambda: distributed.broadcast(torch.ones(4, 4)[:, 1], src=0)),
            ],
        }
        ranks.wait_for_all()
        print(json.dumps(found))


if __name__ == "__main__":
    main()
