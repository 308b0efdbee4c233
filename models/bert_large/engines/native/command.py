"""`bert-large kernels`: build the C++ code at set-up, so that no training run waits for a compiler.

That is the native engine's kernels and, where the extra `ccl` is installed, the oneCCL bindings.
"""

from __future__ import annotations

import argparse
import logging
import sys

from bert_large.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="build for every instruction set, for use on other machines")
    which.add_argument("--instruction-set", help="build for this one (default: the best that this CPU has)")


def run(arguments: argparse.Namespace) -> int:
    """Build what is missing; print a line with instruction set and path for each library."""
    # torch is imported only here, after the options are parsed
    from bert_large.cpu import read_cpu_flags
    from bert_large.distributed.ccl.libraries import find_oneccl, has_oneccl
    from bert_large.engines.native.build import INSTRUCTION_SETS, best_instruction_set, kernels

    if arguments.all:
        chosen = list(INSTRUCTION_SETS)
    elif arguments.instruction_set is None:
        chosen = [best_instruction_set(read_cpu_flags())]
    elif arguments.instruction_set in INSTRUCTION_SETS:
        chosen = [arguments.instruction_set]
    else:
        raise InputError(
            f"--instruction-set is {arguments.instruction_set!r}, expected one of {', '.join(INSTRUCTION_SETS)}"
        )
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # on standard error, apart from the paths
    for name in chosen:
        path = kernels(name).build()
        sys.stdout.write(f"{name}  {path}\n")
        sys.stdout.flush()
    if has_oneccl() and arguments.instruction_set is None:
        from bert_large.distributed.ccl.plugin import bindings

        sys.stdout.write(f"oneccl  {bindings(find_oneccl()).build()}\n")
    return 0
