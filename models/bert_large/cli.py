"""The `bert-large` command: finds the command asked for, runs it, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence

from bert_large import __version__, standard_streams
from bert_large.errors import UserError

# command: (module with add_arguments(parser) and run(arguments) -> int, one line of help).
# Modules are imported only when chosen, so that `prepare` does not wait for torch.
COMMANDS = {
    "prepare": ("bert_large.prepare.command", "make pretraining records from text"),
    "corpus": ("bert_large.prepare.corpus_command", "raw text to shards of sentences, for both phases and evaluation"),
    "vocab": ("bert_large.prepare.vocab_command", "train a word-piece vocabulary from text"),
    "pick": ("bert_large.prepare.pick_command", "pick evenly spaced records, as for MLCommons' evaluation set"),
    "pretrain": ("bert_large.train.command", "pretrain a model (one rank of it under torchrun)"),
    "finetune": ("bert_large.finetune.command", "train a model folder on a labelled task: GLUE, SQuAD, entities"),
    "evaluate": ("bert_large.train.evaluate_command", "evaluate a checkpoint on held-out records"),
    "convert": ("bert_large.convert.command", "turn a TensorFlow checkpoint into a model folder, or the reverse"),
    "export": ("bert_large.export.command", "turn a model folder into ONNX, or a Hugging Face folder with a card"),
    "kernels": ("bert_large.engines.native.command", "build the native engine's kernels, as set-up does"),
    "doctor": ("bert_large.doctor.command", "tell what this machine offers, and what is wrong with the set-up"),
    "ranks": ("bert_large.distributed.command", "show which ranks a run would start here, and what they are bound to"),
    "recipes": ("bert_large.config.recipes.command", "list the named hyperparameter sets"),
    "bench": ("bert_large.bench.command", "measure speed and memory, against matrix products and Hugging Face"),
    "report": ("bert_large.report.command", "show runs on one page: curves, settings, machine, restarts"),
}


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """Return the parser; only the chosen command gets its options (and its imports)."""
    parser = argparse.ArgumentParser(prog="bert-large", description="BERT pretraining on CPUs.")
    parser.add_argument("--version", action="version", version=f"bert-large {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        if name == chosen:
            importlib.import_module(module).add_arguments(subparser)
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return what the command line says; ends the process with exit code 2 where it is wrong."""
    chosen = next((word for word in argv if word in COMMANDS), None)
    return build_parser(chosen).parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 wrong input, 1 any other failure."""
    standard_streams.open_missing()
    arguments = parse(sys.argv[1:] if argv is None else argv)
    module = importlib.import_module(COMMANDS[arguments.command][0])
    if isinstance(sys.stdout, io.TextIOWrapper):  # as standard error: a path may have bytes that are no UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    if os.getpid() == 1:  # of a container: there a signal without a handler does nothing
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))
    try:
        code = int(module.run(arguments))
        sys.stdout.flush()  # here, where a failure can be reported, and not at Python's end
        return code
    except UserError as error:
        if not error.reported_by_another_rank:
            standard_streams.print_error(f"bert-large {arguments.command}: error: {error}")
        return error.exit_code
    except BrokenPipeError:
        standard_streams.discard(sys.stdout)
        return 1
    except OSError as error:  # a full disk, an unreadable file: the system's message names the cause and the file
        standard_streams.print_error(f"bert-large {arguments.command}: error: {error}")
        standard_streams.flush_or_discard(sys.stdout)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
