"""The model: names of weights, initialisation, and results for ragged batches."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from bert_large.config.model import ModelConfig
from bert_large.data.batch import RaggedBatch, make_batch
from bert_large.engines.eager import EagerEngine
from bert_large.model import bert
from bert_large.model.bert import BertForPreTraining, PretrainingSums, skeleton
from bert_large.model.dropout import DropoutSite, Site, StepDropout, site_dropout

from tests.support.models import DISTILBERT, MASKED_LM_ONLY, randomize, tiny_config, tiny_model
from tests.support.records import make_records

RECORDS = make_records(9, lengths=(6, 30))


def gradients_of(model: BertForPreTraining) -> dict[str, torch.Tensor]:
    """Return every parameter's gradient; fails if one has none."""
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}


def sums_and_gradients(
    model: BertForPreTraining, cuts: list[slice], dropout: StepDropout | None
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Run the records in the micro-batches given and return summed losses and counts, and summed gradients."""
    model.zero_grad()
    totals = [0.0] * 4
    for cut in cuts:
        result = model(make_batch(RECORDS[cut], range(9)[cut]), dropout)
        (result.masked_lm_loss + result.next_sentence_loss).backward()
        totals = [total + float(value.detach()) for total, value in zip(totals, vars(result).values(), strict=True)]
    return totals, {name: gradient.clone() for name, gradient in gradients_of(model).items()}


def test_the_size_of_bert_large() -> None:
    """As many parameters with both heads as in MLCommons' checkpoint."""
    assert sum(parameter.numel() for parameter in skeleton(ModelConfig()).parameters()) == 336_226_108


def test_a_skeleton_has_shapes_without_memory() -> None:
    parameters = {name: parameter.shape for name, parameter in tiny_model().named_parameters()}
    made = skeleton(tiny_config())
    assert {name: parameter.shape for name, parameter in made.named_parameters()} == parameters
    assert all(parameter.is_meta for parameter in made.parameters())
    loaded, weights = made.to_empty(device="cpu"), tiny_model().state_dict()
    loaded.load_state_dict(weights)
    assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())


def test_the_decoder_is_the_embedding() -> None:
    """One parameter for both, whose gradient is the sum of both uses."""
    names = [name for name, _ in tiny_model().named_parameters()]
    assert not [name for name in names if "decoder" in name]
    model = tiny_model().double()
    batch = make_batch(RECORDS, range(9))
    model(batch, None).masked_lm_loss.backward()
    gradient = model.bert.embeddings.word_embeddings.weight.grad
    assert gradient is not None
    absent = sorted(set(range(100)) - set(batch.input_ids.tolist()) - set(batch.masked_labels.tolist()))
    assert absent and bool((gradient[absent].abs().sum(dim=1) > 0).all())


def test_initial_weights() -> None:
    """As in the reference: normal with deviation 0.02, truncated at two deviations; biases 0, norms 1."""
    model = tiny_model(seed=1, hidden_size=64, vocab_size=1000)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "LayerNorm" in name:
            assert bool((parameter == 1).all()), name
        else:
            assert float(parameter.detach().abs().max()) <= 0.04, name
    words = model.bert.embeddings.word_embeddings.weight.detach()
    # A normal cut at two deviations keeps 0.8796 of its deviation.
    assert float(words.std()) == pytest.approx(0.02 * 0.8796, rel=0.01)
    assert abs(float(words.mean())) < 4 * 0.0176 / 64_000**0.5


def test_initial_weights_depend_on_the_seed_alone() -> None:
    """Not on the state of PyTorch's generator."""
    torch.manual_seed(1)
    one = tiny_model(seed=7).state_dict()
    torch.manual_seed(2)
    same, other = tiny_model(seed=7).state_dict(), tiny_model(seed=8).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["bert.pooler.dense.weight"], other["bert.pooler.dense.weight"])


@pytest.mark.parametrize("dropout", [None, StepDropout(42, 5)], ids=["without dropout", "with dropout"])
def test_results_do_not_depend_on_micro_batches(dropout: StepDropout | None) -> None:
    """Sums and gradients of all records at once, in three micro-batches, and one by one agree to 1e-12 in float64."""
    model = tiny_model(num_attention_heads=4).double()
    randomize(model)
    whole, whole_gradients = sums_and_gradients(model, [slice(0, 9)], dropout)
    for cuts in ([slice(0, 2), slice(2, 7), slice(7, 9)], [slice(index, index + 1) for index in range(9)]):
        totals, gradients = sums_and_gradients(model, cuts, dropout)
        assert totals == pytest.approx(whole, rel=1e-12)
        for name, expected in whole_gradients.items():
            torch.testing.assert_close(gradients[name], expected, rtol=1e-10, atol=1e-12, msg=name)


@torch.no_grad()
def loss(model: BertForPreTraining, batch: RaggedBatch, dropout: StepDropout | None) -> float:
    return float(model(batch, dropout).masked_lm_loss)


def test_dropout_changes_with_step_seed_and_sample() -> None:
    """Each gives another loss, and so does no dropout."""
    model = tiny_model()
    randomize(model)
    batch = make_batch(RECORDS, range(9))
    cases = [(batch, None), (batch, StepDropout(1, 1)), (batch, StepDropout(1, 2)), (batch, StepDropout(2, 1)),
             (make_batch(RECORDS, range(9, 18)), StepDropout(1, 1))]  # fmt: skip
    results = [loss(model, of, dropout) for of, dropout in cases]
    assert len(set(results)) == 5
    assert loss(model, batch, StepDropout(1, 1)) == results[1]


