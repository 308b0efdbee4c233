"""Records of several parts: each part is computed as if it were alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from bert_large.data.batch import RaggedBatch, make_batch
from bert_large.data.record import NO_PAIR, Record
from bert_large.engines import available_engines, resolve_engine
from bert_large.errors import DataError
from bert_large.model.bert import BertForPreTraining
from bert_large.model.dropout import StepDropout

from tests.support.models import MASKED_LM_ONLY, randomize, tiny_model
from tests.support.records import make_records

PARTS = [
    dataclasses.replace(record, token_type_ids=record.token_type_ids * 0, next_sentence_label=NO_PAIR)
    for record in make_records(7, lengths=(6, 30))
]


def packed(parts: list[Record]) -> Record:
    """Return one record of several parts."""
    starts = np.cumsum([0, *(len(part.input_ids) for part in parts[:-1])]).tolist()
    masked = [part.masked_positions + start for part, start in zip(parts, starts, strict=True)]
    return Record(
        input_ids=np.concatenate([part.input_ids for part in parts]),
        token_type_ids=np.concatenate([part.token_type_ids for part in parts]),
        masked_positions=np.concatenate(masked).astype(np.int32),
        masked_ids=np.concatenate([part.masked_ids for part in parts]),
        next_sentence_label=NO_PAIR,
        part_starts=tuple(starts),
    )


RECORDS = [packed(PARTS[:3]), PARTS[3], packed(PARTS[4:])]


def masked_logits(model: BertForPreTraining, batch: RaggedBatch) -> torch.Tensor:
    """Return the masked-LM logits [M, vocabulary] from the encoder's output for all tokens, in plain PyTorch."""
    head = model.cls.predictions
    hidden = model.bert(batch, model.engine, None)[batch.masked_positions]
    dense, norm = head.transform.dense, head.transform.LayerNorm
    hidden = torch.nn.functional.gelu(hidden @ dense.weight.T + dense.bias, approximate="tanh")
    hidden = torch.nn.functional.layer_norm(hidden, (hidden.shape[-1],), norm.weight, norm.bias, norm.eps)
    return hidden @ model.bert.embeddings.word_embeddings.weight.T + head.bias


def results(model: BertForPreTraining, batch: RaggedBatch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    sums = model(batch, None)
    sums.masked_lm_loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"loss": sums.masked_lm_loss.detach(), "logits": masked_logits(model, batch).detach(), **gradients}


def test_a_batch_of_parts() -> None:
    batch, lengths = make_batch(RECORDS, [5, 6, 7]), [len(part.input_ids) for part in PARTS]
    assert batch.cu_seqlens.tolist() == np.cumsum([0, *lengths]).tolist()
    assert batch.position_ids.tolist() == [position for length in lengths for position in range(length)]
    assert batch.samples.tolist() == [5, 5 | 1 << 48, 5 | 2 << 48, 6, 7, 7 | 1 << 48, 7 | 2 << 48]
    assert batch.next_sentence_labels.tolist() == [NO_PAIR] * 7
    assert (batch.records, batch.sequences, batch.max_length) == (3, 7, max(lengths))


@pytest.mark.parametrize(
    ("engine", "dtype", "tolerance"),
    [("eager", torch.float64, 1e-13), *((name, torch.float32, 2e-5) for name in available_engines())],
)
def test_parts_do_not_influence_each_other(engine: str, dtype: torch.dtype, tolerance: float) -> None:
    """Logits, loss and gradients equal those of documents that are records of their own."""
    model = tiny_model(**MASKED_LM_ONLY).to(dtype)
    model.engine = resolve_engine(engine)[0]
    randomize(model, spread=0.2)
    together, alone = results(model, make_batch(RECORDS, range(3))), results(model, make_batch(PARTS, range(7)))
    for name, expected in alone.items():
        if not name.endswith("key.bias"):  # its exact gradient is 0
            difference = float((together[name] - expected).abs().max() / expected.abs().max())
            assert difference <= tolerance, f"{name}: {difference:.1e}"
    # The comparison can fail: as one part, the tokens see each other.
    joined = [dataclasses.replace(record, part_starts=(0,)) for record in RECORDS]
    other = results(model, make_batch(joined, range(3)))
    assert float((other["logits"] - alone["logits"]).abs().max()) > 0.1


def test_parts_have_dropout_masks_of_their_own() -> None:
    """Equal parts of a record give different results under dropout, and the same in any company."""
    model = tiny_model(**MASKED_LM_ONLY)
    randomize(model)
    twins, dropout = packed([PARTS[0], PARTS[0]]), StepDropout(3, 4)

    def hidden(batch: RaggedBatch) -> Any:
        with torch.no_grad():
            return model.bert(batch, model.engine, dropout)

    length = len(PARTS[0].input_ids)
    alone = hidden(make_batch([twins], [9]))
    assert not torch.allclose(alone[:length], alone[length:])
    behind = hidden(make_batch([PARTS[1], twins], [8, 9]))
    torch.testing.assert_close(behind[len(PARTS[1].input_ids) :], alone)


def test_a_next_sentence_head_needs_pairs() -> None:
    with pytest.raises(DataError, match="--masked-lm-only"):
        tiny_model()(make_batch(RECORDS, range(3)), None)
