"""Evaluation: metrics over the whole set, without dropout."""

from __future__ import annotations

import pytest
import torch
from bert_large.data.batch import RaggedBatch, make_batch
from bert_large.data.dataset import Dataset
from bert_large.distributed.collectives import Ranks
from bert_large.engines.precision import Precision
from bert_large.model.bert import BertForPreTraining, PretrainingSums
from bert_large.observe.metrics import EvalMetrics
from bert_large.train.evaluate import evaluate

from tests.support.models import randomize, tiny_model
from tests.support.records import make_records, write_folder

RECORDS = make_records(17)
for _record in RECORDS[:4]:
    _record.masked_ids[:] = 55  # the most frequent label
MASKED = sum(len(record.masked_ids) for record in RECORDS)


@pytest.fixture(scope="module")
def model() -> BertForPreTraining:
    model = tiny_model()
    randomize(model)
    return model


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = write_folder(tmp_path_factory.mktemp("eval") / "eval", RECORDS)
    return Dataset.open(folder, folder.parent / "index", build=True)


def run(
    model: BertForPreTraining, dataset: Dataset, micro_batch_tokens: int = 100, samples: int | None = None
) -> EvalMetrics:
    return evaluate(
        model,
        dataset,
        ranks=Ranks(),
        precision=Precision("fp32"),
        micro_batch_tokens=micro_batch_tokens,
        samples=samples,
    )


@pytest.mark.parametrize("micro_batch_tokens", [1, 100, 10_000])
def test_metrics_are_means_over_all_tokens_and_sequences(
    model: BertForPreTraining, dataset: Dataset, micro_batch_tokens: int
) -> None:
    """Not means of micro-batches' means, which would depend on the cut. The last partial batch counts."""
    with torch.no_grad():
        sums = model(make_batch(RECORDS, range(17)), None)
    metrics = run(model, dataset, micro_batch_tokens)
    assert metrics.samples == 17
    assert metrics.masked_lm_loss == pytest.approx(float(sums.masked_lm_loss) / MASKED, rel=1e-5)
    assert metrics.masked_lm_accuracy == int(sums.masked_lm_correct) / MASKED
    assert metrics.next_sentence_loss == pytest.approx(float(sums.next_sentence_loss) / 17, rel=1e-5)
    assert metrics.next_sentence_accuracy == int(sums.next_sentence_correct) / 17


def test_baseline_is_the_most_frequent_label(model: BertForPreTraining, dataset: Dataset) -> None:
    labels = [label for record in RECORDS for label in record.masked_ids.tolist()]
    assert run(model, dataset).most_frequent_token_accuracy == labels.count(55) / MASKED


def test_only_the_first_samples_if_requested(model: BertForPreTraining, dataset: Dataset) -> None:
    """But not more than there are."""
    with torch.no_grad():
        sums = model(make_batch(RECORDS[:5], range(5)), None)
    masked = sum(len(record.masked_ids) for record in RECORDS[:5])
    metrics = run(model, dataset, samples=5)
    assert metrics.samples == 5
    assert metrics.masked_lm_loss == pytest.approx(float(sums.masked_lm_loss) / masked, rel=1e-5)
    assert run(model, dataset, samples=1000).samples == 17


def test_saves_no_activations(model: BertForPreTraining, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The activations of an evaluation's large micro-batches would fill the memory."""
    forward, graphs = model.forward, []

    def spy(batch: RaggedBatch, dropout: None) -> PretrainingSums:
        sums = forward(batch, dropout)
        graphs.append(sums.masked_lm_loss.requires_grad)
        return sums

    monkeypatch.setattr(model, "forward", spy)
    run(model, dataset)
    assert graphs and not any(graphs)