def test_every_site_has_its_own_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the embeddings and three in each of two layers, with the keys that engines must use."""
    asked: list[DropoutSite | None] = []

    def ask(*arguments: Any) -> DropoutSite | None:
        asked.append(site_dropout(*arguments))
        return asked[-1]

    monkeypatch.setattr(bert, "site_dropout", ask)
    dropout = StepDropout(3, 4)
    tiny_model()(make_batch(RECORDS, range(9)), dropout)
    sites = [Site.ATTENTION_PROBABILITIES, Site.ATTENTION_OUTPUT, Site.FEED_FORWARD_OUTPUT]
    expected = [site_dropout(dropout, 0.1, layer, site) for layer in (0, 1) for site in sites]
    assert asked == [site_dropout(dropout, 0.1, 0, Site.EMBEDDING), *expected]
    assert len(set(asked)) == 7


@pytest.mark.parametrize("hidden, attention", [(0.5, 0.0), (0.0, 0.5)])
def test_both_dropout_probabilities_count(hidden: float, attention: float) -> None:
    """Each setting affects the loss."""
    batch, dropout = make_batch(RECORDS, range(9)), StepDropout(1, 1)
    losses = []
    for probabilities in ((0.0, 0.0), (hidden, attention), (0.5, 0.5)):
        model = tiny_model(hidden_dropout_prob=probabilities[0], attention_probs_dropout_prob=probabilities[1])
        randomize(model)
        losses.append(loss(model, batch, dropout))
    assert len(set(losses)) == 3


@pytest.mark.parametrize(("changes", "drops"), [({}, True), (MASKED_LM_ONLY, True), (DISTILBERT, False)])
def test_dropout_after_attention(changes: dict[str, Any], drops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """DistilBERT has none there."""
    found = []
    attention_block = EagerEngine.attention_block

    def noting(self: EagerEngine, *arguments: Any) -> torch.Tensor:
        found.append((arguments[6] is not None, arguments[9] is not None))
        return attention_block(self, *arguments)

    monkeypatch.setattr(EagerEngine, "attention_block", noting)
    tiny_model(**changes)(make_batch(make_records(3), range(3)), StepDropout(1, 2))
    assert found == [(True, drops)] * 2


@pytest.mark.parametrize(("changes", "differ"), [(MASKED_LM_ONLY, True), (DISTILBERT, False)])
def test_segments(changes: dict[str, Any], differ: bool) -> None:
    """DistilBERT ignores them."""
    model, batch = tiny_model(**changes), make_batch(make_records(3), range(3))
    randomize(model)
    flipped = dataclasses.replace(batch, token_type_ids=1 - batch.token_type_ids)
    losses = [float(model(given, None).masked_lm_loss.detach()) for given in (batch, flipped)]
    assert (losses[0] != losses[1]) == differ


def test_counts_right_predictions() -> None:
    """Both heads: a model biased to one answer is right exactly where that is the label."""
    records = make_records(9)
    model = tiny_model()
    assert model.cls.seq_relationship is not None
    with torch.no_grad():
        model.cls.predictions.bias[33] = 100.0
        model.cls.seq_relationship.bias[1] = 100.0
    for record in records[:4]:
        record.masked_ids[:] = 33
    for record in records[4:]:
        record.masked_ids[:] = 34
    result: PretrainingSums = model(make_batch(records, range(9)), None)
    assert int(result.masked_lm_correct) == sum(len(record.masked_ids) for record in records[:4])
    assert int(result.next_sentence_correct) == sum(record.next_sentence_label for record in records)


def test_a_batch_without_masked_tokens() -> None:
    """Its masked-LM loss is 0, and every parameter has a gradient, which ranks can then reduce."""
    records = make_records(2)
    for record in records:
        object.__setattr__(record, "masked_positions", record.masked_positions[:0])
        object.__setattr__(record, "masked_ids", record.masked_ids[:0])
    model = tiny_model()
    result = model(make_batch(records, range(2)), None)
    (result.masked_lm_loss + result.next_sentence_loss).backward()
    assert float(result.masked_lm_loss.detach()) == 0.0 and int(result.masked_lm_correct) == 0
    assert all(bool(gradient.isfinite().all()) for gradient in gradients_of(model).values())


@pytest.mark.parametrize("dropout", [None, StepDropout(3, 5)], ids=["evaluation", "dropout"])
def test_the_tokens_that_heads_read_are_encoded_as_all_are(dropout: StepDropout | None) -> None:
    model = tiny_model().double()
    batch = make_batch(make_records(6), range(6))
    all_tokens = model.bert(batch, model.engine, dropout)
    read, hidden = model.bert.encode_for_heads(batch, model.engine, dropout)
    rows = torch.unique(torch.cat([batch.cu_seqlens[:-1].long(), batch.masked_positions]))
    assert len(rows) < batch.tokens / 2
    torch.testing.assert_close(hidden, all_tokens[rows], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(hidden[read.masked_positions], all_tokens[batch.masked_positions])
