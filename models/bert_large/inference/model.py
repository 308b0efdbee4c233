"""Loading a model folder for inference, as a model of `transformers`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from bert_large.errors import InputError
from bert_large.model.pretrained import check_model_intact
from bert_large.model.weight_files import list_names, require_finite

_ROBERTA = ("roberta", "xlm-roberta", "camembert")
FAMILY = ("bert", "distilbert", "electra", *_ROBERTA)
"""`model_type` of the encoders that can be loaded."""
_ENCODER = ("embeddings.", "encoder.", "transformer.")
_CONSTANTS = ("position_ids", "token_type_ids")


def load_model(folder: Path, auto_class: str, may_lack: Collection[str] = ()) -> Any:
    """Return the model of a folder as `auto_class` of `transformers`, in float32 and in evaluation mode.

    Raises `InputError` if the folder is not of an encoder of `FAMILY`; if weights are missing, except of parts whose
    names start as one of `may_lack`; if weights of the encoder would be ignored, as of adapters; or if weights are not
    finite.
    """
    import transformers

    from bert_large.finetune.model import explain_errors

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    check_model_intact(folder)
    local = {"local_files_only": True, "trust_remote_code": False}
    with explain_errors(folder, "expected a folder of BERT"):
        config = transformers.AutoConfig.from_pretrained(folder, **local)
        _check_config(folder, config)
        model, report = getattr(transformers, auto_class).from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True, **local
        )
    missing = sorted(name for name in report["missing_keys"] if not name.startswith(tuple(may_lack)))
    if missing:
        raise InputError(
            f"CHECKPOINT_DIR {folder} lacks the weights {list_names(missing)}, which {type(model).__name__} needs; "
            "give the folder of a model that has them"
        )
    ignored = [name.removeprefix(f"{model.base_model_prefix}.") for name in sorted(report["unexpected_keys"])]
    if ignored := [name for name in ignored if name.startswith(_ENCODER) and not name.endswith(_CONSTANTS)]:
        raise InputError(
            f"CHECKPOINT_DIR {folder} has the weights {list_names(ignored)}, which {type(model).__name__} does not "
            "have; expected an encoder without adapters"
        )
    require_finite(dict(model.named_parameters()), folder)
    return model.eval()


def _check_config(folder: Path, config: Any) -> None:
    if config.model_type not in FAMILY or getattr(config, "is_decoder", False):
        found = "a decoder" if getattr(config, "is_decoder", False) else repr(config.model_type)
        raise InputError(f"CHECKPOINT_DIR {folder} is of {found}, expected an encoder: {', '.join(FAMILY)}")


def longest_input(config: Any) -> int:
    """Return the largest number of tokens in a sequence. RoBERTa's positions start behind that of the padding token."""
    skipped = config.pad_token_id + 1 if config.model_type in _ROBERTA else 0
    return int(config.max_position_embeddings - skipped)
