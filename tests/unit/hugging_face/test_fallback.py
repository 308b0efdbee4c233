"""What the kernels cannot compute: the original forward pass with one warning, or a refusal by `accelerate`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import bert_large
import pytest
import torch
from bert_large.errors import InputError
from torch import nn
from torch.nn.utils import prune as pruning
from torch.utils.flop_counter import FlopCounterMode

transformers = pytest.importorskip("transformers", minversion="5", reason="needs Hugging Face's transformers")

from tests.support.transformers_models import (  # noqa: E402
    add_labels,
    assert_same,
    gradients_of,
    make_inputs,
    make_model,
)

CLASSIFIER = "BertForSequenceClassification"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "bert_large"]


class Adapter(nn.Linear):
    """A layer that is called like a linear layer and computes something else."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def adapt(model: Any) -> None:
    attention = model.bert.encoder.layer[1].attention.self
    adapter = Adapter(48, 48)
    adapter.load_state_dict(attention.query.state_dict())
    attention.query = adapter


def quantize(model: Any) -> None:
    torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, inplace=True)


def parametrize(model: Any) -> None:
    torch.nn.utils.parametrizations.weight_norm(model.bert.encoder.layer[0].output.dense)


def prune(model: Any) -> None:
    pruning.l1_unstructured(model.bert.encoder.layer[0].output.dense, "weight", 0.5)


def hook(model: Any) -> None:
    model.bert.encoder.layer[0].output.register_forward_hook(lambda module, inputs, output: 2 * output)


def pre_hook(model: Any) -> None:
    model.bert.encoder.layer[0].attention.output.dense.register_forward_pre_hook(lambda module, inputs: 2 * inputs[0])


def replace_forward(model: Any) -> None:
    dense = model.bert.encoder.layer[0].output.dense
    dense.forward = lambda hidden: 2 * nn.functional.linear(hidden, dense.weight)


def add_module(model: Any) -> None:
    model.bert.encoder.layer[0].adapter = nn.Linear(48, 48)


def remove_bias(model: Any) -> None:
    model.bert.encoder.layer[0].output.dense.bias = None


def scale(model: Any) -> None:
    model.bert.encoder.layer[0].attention.self.scaling = 1.0


def chunk(model: Any) -> None:
    model.bert.encoder.layer[0].chunk_size_feed_forward = 2


def drop_everything(model: Any) -> None:
    model.bert.encoder.layer[0].output.dropout.p = 1.0


def widen(model: Any) -> None:
    model.double()


def checkpoint(model: Any) -> None:
    model.gradient_checkpointing_enable()


def own_attention(model: Any) -> None:
    def attend(*args: Any, **kwargs: Any) -> Any:
        output, weights = transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS["sdpa"](*args, **kwargs)
        return 2 * output, weights

    transformers.AttentionInterface.register("of_this_test", attend)
    transformers.AttentionMaskInterface.register("of_this_test", transformers.masking_utils.sdpa_mask)
    model.config._attn_implementation = "of_this_test"


CHANGES = [adapt, parametrize, prune, hook, pre_hook, replace_forward, add_module, remove_bias, scale, chunk, widen]


@pytest.mark.parametrize("change", [*CHANGES, checkpoint, drop_everything, own_attention])
def test_changed_after_accelerate(change: Any, caplog: pytest.LogCaptureFixture) -> None:
    model, reference = bert_large.accelerate(make_model(CLASSIFIER)), make_model(CLASSIFIER)
    inputs = add_labels(CLASSIFIER, make_inputs())
    found = []
    for each in (model, reference):
        torch.manual_seed(0)
        change(each)
        found.append([gradients_of(each, inputs) for _ in range(2)])
    assert_same(found[0][1], found[1][1], 0)
    assert len(warnings_of(caplog)) == 1, warnings_of(caplog)


@pytest.mark.parametrize("change", [*CHANGES, quantize])
def test_refused_by_accelerate(change: Any) -> None:
    model = make_model(CLASSIFIER).eval()
    change(model)
    before = [type(module) for module in model.modules()]
    with pytest.raises(InputError, match=CLASSIFIER):
        bert_large.accelerate(model)
    assert [type(module) for module in model.modules()] == before


@pytest.mark.parametrize("settings", [{"hidden_act": "relu"}, {"hidden_act": "gelu_fast"}, {"is_decoder": True},
                                      {"is_decoder": True, "add_cross_attention": True}])  # fmt: skip
def test_other_architectures_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="BertModel"):
        bert_large.accelerate(make_model("BertModel", **settings))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_of_parameters_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=str(dtype)):
        bert_large.accelerate(make_model("BertModel").to(dtype))


