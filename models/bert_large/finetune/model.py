"""The model of a task: the encoder of a model folder with the task's head."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from bert_large.config.model import ModelConfig
from bert_large.errors import InputError
from bert_large.finetune.task import Task
from bert_large.model.pretrained import check_model_folder, find_config_file
from bert_large.model.weight_files import HEADS, TASK_HEADS, WeightFiles, as_float32
from bert_large.storage.output_folder import CONFIG_FILE


def load_task_model(folder: Path, task: Task, *, trained: bool = False) -> Any:
    """Return the encoder of a model folder with the task's head, both in float32.

    The head is that of the folder if it has the same shape, else new, and so is the pooler of an encoder without one.
    `trained`: the folder is to have the head too. Raises `InputError` if the folder is not of a model that can have
    this head, if other weights are missing, or if there are weights that the model does not have.
    """
    with explain_errors(folder):
        config = _read_config(folder, task.model_settings())
        model = getattr(transformers, task.auto_class).from_config(config, dtype=torch.float32)
    file = WeightFiles(check_model_folder(folder))
    if trained and not any(name.startswith(TASK_HEADS) for name in file.names):
        raise InputError(
            f"CHECKPOINT_DIR {folder} has no head of a task, expected a fine-tuned model; train one without "
            "--predict-only, and give its model_save"
        )
    parameters = dict(model.named_parameters())
    encoder = f"{model.base_model_prefix}."
    weights = file.read(
        {
            name: parameter.shape
            for name, parameter in parameters.items()
            if trained or name in file.names or (name.startswith(encoder) and ".pooler." not in name)
        },
        other_shapes=() if trained else TASK_HEADS,
    )
    file.refuse_unknown(parameters, ignored=(*HEADS, *TASK_HEADS))
    with torch.no_grad():
        for name, tensor in weights.items():
            parameters[name].copy_(as_float32(file.path, name, tensor))
    return model


def trained_labels(folder: Path) -> list[str]:
    """Return the labels of a fine-tuned model, in the order of their ids."""
    with explain_errors(folder):
        names = _read_config(folder, {}).id2label
        return [str(names[index]) for index in range(len(names))]


@contextlib.contextmanager
def explain_errors(folder: Path, expected: str = "give a model_save folder of BERT or DistilBERT") -> Iterator[None]:
    """Raise errors of `transformers` about a model folder as `InputError`."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).partition("\n")[0] or repr(error)
        raise InputError(f"CHECKPOINT_DIR {folder} cannot be loaded: {reason}; {expected}") from error


def _read_config(folder: Path, settings: dict[str, Any]) -> Any:
    """Return the configuration of a folder as `transformers` has it, with the settings of the task."""
    path = find_config_file(folder)
    if path.name != CONFIG_FILE:  # Google's file, which AutoConfig does not know
        return transformers.BertConfig(**ModelConfig.from_json(path).to_hugging_face() | settings)
    return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **settings)
