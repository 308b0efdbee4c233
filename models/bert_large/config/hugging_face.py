"""The models that can be trained, as data: what each has of BERT's parts, and the names that `transformers` gives it.

Inside this package every model has BERT's names, those of `ModelConfig`'s fields and of `transformers`'
`BertForPreTraining`. Only a model folder, which others read, has the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

IGNORED_LABEL = -100
"""The label of a token that the losses of `transformers` and PyTorch's cross-entropy skip."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What tells a model from others of BERT's family."""

    title: str
    description: str
    """What it is, as its model card says it."""
    model_type: str
    """Its name in `config.json`."""
    fixed_fields: Mapping[str, Any]
    """Fields of `ModelConfig` that can have one value only, which its `config.json` need not tell."""
    has_next_sentence_head: bool
    """With the pooler, which nothing else trains."""
    drops_attention_output: bool
    """Whether dropout comes after attention's output layer, as it does after the feed-forward network."""
    masked_lm_only: str
    """The architecture without a next-sentence head that has all else of it."""
    automatic_class: str
    """The class of `transformers` that loads it without being told its name."""
    prediction_output: str
    """What that class calls the logits of tokens."""
    config_keys: Mapping[str, str] = field(default_factory=dict)
    """Fields of `ModelConfig` that `config.json` calls otherwise."""
    config_constants: Mapping[str, Any] = field(default_factory=dict)
    """What else its `config.json` has."""
    weight_names: Sequence[tuple[str, str]] = ()
    """Parts of our parameters' names and what it has in their place, to be replaced in this order."""

    @property
    def has_segments(self) -> bool:
        """Whether it tells the two segments of a sequence apart."""
        return self.fixed_fields["type_vocab_size"] > 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """What `transformers`' class is given, each int64 [batch, sequence]."""
        return ("input_ids", "attention_mask", *(("token_type_ids",) if self.has_segments else ()))

    def weight_name(self, parameter: str) -> str:
        """Return what a model folder calls a parameter."""
        for ours, theirs in self.weight_names:
            parameter = parameter.replace(ours, theirs)
        return parameter


_CONSTANTS = {"pad_token_id": 0, "tie_word_embeddings": True, "torch_dtype": "float32"}
_BERT: dict[str, Any] = {
    "title": "BERT",
    "model_type": "bert",
    "fixed_fields": {"type_vocab_size": 2},
    "drops_attention_output": True,
    "masked_lm_only": "BertForMaskedLM",
    "config_constants": {"type_vocab_size": 2, "position_embedding_type": "absolute", **_CONSTANTS},
}

BERT = "BertForPreTraining"
ARCHITECTURES = {
    BERT: Architecture(
        **_BERT,
        description="BERT with both pretraining heads, masked language model and next sentence.",
        has_next_sentence_head=True,
        automatic_class="AutoModelForPreTraining",
        prediction_output="prediction_logits",
    ),
    "BertForMaskedLM": Architecture(
        **_BERT,
        description="BERT with the head of its masked language model. It was not trained to tell next sentences.",
        has_next_sentence_head=False,
        automatic_class="AutoModelForMaskedLM",
        prediction_output="logits",
    ),
    "DistilBertForMaskedLM": Architecture(
        title="DistilBERT",
        description="DistilBERT with the head of its masked language model, trained without a teacher.",
        model_type="distilbert",
        fixed_fields={"type_vocab_size": 0, "layer_norm_eps": 1e-12},
        has_next_sentence_head=False,
        drops_attention_output=False,
        masked_lm_only="DistilBertForMaskedLM",
        automatic_class="AutoModelForMaskedLM",
        prediction_output="logits",
        config_keys={
            "hidden_size": "dim",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim",
            "hidden_act": "activation",
            "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout",
        },
        config_constants={"sinusoidal_pos_embds": False, **_CONSTANTS},
        weight_names=(
            (".attention.self.query.", ".attention.q_lin."),
            (".attention.self.key.", ".attention.k_lin."),
            (".attention.self.value.", ".attention.v_lin."),
            (".attention.output.dense.", ".attention.out_lin."),
            (".attention.output.LayerNorm.", ".sa_layer_norm."),
            (".intermediate.dense.", ".ffn.lin1."),
            (".output.dense.", ".ffn.lin2."),
            (".output.LayerNorm.", ".output_layer_norm."),
            ("bert.encoder.", "bert.transformer."),
            ("bert.", "distilbert."),
            ("cls.predictions.transform.dense.", "vocab_transform."),
            ("cls.predictions.transform.LayerNorm.", "vocab_layer_norm."),
            ("cls.predictions.bias", "vocab_projector.bias"),
        ),
    ),
}
"""By the class of `transformers` that a model is saved for; the first of a `model_type` is what is trained unasked."""
