"""`bert-large convert`: TensorFlow checkpoints of MLCommons and Google into model folders, and back."""

from __future__ import annotations

import argparse
from pathlib import Path

from bert_large.config.model import ACTIVATIONS
from bert_large.config.options import check_options
from bert_large.config.presets import read_configuration
from bert_large.convert.names import list_names
from bert_large.errors import InputError

# The options that each direction needs, and all that it has; those of the other direction are refused.
_FROM_TF_NEEDS, _TO_TF_NEEDS = ("config_file", "output_dir"), ("checkpoint_dir",)
_FROM_TF, _TO_TF = (*_FROM_TF_NEEDS, "moments", "gelu"), (*_TO_TF_NEEDS, "global_step")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of both directions."""
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--tf-checkpoint", type=Path, metavar="PREFIX", help="checkpoint to read, without .index")
    way.add_argument("--to-tf", type=Path, metavar="PREFIX", help="checkpoint to write, without .index")
    read = parser.add_argument_group("with --tf-checkpoint")
    read.add_argument("--config-file", help="bert_config.json of the checkpoint, or a name such as bert-large")
    read.add_argument("--output-dir", type=Path, help="model folder to write: config.json and model.safetensors")
    read.add_argument(
        "--moments",
        action="store_true",
        default=None,
        help="also write checkpoints/step-… with the optimizer's moments, for `pretrain --resume`",
    )
    read.add_argument("--gelu", choices=sorted(ACTIVATIONS), help="form of GELU (default: that of the configuration)")
    write = parser.add_argument_group("with --to-tf")
    write.add_argument("--checkpoint-dir", type=Path, help="model folder to read")
    write.add_argument("--global-step", type=int, help="step of the checkpoint (default 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier conversion wrote")


def run(arguments: argparse.Namespace) -> int:
    """Convert, and print what was written and what was ignored."""
    from bert_large.convert.from_tensorflow import from_tensorflow, to_tensorflow  # imports torch
    from bert_large.hub import model_folder

    if arguments.tf_checkpoint is not None:
        check_options(arguments, "--tf-checkpoint", _FROM_TF_NEEDS, _TO_TF)
        converted = from_tensorflow(
            arguments.tf_checkpoint,
            read_configuration(arguments.config_file, arguments.gelu),
            arguments.output_dir,
            moments=bool(arguments.moments),
            overwrite=arguments.overwrite,
        )
        print(f"wrote {converted.parameters} parameters to {arguments.output_dir}")
        if converted.ignored:
            names = list_names(converted.ignored)
            print(f"ignored {len(converted.ignored)} variables that are not weights: {names}")
        if not converted.has_heads:
            print("the checkpoint is of an encoder: pretraining from it starts with new heads")
        if converted.resumable is not None:
            print(f"continue with: bert-large pretrain --resume {converted.resumable}")
        return 0
    check_options(arguments, "--to-tf", _TO_TF_NEEDS, _FROM_TF)
    step = arguments.global_step or 0
    if step < 0:
        raise InputError(f"--global-step is {step}, expected 0 or more")
    variables = to_tensorflow(
        model_folder(arguments.checkpoint_dir), arguments.to_tf, step=step, overwrite=arguments.overwrite
    )
    print(f"wrote {variables} variables to {arguments.to_tf}")
    return 0
