"""Operations of the matrix products of a step."""

from __future__ import annotations

import numpy as np
from bert_large.bench.synthetic import make_record
from bert_large.data.batch import make_batch
from bert_large.observe.flops import product_flops
from torch.utils.flop_counter import FlopCounterMode

from tests.support.models import tiny_model


def test_product_flops_are_what_pytorch_counts() -> None:
    """For 32 sequences of one length: neither the eager engine nor the pooler then computes padding."""
    model = tiny_model()
    generator = np.random.default_rng(0)
    records = [make_record(generator, 24, max_predictions=24, vocab_size=model.config.vocab_size) for _ in range(32)]
    batch = make_batch(records, range(32))
    with FlopCounterMode(display=False) as counted:
        sums = model(batch, None)
        (sums.masked_lm_loss + sums.next_sentence_loss).backward()
    assert sum(product_flops(model.config, batch.cu_seqlens, batch.masked_tokens).values()) == counted.get_total_flops()
