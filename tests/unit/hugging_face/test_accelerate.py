"""`accelerate` and `restore`: results of accelerated models against the original forward pass."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import bert_large
import pytest
import torch
from bert_large.errors import InputError

transformers = pytest.importorskip("transformers", minversion="5", reason="needs Hugging Face's transformers")

from bert_large.hugging_face.encoders import ENCODERS, Accelerated  # noqa: E402

from tests.support.transformers_models import (  # noqa: E402
    add_labels,
    assert_same,
    gradients_of,
    make_inputs,
    make_model,
)

NAMES = [
    "BertModel", "BertForPreTraining", "BertForMaskedLM", "BertForSequenceClassification",
    "BertForTokenClassification", "BertForQuestionAnswering", "DistilBertModel", "DistilBertForSequenceClassification",
    "DistilBertForMaskedLM", "DistilBertForQuestionAnswering", "RobertaForSequenceClassification",
    "RobertaForTokenClassification", "RobertaForQuestionAnswering", "XLMRobertaForSequenceClassification",
    "CamembertForMaskedLM", "ElectraForSequenceClassification", "ElectraForQuestionAnswering",
]  # fmt: skip
FP32, BF16 = 1e-5, 0.08


def encoders(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, Accelerated)]


def assert_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert not [record for record in caplog.records if record.name == "bert_large"]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["right", "left", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients(name: str, side: str, attention: str, caplog: pytest.LogCaptureFixture) -> None:
    model = make_model(name, attn_implementation=attention)
    inputs = add_labels(name, make_inputs(side))
    expected = gradients_of(copy.deepcopy(model).double(), inputs)
    assert_same(gradients_of(bert_large.accelerate(model), inputs), expected, FP32)
    assert_no_warning(caplog)


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "DistilBertForQuestionAnswering"])
@pytest.mark.parametrize("how", ["autocast", "precision"])
def test_bf16(name: str, how: str, caplog: pytest.LogCaptureFixture) -> None:
    model = make_model(name)
    inputs = add_labels(name, make_inputs())
    expected = gradients_of(model, inputs)
    bert_large.accelerate(model, "bf16" if how == "precision" else None)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how == "autocast"):
        found = gradients_of(model, inputs)
        output = model(**inputs, output_hidden_states=False)
    assert all(value.dtype == torch.float32 for value in found.values()) and output.loss.dtype == torch.float32
    with pytest.raises(AssertionError):  # it did compute in bfloat16
        assert_same(found, expected, FP32)
    assert_same(found, expected, BF16)
    assert_no_warning(caplog)


def test_fp32_inside_autocast() -> None:
    model, inputs = make_model("BertModel").eval(), make_inputs()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = bert_large.accelerate(model, "fp32")(**inputs).last_hidden_state
        rounded = bert_large.accelerate(model)(**inputs).last_hidden_state
    with torch.no_grad():
        expected = bert_large.restore(model)(**inputs).last_hidden_state
    real = inputs["attention_mask"].bool()
    assert float((found - expected)[real].norm() / expected[real].norm()) < FP32
    assert float((rounded - expected)[real].norm() / expected[real].norm()) > FP32


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inference(mode: Any) -> None:
    model, inputs = make_model("BertForSequenceClassification").eval(), make_inputs()
    expected = model(**inputs).logits
    bert_large.accelerate(model)
    with mode():
        torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-5, atol=1e-6)


def test_outputs_for_padding() -> None:
    """They are zero but for the first position, and as in the original with `computes_padding`."""
    model, inputs = make_model("DistilBertModel").eval(), make_inputs("left")
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
        zeros = bert_large.accelerate(model)(**inputs).last_hidden_state
        computed = bert_large.accelerate(model, computes_padding=True)(**inputs).last_hidden_state
    padding = inputs["attention_mask"] == 0
    padding[:, 0] = False
    assert bool(padding.any()) and not bool(zeros[padding].any())
    torch.testing.assert_close(zeros[~padding], expected[~padding], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(computed, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("summary", ["first", "mean", "last", "cls_index"])
def test_summaries_of_a_sequence(summary: str, caplog: pytest.LogCaptureFixture) -> None:
    """`ElectraForMultipleChoice` reads the token that its configuration names, which can be padding."""
    model = make_model("ElectraForMultipleChoice", summary_type=summary).eval()
    inputs = {name: value.unsqueeze(1) for name, value in make_inputs().items()}
    with torch.no_grad():
        expected = model(**inputs).logits
        found = bert_large.accelerate(model)(**inputs).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert [encoder.bert_large_state.computes_padding for encoder in encoders(model)] == [summary != "first"]
    assert_no_warning(caplog)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_python"])
def test_forms_of_gelu(activation: str, caplog: pytest.LogCaptureFixture) -> None:
    model = make_model("BertForSequenceClassification", hidden_act=activation)
    inputs = add_labels("BertForSequenceClassification", make_inputs())
    expected = gradients_of(model, inputs)
    assert_same(gradients_of(bert_large.accelerate(model), inputs), expected, FP32)
    assert_no_warning(caplog)


def test_the_model_stays_what_it_is(tmp_path: Path) -> None:
    model = make_model("BertForSequenceClassification")
    names, parameters = list(model.state_dict()), list(map(id, model.parameters()))
    assert bert_large.accelerate(model) is model
    assert type(model) is transformers.BertForSequenceClassification and len(encoders(model)) == 1
    assert isinstance(model.bert.encoder, type(make_model("BertModel").encoder))
    assert list(model.state_dict()) == names and list(map(id, model.parameters())) == parameters
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model) and not encoders(loaded)
    assert loaded.config.architectures == ["BertForSequenceClassification"]
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_restore() -> None:
    model, untouched = make_model("RobertaModel"), make_model("RobertaModel")
    attributes = set(vars(model.encoder))
    assert bert_large.restore(bert_large.accelerate(model, "bf16")) is model
    assert [type(module) for module in model.modules()] == [type(module) for module in untouched.modules()]
    assert set(vars(model.encoder)) == attributes
    assert bert_large.restore(untouched) is untouched  # nothing to undo


def test_accelerating_twice_takes_the_last_precision() -> None:
    model = bert_large.accelerate(bert_large.accelerate(make_model("BertModel"), "bf16"))
    assert len(encoders(model)) == 1 and model.encoder.bert_large_state.precision is None
    bert_large.restore(model)
    assert not encoders(model)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_independent(duplicate: Any) -> None:
    model, inputs = bert_large.accelerate(make_model("BertModel").eval(), "bf16"), make_inputs()
    with torch.no_grad():
        before = model(**inputs).pooler_output
        twin = duplicate(model)
        assert len(encoders(twin)) == 1 and twin.encoder.bert_large_state is not model.encoder.bert_large_state
        assert torch.equal(twin(**inputs).pooler_output, before)
        for parameter in twin.parameters():
            parameter.mul_(1.5)
        assert not torch.equal(twin(**inputs).pooler_output, before)
        assert torch.equal(model(**inputs).pooler_output, before)


def test_encoders_inside_other_modules() -> None:
    """Every encoder of a model is accelerated, also one that two parents share."""
    shared = make_model("BertModel")
    model = torch.nn.ModuleDict({"a": shared, "b": make_model("DistilBertModel"), "c": torch.nn.ModuleList([shared])})
    assert len(encoders(bert_large.accelerate(model))) == 2


@pytest.mark.parametrize(("original", "accelerated"), ENCODERS.items())
def test_classes_can_be_pickled(original: type, accelerated: type) -> None:
    assert pickle.loads(pickle.dumps(accelerated)) is accelerated
    assert issubclass(accelerated, original) and original.__module__.startswith("transformers.models.")


@pytest.mark.parametrize("precision", ["fp16", "bfloat16", 16])
def test_unknown_precision(precision: Any) -> None:
    with pytest.raises(InputError, match=str(precision)):
        bert_large.accelerate(make_model("BertModel"), precision)


def test_model_without_an_encoder() -> None:
    with pytest.raises(InputError, match="Linear"):
        bert_large.accelerate(torch.nn.Linear(3, 3))


def test_unknown_attribute_of_the_package() -> None:
    with pytest.raises(AttributeError, match="accelerat"):
        bert_large.accelerat  # noqa: B018
