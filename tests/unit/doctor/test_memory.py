"""Whether the machine has the predicted memory, and what fits if it does not."""

from __future__ import annotations

from bert_large.config.model import ModelConfig
from bert_large.doctor.finding import OK, PROBLEM, WARNING
from bert_large.doctor.memory import check_memory
from bert_large.train.memory import predict_memory

GIB = 1 << 30


def test_memory_that_is_enough_or_not() -> None:
    need = predict_memory(ModelConfig(), precision="fp32", micro_batch_tokens=4096, longest=512)
    assert check_memory(need, 1, 16 * GIB).level == OK
    assert check_memory(need, 2, 16 * GIB).level == PROBLEM
    assert check_memory(need, 1, None).level == WARNING
    assert check_memory(need, 1, need.total + 1).level == WARNING
    too_much = check_memory(need, 1, 9 * GIB)
    assert too_much.level == PROBLEM
    most = int(too_much.remedy.split("=")[1].split()[0])
    assert 512 < most < 4096
    fitting = predict_memory(ModelConfig(), precision="fp32", micro_batch_tokens=most, longest=512)
    assert check_memory(fitting, 1, 9 * GIB).level == OK
    assert "RANKS_PER_NODE" in check_memory(need, 1, 4 * GIB).remedy
