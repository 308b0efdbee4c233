"""The `bert-large` command: imports and runs the module of the chosen command, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import atexit
import importlib
import io
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from bert_large import __version__, standard_streams
from bert_large.config.options import BOOLEANS, FROM_ENVIRONMENT, CommandParser, Setting, find_nearest
from bert_large.errors import UserError

# command: (module with add_arguments(parser) and run(arguments) -> int, one line of help).
# A module is imported only when its command is chosen: most commands do not need torch, which takes seconds to import.
COMMANDS = {
    "prepare": ("bert_large.prepare.command", "make pretraining records from text"),
    "corpus": (
        "bert_large.prepare.corpus_command",
        "turn raw text into shards of sentences for training and evaluation",
    ),
    "vocab": ("bert_large.prepare.vocab_command", "train a WordPiece vocabulary from text"),
    "pick": ("bert_large.prepare.pick_command", "pick evenly spaced records, as for MLCommons' evaluation set"),
    "pretrain": ("bert_large.train.command", "pretrain a model (one rank of it under torchrun)"),
    "finetune": (
        "bert_large.finetune.command",
        "fine-tune a pretrained model on a labeled task: GLUE, SQuAD, entities",
    ),
    "embed": ("bert_large.inference.embed_command", "compute embeddings of texts"),
    "fill-mask": ("bert_large.inference.fill_mask_command", "predict the masked tokens of texts"),
    "evaluate": ("bert_large.train.evaluate_command", "evaluate a model folder on held-out records"),
    "convert": ("bert_large.convert.command", "convert a TensorFlow checkpoint to a model folder, or the reverse"),
    "export": ("bert_large.export.command", "export a model folder to ONNX, or to a Hugging Face folder with a card"),
    "kernels": ("bert_large.engines.native.command", "build the native engine's kernels, as the setup does"),
    "doctor": ("bert_large.doctor.command", "report what this machine offers and what is wrong with the setup"),
    "plan": ("bert_large.plan.command", "forecast a run's steps, hours, memory and disk, and fit it into a budget"),
    "ranks": ("bert_large.distributed.command", "show the ranks that a run would start here, and their cores"),
    "recipes": ("bert_large.config.recipes.command", "list the named sets of hyperparameters"),
    "bench": ("bert_large.bench.command", "measure speed and memory, against matrix products and Hugging Face"),
    "report": ("bert_large.report.command", "show runs on one page: curves, settings, machine, restarts"),
}


def build_parser(chosen: str | None = None) -> CommandParser:
    """Return the parser; only the chosen command gets its options (and its imports)."""
    parser = CommandParser(prog="bert-large", description="BERT pretraining on CPUs.")
    parser.add_argument("--version", action="version", version=f"bert-large {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if name == chosen:
            importlib.import_module(module).add_arguments(subparser)
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line; ends the process with exit code 2 if it is wrong, with 0 for `--help`."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # for help and paths in an encoding that lacks their characters
        sys.stdout.reconfigure(errors="backslashreplace")
    chosen = next((word for word in argv if word in COMMANDS), None)
    parser = build_parser(chosen)
    if not argv:
        parser.print_help(sys.stderr)
        parser.exit(2)
    if chosen is None and not argv[0].startswith("-"):
        nearest = find_nearest(argv[0], COMMANDS)
        parser.error(
            f"unknown command {argv[0]!r}, "
            + (f"did you mean {nearest}?" if nearest else f"expected one of {', '.join(COMMANDS)}")
        )
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.error("no command given")
    return arguments


def environment_words(settings: Iterable[Setting], environment: Mapping[str, str]) -> list[str]:
    """Return the options that the environment's variables mean, for programs that do not read variables."""
    words = []
    for item in settings:
        value = next((value for name in (item.variable, *item.aliases) if (value := environment.get(name))), None)
        if value is None:
            continue
        if item.kind is not bool or item.deferred or value.lower() not in BOOLEANS:
            words.append(f"--{item.option}={value}")
        elif BOOLEANS[value.lower()]:
            words.append(f"--{item.option}")
        elif item.default is not False and not item.is_negative_flag:
            words.append(f"--no-{item.option}")
    return words


def expand_environment(program: Sequence[str]) -> list[str]:
    """Return the words of a program with `--from-environment` replaced by the options that the variables mean."""
    words = list(program)
    command = next((word for word in words if word in COMMANDS), None)
    if FROM_ENVIRONMENT not in words or command is None:
        return words
    place = words.index(FROM_ENVIRONMENT)
    words[place : place + 1] = environment_words(build_parser(command).settings_of_command(command), os.environ)
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 wrong input, 1 any other failure."""
    standard_streams.open_missing()
    arguments = parse(sys.argv[1:] if argv is None else argv)
    module = importlib.import_module(COMMANDS[arguments.command][0])
    if os.getpid() == 1:  # of a container: there a signal without a handler does nothing
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))
    try:
        code = int(module.run(arguments))
        try:
            sys.stdout.flush()  # here, where a failure can be reported, and not at Python's end
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(f"standard output cannot be written: {error.strerror}") from error
        return code
    except UserError as error:
        standard_streams.flush_or_discard(sys.stdout)
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


def run_and_exit() -> NoReturn:
    """Run the command line as a program, which ends with the command's exit code.

    A rank of several ends before Python's and C++'s clean-up. A thread of the backend may release the tensors of the
    last collective then, which needs Python, and would abort the process.
    """
    code: Any = 1  # that of an unexpected exception

    def end() -> None:
        standard_streams.flush_or_discard(sys.stdout)
        os._exit(code)

    if os.environ.get("WORLD_SIZE", "1") != "1":
        atexit.register(end)  # before all others, and so called after them
    try:
        code = main()
    except SystemExit as ended:  # of the parser
        code = ended.code
    sys.exit(code)
