"""Named model configurations, which `--config-file` takes in place of a file.

The BERT sizes are Google's (Devlin et al. 2018; the four small ones Turc et al. 2019, "Well-Read Students Learn
Better"), with GELU's tanh form as in Google's code. DistilBERT is that of Sanh et al. 2019, with learned positions and
GELU's erf form as in `transformers`. All use the size of the uncased vocabulary.
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
    """Return the configuration named in `CONFIGURATIONS`, or that of a file, which `ModelConfig.from_json` reads.

    A configuration sets the size of a model. Whether the model has a next-sentence head is decided by the run, not by
    the class that a file names. `vocab_size` replaces that of a named configuration.
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
    usual = next(name for name, traits in ARCHITECTURES.items() if traits.model_type == config.traits.model_type)
    return dataclasses.replace(config, architecture=usual)
