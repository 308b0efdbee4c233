"""`bert-large export`: a model folder as ONNX, or as a Hugging Face folder with tokenizer and model card."""

from __future__ import annotations

import argparse
from pathlib import Path

from bert_large.config.options import check_options
from bert_large.errors import InputError

# The options of each format; those of the other are refused.
_ONNX, _HUGGING_FACE = ("model", "opset"), ("vocab_file", "do_lower_case", "run_dir")
OPSETS = range(18, 25)
"""Versions of ONNX's operators that the exporter writes and onnxruntime runs; 20 is the first with GELU."""
DEFAULT_OPSET = 20
GRAPHS = ("encoder", "pretraining")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of both formats."""
    parser.add_argument("--checkpoint-dir", type=Path, required=True, help="model folder, or OWNER/NAME on the hub")
    parser.add_argument("--format", choices=("onnx", "hugging-face"), required=True, help="format to write")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier export wrote")
    onnx = parser.add_argument_group("with --format onnx")
    onnx.add_argument(
        "--model",
        choices=(*GRAPHS, "both"),
        help="encoder.onnx: hidden states and pooled output; pretraining.onnx: logits of the heads (default both)",
    )
    opset = f"version of ONNX's operators, {OPSETS[0]} to {OPSETS[-1]} (default {DEFAULT_OPSET})"
    onnx.add_argument("--opset", type=int, help=opset)
    folder = parser.add_argument_group("with --format hugging-face")
    folder.add_argument("--vocab-file", type=Path, help="vocabulary (default: vocab.txt of the model folder)")
    folder.add_argument(
        "--do-lower-case",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="as for `prepare` (default: from tokenizer_config.json beside the vocabulary, or from its words)",
    )
    folder.add_argument("--run-dir", type=Path, help="the run's folder (default: the parent of the model folder)")


def run(arguments: argparse.Namespace) -> int:
    """Export, and print what was written."""
    from bert_large.hub import model_folder
    from bert_large.storage.output_folder import require_free

    way = f"--format {arguments.format}"
    check_options(arguments, way, (), _HUGGING_FACE if arguments.format == "onnx" else _ONNX)
    opset = DEFAULT_OPSET if arguments.opset is None else arguments.opset
    if opset not in OPSETS:
        raise InputError(f"--opset is {opset}, expected {OPSETS[0]} to {OPSETS[-1]}")
    require_free(arguments.output_dir, overwrite=arguments.overwrite)
    checkpoint_dir = model_folder(arguments.checkpoint_dir)
    if arguments.format == "onnx":
        from bert_large.export.onnx_graph import export_onnx

        graphs = GRAPHS if arguments.model in (None, "both") else (arguments.model,)
        for path, difference in export_onnx(checkpoint_dir, arguments.output_dir, graphs, opset).items():
            print(f"wrote {path}: outputs within {difference:.1e} of the model's, relative to the largest")
        return 0
    from bert_large.export.hugging_face import export_folder

    export_folder(
        checkpoint_dir,
        arguments.output_dir,
        vocab_file=arguments.vocab_file,
        do_lower_case=arguments.do_lower_case,
        run_dir=arguments.run_dir,
    )
    print(f"wrote {arguments.output_dir}; complete its README.md before you publish it")
    return 0
