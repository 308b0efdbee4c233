"""`bert-large ranks`: show which ranks would be started on this host, and what each is bound to."""

from __future__ import annotations

import argparse
import os
import sys

from bert_large.distributed.backend import choose_backends
from bert_large.distributed.launch import describe_plan, make_plan
from bert_large.distributed.topology import read_topology


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no options: the settings are the environment variables of the quickstart scripts."""
    parser.epilog = (
        "Set what the run will have: RANKS_PER_NODE, BIND, BACKEND, OMP_NUM_THREADS, HOSTFILE, NNODES, NODE_RANK, "
        "MASTER_ADDR, MASTER_PORT."
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the plan of the run that the environment describes."""
    plan = make_plan(os.environ, read_topology())
    lines = describe_plan(plan, os.environ)
    if plan.uses_torchrun:
        names, reason = choose_backends(os.environ.get("BACKEND"))
        lines.append(f"backend {' or '.join(names)}: {reason}")
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0
