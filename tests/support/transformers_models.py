"""Small models of `transformers` and inputs for them, for tests of `accelerate`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from torch import Tensor, nn

VOCABULARY, CLASSES = 120, 3
LENGTHS = (9, 3, 14, 1, 7)
_SIZES = {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 80,
          "vocab_size": VOCABULARY, "max_position_embeddings": 40}  # fmt: skip
_DISTILBERT_NAMES = {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers",
                     "intermediate_size": "hidden_dim", "hidden_act": "activation", "hidden_dropout_prob": "dropout",
                     "attention_probs_dropout_prob": "attention_dropout"}  # fmt: skip


def make_model(name: str, *, dropout: float = 0.0, seed: int = 0, **settings: Any) -> Any:
    """Return a model of a class of `transformers`, in training mode; `settings` have BERT's names."""
    torch.manual_seed(seed)
    kind = getattr(transformers, name)
    values: dict[str, Any] = _SIZES | {"num_labels": 2 if name.endswith("ForQuestionAnswering") else CLASSES}
    values |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout} | settings
    if kind.config_class is transformers.DistilBertConfig:
        values = {_DISTILBERT_NAMES.get(key, key): value for key, value in values.items()}
        values |= {"seq_classif_dropout": dropout, "qa_dropout": dropout}
    if kind.config_class is transformers.ElectraConfig:
        values["embedding_size"] = 24
    model = kind(kind.config_class(**values)).train()
    with torch.no_grad():  # large enough for every part to matter, and biases that are not zero
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_inputs(side: str = "right", lengths: tuple[int, ...] = LENGTHS) -> dict[str, Tensor]:
    """Return ids and mask, padded on a side ("right", "left", or "none": sequences of one length)."""
    longest = max(lengths)
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(5, VOCABULARY, (len(lengths), longest), generator=generator)
    if side == "none":
        return {"input_ids": ids}
    mask = (torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)).long()
    mask = mask.flip(1) if side == "left" else mask
    return {"input_ids": ids.where(mask.bool(), 1), "attention_mask": mask}


def add_labels(name: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return inputs with the labels of a model's class, if it has a loss."""
    ids = inputs["input_ids"]
    classes = torch.arange(len(ids)) % CLASSES
    ignored = ids.where(inputs.get("attention_mask", torch.ones_like(ids)).bool(), -100)
    if name.endswith("ForQuestionAnswering"):
        labels = {"start_positions": classes, "end_positions": classes + 1}
    elif name.endswith("ForTokenClassification"):
        labels = {"labels": torch.where(ignored >= 0, ids % CLASSES, -100)}
    elif name == "BertForPreTraining":
        labels = {"labels": ignored, "next_sentence_label": classes % 2}
    elif name.endswith("ForMaskedLM"):
        labels = {"labels": ignored}
    elif name.endswith("ForSequenceClassification"):
        labels = {"labels": classes}
    else:
        labels = {}
    return inputs | labels


def loss_of(output: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Return the model's loss, or for a model without head one of all its outputs but those for padding."""
    if getattr(output, "loss", None) is not None:
        return output.loss
    hidden = output.last_hidden_state
    if "attention_mask" in inputs:
        hidden = hidden * inputs["attention_mask"].unsqueeze(-1)
    pooled = getattr(output, "pooler_output", None)
    return hidden.pow(2).sum() / 100 + (0 if pooled is None else pooled.sum())


def gradients_of(
    model: nn.Module, inputs: dict[str, Tensor], forward: Callable[..., Any] | None = None
) -> dict[str, Tensor]:
    """Return the loss and the gradients of a training step by names."""
    model.zero_grad(set_to_none=True)
    loss = loss_of((forward or model)(**inputs), inputs)
    loss.backward()
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    return {"loss": loss.detach()} | found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Compare by the norm of the difference, relative to the norm of what is expected.

    Some gradients are zero but for rounding, such as that of a key's bias: softmax ignores what is added to all scores
    of a row. Their errors are relative to the largest gradient.
    """
    assert found.keys() == expected.keys()
    largest = max(float(value.norm()) for value in expected.values())
    for name, value in expected.items():
        scale = float(value.norm())
        difference = float((found[name] - value).norm()) / (scale if scale > 1e-6 * largest else largest)
        assert difference <= tolerance, f"{name}: {difference:.1e}"
