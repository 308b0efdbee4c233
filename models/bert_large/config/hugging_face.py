"""The models that can be trained, as data: their parts, and their names in `transformers`.

Inside this package, every model uses BERT's names: those of `ModelConfig`'s fields and of the parameters of
`BertForPreTraining` in `transformers`. Only model folders, which other programs read, use the model's own names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

IGNORED_LABEL = -100
"""The label of a token that the losses of `transformers` and PyTorch's cross-entropy skip."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The differences between a model and others of BERT's family."""

    title: str
    description: str
    """One sentence for the model card."""
    model_type: str
    """The model's name in `config.json`."""
    fixed_fields: Mapping[str, Any]
    """Fields of `ModelConfig` that have one possible value; `config.json` may omit them."""
    has_next_sentence_head: bool
    """Whether there is a next-sentence head, and with it the pooler, which only that head trains."""
    drops_attention_output: bool
    """Whether dropout follows the output layer of attention, as it follows the feed-forward network."""
    masked_lm_only: str
    """The same architecture without a next-sentence head."""
    automatic_class: str
    """Auto class of `transformers` that loads the model."""
    prediction_output: str
    """Name of the token logits in that class's output."""
    config_keys: Mapping[str, str] = field(default_factory=dict)
    """Fields of `ModelConfig` with another name in `config.json`: that name."""
    config_constants: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of `config.json`."""
    weight_names: Sequence[tuple[str, str]] = ()
    """Parts of our parameter names and their replacements, applied in this order."""

    @property
    def has_segments(self) -> bool:
        """Whether the model has segment embeddings."""
        return self.fixed_fields["type_vocab_size"] > 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs of the class in `transformers`, each int64 [batch, sequence]."""
        return ("input_ids", "attention_mask", *(("token_type_ids",) if self.has_segments else ()))

    def weight_name(self, parameter: str) -> str:
        """Return a parameter's name in model folders."""
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
        description="BERT with the head of its masked language model, trained without next-sentence prediction.",
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
"""Keys are the classes of `transformers` that models are saved for; the first of a `model_type` is its default."""
