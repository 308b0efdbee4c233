"""Training accelerated models by everything that uses autograd, and copies of weights that must not be stale."""

from __future__ import annotations

from typing import Any

import bert_large
import pytest
import torch
from torch import Tensor

transformers = pytest.importorskip("transformers", minversion="5", reason="needs Hugging Face's transformers")

from tests.support.transformers_models import (  # noqa: E402
    add_labels,
    assert_same,
    gradients_of,
    loss_of,
    make_inputs,
    make_model,
)

CLASSIFIER = "BertForSequenceClassification"
FP32 = 1e-5


def inputs_of(name: str = CLASSIFIER) -> dict[str, Tensor]:
    return add_labels(name, make_inputs())


def test_gradients_of_autograd_grad() -> None:
    model, inputs = make_model(CLASSIFIER), inputs_of()
    expected = gradients_of(model, inputs)
    bert_large.accelerate(model)
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = model(**inputs).loss
    model.zero_grad(set_to_none=True)
    found = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    assert all(parameter.grad is None for parameter in parameters)
    assert_same({"loss": loss.detach()} | found, expected, FP32)


def test_gradient_of_the_input() -> None:
    model, inputs = make_model(CLASSIFIER), inputs_of()
    embedded = model.bert.embeddings.word_embeddings(inputs.pop("input_ids")).detach()
    found = []
    for change in (bert_large.restore, bert_large.accelerate):
        leaf = embedded.clone().requires_grad_()
        change(model)(inputs_embeds=leaf, **inputs).loss.backward()
        found.append(leaf.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def test_second_backward_is_refused() -> None:
    model, inputs = bert_large.accelerate(make_model(CLASSIFIER)), inputs_of()
    loss = model(**inputs).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        loss.backward()


def test_gradient_of_a_gradient_is_refused() -> None:
    model, inputs = bert_large.accelerate(make_model(CLASSIFIER)), inputs_of()
    weight = model.bert.encoder.layer[0].output.dense.weight
    (gradient,) = torch.autograd.grad(model(**inputs).loss, weight, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.pow(2).sum().backward()


def test_weights_changed_before_backward_are_refused() -> None:
    """As by PyTorch's own operations: the gradient would be of other weights than the result."""
    model, inputs = bert_large.accelerate(make_model(CLASSIFIER), "bf16"), inputs_of()
    loss = model(**inputs).loss
    with torch.no_grad():
        model.bert.encoder.layer[1].intermediate.dense.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_hooks_of_parameters() -> None:
    model, inputs = make_model(CLASSIFIER), inputs_of()
    expected = gradients_of(model, inputs)
    bert_large.accelerate(model)
    seen: dict[str, Tensor] = {}
    accumulated: set[str] = set()
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda gradient, name=name: seen.setdefault(name, gradient.clone()))
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: accumulated.add(name))
    found = gradients_of(model, inputs)
    assert accumulated == set(seen) == set(found) - {"loss"}
    assert_same({"loss": found["loss"]} | seen, expected, FP32)


def test_accumulation_and_clipping() -> None:
    batches = [inputs_of(), add_labels(CLASSIFIER, make_inputs("left", lengths=(4, 20, 2)))]
    found = []
    for change in (bert_large.restore, bert_large.accelerate):
        model = change(make_model(CLASSIFIER))
        for inputs in batches:
            (model(**inputs).loss / 2).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        found.append({"norm": norm} | {name: value.grad for name, value in model.named_parameters()})
    assert_same(found[1], found[0], FP32)


@pytest.mark.parametrize("frozen", ["embeddings", "encoder.layer.0", "query", "LayerNorm", "bert"])
def test_frozen_parameters(frozen: str) -> None:
    model, inputs = make_model(CLASSIFIER), inputs_of()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen not in name)
    expected = gradients_of(model, inputs)
    assert 1 < len(expected) < len(list(model.parameters()))
    assert_same(gradients_of(bert_large.accelerate(model), inputs), expected, FP32)


def test_two_forward_passes_before_a_backward_pass() -> None:
    """As in contrastive learning."""
    batches = [inputs_of(), add_labels(CLASSIFIER, make_inputs("left", lengths=(4, 20, 2)))]
    found = []
    for change in (bert_large.restore, bert_large.accelerate):
        model = change(make_model(CLASSIFIER))
        sum(model(**inputs).loss for inputs in batches).backward()
        found.append({name: value.grad for name, value in model.named_parameters()})
    assert_same(found[1], found[0], FP32)


def test_a_tensor_in_two_roles() -> None:
    model, inputs = make_model(CLASSIFIER), inputs_of()
    attention = model.bert.encoder.layer[0].attention.self
    attention.key.weight = attention.query.weight
    expected = gradients_of(model, inputs)
    assert_same(gradients_of(bert_large.accelerate(model), inputs), expected, FP32)


