"""The two ways of `bert-large convert`: a TensorFlow checkpoint to a model folder, and back."""

from __future__ import annotations

from pathlib import Path

from bert_large.config.model import ModelConfig
from bert_large.convert.tf_checkpoint import TensorFlowCheckpoint, checkpoint_files, import_tensorflow, write_checkpoint
from bert_large.convert.weights import (
    check_variables,
    choose_slots,
    parameter_shapes,
    read_moments,
    read_parameters,
    read_step,
    require_convertible,
    to_variables,
)
from bert_large.errors import InputError
from bert_large.model import pretrained
from bert_large.model.bert import skeleton
from bert_large.storage import output_folder
from bert_large.storage.atomic import explain_write_errors, remove_tree, sync_folder
from bert_large.storage.output_folder import make_folder, partial_folder, publish_model, require_free
from bert_large.train import checkpoint
from bert_large.train.run_folder import imported_identity

CHECKPOINTS = "checkpoints"


def from_tensorflow(
    prefix: Path, config: ModelConfig, folder: Path, *, moments: bool, overwrite: bool
) -> tuple[int, Path | None]:
    """Write a checkpoint as a Hugging Face folder; return its parameters and, with `moments`, what a run resumes from.

    All names, types and shapes are checked before anything is written; `config.json` comes last, so a folder that has
    it is whole. Memory: the weights once, and then the moments once.
    """
    require_convertible(config, "--config-file")
    require_free(folder, overwrite=overwrite)
    source, shapes = TensorFlowCheckpoint(prefix), parameter_shapes(config)
    check_variables(source, shapes)
    slots, step = (choose_slots(source, shapes), read_step(source)) if moments else (None, 0)
    with partial_folder(folder) as partial:
        model = skeleton(config)
        model.load_state_dict(read_parameters(source, shapes), assign=True)
        pretrained.save_model(partial, model, config, None)
        if slots is not None:
            checkpoint.write_checkpoint(
                partial / CHECKPOINTS,
                checkpoint.weights_of(model),
                read_moments(source, shapes, slots),
                checkpoint.TrainingState(step, samples=None),
                imported_identity(str(prefix), config),
            )
        _publish_checkpoints(partial / CHECKPOINTS, folder / CHECKPOINTS)
        publish_model(partial, folder)
    resumable = checkpoint.list_checkpoints(folder / CHECKPOINTS)[-1] if slots is not None else None
    return sum(parameter.numel() for parameter in model.parameters()), resumable


def to_tensorflow(folder: Path, prefix: Path, *, step: int, overwrite: bool) -> int:
    """Write a Hugging Face folder's weights as a TensorFlow checkpoint of `step`; return the number of variables."""
    import_tensorflow()  # when it is missing, say so before gigabytes are read
    pretrained.check_model_folder(folder)
    config = ModelConfig.from_json(folder / output_folder.CONFIG_FILE)
    require_convertible(config, f"CHECKPOINT_DIR {folder}")
    existing = [path for path in checkpoint_files(prefix) if path.exists()]
    if existing and not overwrite:
        raise InputError(f"--to-tf {prefix}: {existing[0]} exists already; give --overwrite to replace it")
    model = skeleton(config).to_empty(device="cpu")
    pretrained.load_model(folder, model)
    make_folder(prefix.parent)
    variables = to_variables(checkpoint.weights_of(model), step)
    with explain_write_errors(prefix):
        write_checkpoint(prefix, variables)
    return len(variables)


def _publish_checkpoints(partial: Path, folder: Path) -> None:
    for written in checkpoint.list_checkpoints(partial):
        place = folder / written.name
        folder.mkdir(exist_ok=True)
        remove_tree(place)
        written.replace(place)
        sync_folder(folder)
