"""`bert-large convert`: a TensorFlow checkpoint to a model folder, and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bert_large.config.model import ModelConfig
from bert_large.convert.tf_checkpoint import TensorFlowCheckpoint, checkpoint_files, import_tensorflow, write_checkpoint
from bert_large.convert.weights import (
    GLOBAL_STEP,
    choose_slots,
    parameter_shapes,
    read_moments,
    read_parameters,
    read_step,
    require_convertible,
    to_variables,
    training_state,
    variables_of,
)
from bert_large.errors import InputError
from bert_large.model import pretrained
from bert_large.model.bert import skeleton
from bert_large.model.tensor_file import save_tensors
from bert_large.storage.atomic import explain_write_errors, remove_tree, sync_folder, write_json
from bert_large.storage.integrity import write_checksums
from bert_large.storage.output_folder import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    make_folder,
    partial_folder,
    publish_model,
    require_free,
)
from bert_large.train import checkpoint
from bert_large.train.run_folder import CHECKPOINTS, imported_identity


@dataclass(frozen=True)
class Converted:
    """The outcome of a conversion."""

    parameters: int
    ignored: list[str]
    """Variables that are not weights, and not used."""
    has_heads: bool
    resumable: Path | None
    """With moments: the checkpoint to resume a run from."""


def from_tensorflow(prefix: Path, config: ModelConfig, folder: Path, *, moments: bool, overwrite: bool) -> Converted:
    """Write a checkpoint as a Hugging Face folder; with `moments`, also as a checkpoint to resume from.

    All names, types and shapes are checked before anything is written. `config.json` is moved into place last, so a
    folder that has it is complete. Memory: the weights once, and then the moments once.
    """
    require_convertible(config, "--config-file")
    require_free(folder, overwrite=overwrite)
    source = TensorFlowCheckpoint(prefix)
    variables = variables_of(source, config)
    slots, step = (choose_slots(source, variables), read_step(source)) if moments else (None, 0)
    has_heads = len(variables.names) == len(parameter_shapes(config))
    weights = dict(read_parameters(source, variables))
    settings = config.to_hugging_face() | ({} if has_heads else {"architectures": ["BertModel"]})
    resumable = None
    with explain_write_errors(folder), partial_folder(folder) as partial:
        shapes = {name: values.shape for name, values in weights.items()}
        save_tensors(partial / WEIGHTS_FILE, shapes, weights.items())
        write_json(partial / CONFIG_FILE, settings)
        write_checksums(partial)
        if slots is not None:
            written = checkpoint.write_checkpoint(
                partial / CHECKPOINTS,
                weights,
                read_moments(source, variables, slots),
                checkpoint.TrainingState(step, samples=None),
                imported_identity(str(prefix), config),
            )
            resumable = folder / CHECKPOINTS / written.name
            resumable.parent.mkdir(exist_ok=True)
            remove_tree(resumable)
            written.replace(resumable)
            sync_folder(resumable.parent)
        publish_model(partial, folder)
    used = (GLOBAL_STEP, *(slots or ()))
    return Converted(
        parameters=sum(values.numel() for values in weights.values()),
        ignored=[name for name in training_state(source, variables) if not name.endswith(used)],
        has_heads=has_heads,
        resumable=resumable,
    )


def to_tensorflow(folder: Path, prefix: Path, *, step: int, overwrite: bool) -> int:
    """Write a Hugging Face folder's weights as a TensorFlow checkpoint of `step`; return the number of variables."""
    import_tensorflow()  # if it is missing, report that before gigabytes are read
    pretrained.check_model_folder(folder)
    config = ModelConfig.from_json(pretrained.find_config_file(folder))
    require_convertible(config, f"CHECKPOINT_DIR {folder}")
    existing = [path for path in checkpoint_files(prefix) if path.exists()]
    if existing and not overwrite:
        raise InputError(f"--to-tf {prefix}: {existing[0]} exists already; give --overwrite to replace it")
    model = skeleton(config).to_empty(device="cpu")
    pretrained.load_model(folder, model)
    make_folder(prefix.parent)
    variables = to_variables(pretrained.weights_of(model), step)
    with explain_write_errors(prefix):
        write_checkpoint(prefix, variables)
    return len(variables)