def test_functional_call() -> None:
    """The parameters of a call, not those of the model, also in the backward pass, when the call is over."""
    model, other, inputs = make_model(CLASSIFIER), make_model(CLASSIFIER, seed=1), inputs_of()
    expected = gradients_of(other, inputs)
    values = {name: value.detach().clone().requires_grad_() for name, value in other.named_parameters()}
    loss = torch.func.functional_call(bert_large.accelerate(model), values, (), inputs).loss
    loss.backward()
    assert_same({"loss": loss.detach()} | {name: value.grad for name, value in values.items()}, expected, FP32)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_the_whole_encoder(reentrant: bool) -> None:
    """The second forward pass draws the same dropout, because PyTorch restores its generator."""
    model, inputs = bert_large.accelerate(make_model(CLASSIFIER, dropout=0.3)), inputs_of()
    hidden = model.bert.embeddings(inputs["input_ids"]).detach()
    found = []
    for checkpointed in (False, True):

        def forward(hidden: Tensor) -> Tensor:
            return model.bert.encoder(hidden).last_hidden_state

        leaf = hidden.clone().requires_grad_()
        torch.manual_seed(3)
        model.zero_grad()
        if checkpointed:
            out = torch.utils.checkpoint.checkpoint(forward, leaf, use_reentrant=reentrant)
        else:
            out = forward(leaf)
        out.pow(2).sum().backward()
        weight = model.bert.encoder.layer[0].output.dense.weight
        found.append({"input": leaf.grad, "weight": weight.grad.clone()})
    assert_same(found[1], found[0], 0)


def test_dropout_follows_the_seed() -> None:
    model, inputs = bert_large.accelerate(make_model("BertModel", dropout=0.4)), make_inputs()
    draws = []
    for seed in (1, 1, 2):
        transformers.set_seed(seed)
        draws.append([gradients_of(model, inputs) for _ in range(2)])
    for step in range(2):
        assert_same(draws[0][step], draws[1][step], 0)
    assert len({float(step["loss"]) for run in draws for step in run}) == 4  # the third run and every step differ
    model.eval()
    assert torch.equal(model(**inputs).pooler_output, model(**inputs).pooler_output)


def test_dropout_has_its_probabilities() -> None:
    """The mean over many draws is the output without dropout, to first order; parts in evaluation mode drop nothing."""
    model, inputs = bert_large.accelerate(make_model("BertModel", dropout=0.1)), make_inputs("none")
    hidden = model.embeddings(**inputs).detach()
    model.encoder.eval()
    still = model.encoder(hidden).last_hidden_state.detach()
    model.encoder.layer[1].output.dropout.train()
    torch.manual_seed(0)
    drawn = torch.stack([model.encoder(hidden).last_hidden_state.detach() for _ in range(400)])
    assert not torch.equal(drawn[0], drawn[1])
    assert float((drawn.mean(0) - still).norm() / still.norm()) < 0.03 < float((drawn[0] - still).norm() / still.norm())


def changes() -> dict[str, Any]:
    def optimizer(kind: Any, **settings: Any) -> Any:
        def change(model: Any) -> None:
            kind(model.parameters(), lr=0.05, **settings).step()

        return change

    def assign_data(model: Any) -> None:
        """As an average of weights is swapped in."""
        for parameter in model.parameters():
            parameter.data = parameter.data * 1.1

    def write_data(model: Any) -> None:
        for parameter in model.parameters():
            parameter.data.mul_(1.1)

    def zero_a_head(model: Any) -> None:
        for layer in model.bert.encoder.layer:
            layer.attention.self.value.weight.data[16:32] = 0

    def load(model: Any) -> None:
        model.load_state_dict(make_model(CLASSIFIER, seed=9).state_dict())

    def replace(model: Any) -> None:
        for layer in model.bert.encoder.layer:
            layer.output.dense.weight = torch.nn.Parameter(layer.output.dense.weight.detach() * 1.1)

    return {
        "fused AdamW": optimizer(torch.optim.AdamW, fused=True),
        "AdamW": optimizer(torch.optim.AdamW, foreach=True),
        "SGD": optimizer(torch.optim.SGD),
    } | {change.__name__: change for change in (assign_data, write_data, zero_a_head, load, replace)}


@pytest.mark.parametrize("change", changes())
@pytest.mark.parametrize("training", [True, False])
def test_changed_weights_are_used(change: str, training: bool) -> None:
    """Copies of weights in bfloat16 are renewed, however the weights were changed."""
    model, inputs = bert_large.accelerate(make_model(CLASSIFIER), "bf16"), inputs_of()
    gradients_of(model, inputs)
    with torch.no_grad():
        before = model(**inputs).loss
    changes()[change](model)
    twin = bert_large.accelerate(bert_large.restore(make_model(CLASSIFIER)), "bf16")  # without copies of weights yet
    twin.load_state_dict(model.state_dict())
    assert_same(gradients_of(model, inputs), gradients_of(twin, inputs), 0) if training else None
    with torch.no_grad():
        after = model(**inputs).loss
        assert torch.equal(after, twin(**inputs).loss) and not torch.equal(after, before)


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_trajectory_of_fused_adamw(precision: str | None) -> None:
    losses: list[list[float]] = []
    for change in (bert_large.restore, lambda model: bert_large.accelerate(model, precision)):
        model, inputs = change(make_model(CLASSIFIER)), inputs_of()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        losses.append([])
        for _ in range(8):
            loss = loss_of(model(**inputs), inputs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(float(loss.detach()))
    assert losses[0][-1] < losses[0][0] - 0.2
    assert losses[1] == pytest.approx(losses[0], rel=1e-4 if precision is None else 0.05)
