"""Models by name: what `--config-file` takes in place of a file, and reading it.

BERT's are Google's (Devlin et al. 2018; the four small ones Turc et al. 2019, "Well-Read Students Learn Better"), with
GELU's tanh form, as its code has it. DistilBERT's is that of Sanh et al. 2019, with positions that are learned and
GELU's erf form, as `transformers` has it. All are of the uncased vocabulary.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from bert_large.config.hugging_face import ARCHITECTURES
from bert_large.config.model import ACTIVATIONS, ModelConfig


def _bert(layers: int, hidden: int) -> ModelConfig:
    return ModelConfig(
        num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=hidden // 64, intermediate_size=4 * hidden
    )


CONFIGURATIONS = {
    "bert-large": _bert(24, 1024),
    "bert-base": _bert(12, 768),
    "bert-medium": _bert(8, 512),
    "bert-small": _bert(4, 512),
    "bert-mini": _bert(4, 256),
    "bert-tiny": _bert(2, 128),
    "distilbert-base": dataclasses.replace(
        _bert(6, 768), architecture="DistilBertForMaskedLM", type_vocab_size=0, hidden_act=ACTIVATIONS["erf"]
    ),
}


def read_configuration(
    name_or_file: str, activation: str | None = None, *, vocab_size: int | None = None
) -> ModelConfig:
    """Return the configuration of a name in `CONFIGURATIONS`, else of a file as `ModelConfig.from_json` reads it.

    A configuration says how large a model is; whether it has a next-sentence head is the run's choice, whatever class
    the file names. `vocab_size` takes the place of a named configuration's own: its vocabulary is the user's to choose.
    """
    if name_or_file in CONFIGURATIONS:
        config = CONFIGURATIONS[name_or_file]
        return dataclasses.replace(
            config,
            hidden_act=config.hidden_act if activation is None else ACTIVATIONS[activation],
            vocab_size=vocab_size or config.vocab_size,
        )
    path = Path(name_or_file)
    config = ModelConfig.from_json(path, activation)
    usual = next(name for name, its in ARCHITECTURES.items() if its.model_type == config.traits.model_type)
    return dataclasses.replace(config, architecture=usual)