def causal(inputs: dict[str, Any]) -> dict[str, Any]:
    length = inputs["input_ids"].shape[1]
    return inputs | {"attention_mask": torch.ones(length, length).tril().expand(len(inputs["input_ids"]), 1, -1, -1)}


def empty_row(inputs: dict[str, Any]) -> dict[str, Any]:
    mask = inputs["attention_mask"].clone()
    mask[1] = 0
    return inputs | {"attention_mask": mask}


def biased(inputs: dict[str, Any]) -> dict[str, Any]:
    mask = (1.0 - inputs["attention_mask"].float())[:, None, None] * -2.0
    return inputs | {"attention_mask": mask}


CALLS = {
    "hidden states": lambda inputs: inputs | {"output_hidden_states": True},
    "attentions": lambda inputs: inputs | {"output_attentions": True},
    "empty row": empty_row,
    "causal": causal,
    "biased": biased,
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ["BertModel", "DistilBertModel"])
def test_calls(name: str, call: str, caplog: pytest.LogCaptureFixture) -> None:
    model, inputs = make_model(name, attn_implementation="eager").eval(), CALLS[call](make_inputs())
    expected = model(**inputs)
    bert_large.accelerate(model)
    for _ in range(2):
        found = model(**inputs)
        assert torch.equal(found.last_hidden_state.nan_to_num(7), expected.last_hidden_state.nan_to_num(7))
        for kind in ("hidden_states", "attentions"):
            if kind in expected:
                assert found[kind] and all(map(torch.equal, found[kind], expected[kind]))
    assert len(warnings_of(caplog)) == 1, warnings_of(caplog)


def test_the_kernels_are_used_again_after_a_recorded_call(caplog: pytest.LogCaptureFixture) -> None:
    """The hooks by which `transformers` records outputs stay, and are inactive."""
    model, inputs = bert_large.accelerate(make_model("BertModel").eval()), make_inputs()
    assert len(model(**inputs, output_hidden_states=True).hidden_states) == 3
    assert model(**inputs).last_hidden_state.grad_fn is not None
    padding = inputs["attention_mask"] == 0
    assert not bool(model(**inputs).last_hidden_state[padding].any())
    assert len(warnings_of(caplog)) == 1


@contextlib.contextmanager
def _global_hook() -> Iterator[None]:
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: None)
    yield
    handle.remove()


MODES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "fp16 autocast": lambda: torch.autocast("cpu", dtype=torch.float16),
    "global hook": _global_hook,
    "dispatch mode": lambda: FlopCounterMode(display=False),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    model, inputs = make_model("BertModel").eval(), make_inputs()
    with torch.no_grad(), MODES[mode]():
        expected = model(**inputs).last_hidden_state
        bert_large.accelerate(model)
        found = [model(**inputs).last_hidden_state for _ in range(2)]
    assert all(torch.equal(each, expected) for each in found)
    assert len(warnings_of(caplog)) == 1, warnings_of(caplog)


def test_function_transforms(caplog: pytest.LogCaptureFixture) -> None:
    model, inputs = make_model("BertModel").eval(), make_inputs()
    hidden = model.embeddings(inputs["input_ids"]).detach()

    def loss(hidden: torch.Tensor) -> torch.Tensor:
        return model.encoder(hidden).last_hidden_state.pow(2).sum()

    expected = torch.func.grad(loss)(hidden)
    bert_large.accelerate(model)
    assert torch.equal(torch.func.grad(loss)(hidden), expected)
    assert len(warnings_of(caplog)) == 1


def test_tracing(caplog: pytest.LogCaptureFixture) -> None:
    model, inputs = make_model("BertModel", return_dict=False).eval(), make_inputs("none")
    expected = model(**inputs)[0]
    traced = torch.jit.trace(bert_large.accelerate(model), inputs["input_ids"], strict=False)
    assert torch.equal(traced(inputs["input_ids"])[0], expected)
    assert len(warnings_of(caplog)) == 1


@pytest.mark.slow
def test_compile_and_export(caplog: pytest.LogCaptureFixture) -> None:
    model, inputs = make_model("BertModel").eval(), make_inputs()
    expected = model(**inputs).last_hidden_state
    bert_large.accelerate(model)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(**inputs).last_hidden_state, expected)
        exported = torch.export.export(model, (), inputs).module()
        torch.testing.assert_close(exported(**inputs).last_hidden_state, expected)
    assert len(warnings_of(caplog)) == 1, warnings_of(caplog)
