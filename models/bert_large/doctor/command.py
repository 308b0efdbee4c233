"""`bert-large doctor`: what this machine offers for training, and what is wrong with the set-up."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from bert_large.config.presets import CONFIGURATIONS, read_configuration
from bert_large.config.training import PHASE_SEQ_LENGTHS, PRECISIONS, check_precision
from bert_large.doctor.finding import PROBLEM, Finding, render
from bert_large.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options: the run that the machine is to be fit for."""
    from bert_large.train.settings import SETTINGS

    tokens = SETTINGS["micro_batch_tokens"].default
    parser.epilog = (
        "Ends with exit code 1 if there is a problem. Of the environment it minds what a run does: RANKS_PER_NODE, "
        "BIND, BACKEND, OMP_NUM_THREADS, CONTAINER_ENGINE and others."
    )
    parser.add_argument(
        "--config-file",
        default="bert-large",
        help=f"the model's configuration: a file, or one of {', '.join(CONFIGURATIONS)} (default bert-large)",
    )
    parser.add_argument("--phase", type=int, choices=sorted(PHASE_SEQ_LENGTHS), help="1 or 2 (default: either)")
    parser.add_argument("--micro-batch-tokens", type=int, default=tokens, help=f"as for pretrain (default {tokens})")
    parser.add_argument("--precision", help=f"one of {', '.join(PRECISIONS)} (default: memory is predicted for fp32)")
    parser.add_argument(
        "--ranks", type=int, help="ranks of this machine, as RANKS_PER_NODE (default: as a run chooses)"
    )
    parser.add_argument("--dataset-dir", type=Path, help="look at this data folder too")
    parser.add_argument("--output-dir", type=Path, default=Path(), help="whose disk takes checkpoints (default: here)")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Print all findings; return 1 if one of them is a problem."""
    from bert_large.doctor.examine import examine

    if arguments.precision is not None:
        check_precision(arguments.precision)
    for name in ("micro_batch_tokens", "ranks"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} is {value}, expected > 0")
    findings = examine(
        model=read_configuration(arguments.config_file),
        phase=arguments.phase,
        micro_batch_tokens=arguments.micro_batch_tokens,
        precision=arguments.precision,
        ranks=arguments.ranks,
        dataset_dir=arguments.dataset_dir,
        output_dir=arguments.output_dir,
    )
    sys.stdout.write(f"{_as_json(findings) if arguments.json else render(findings)}\n")
    return int(any(finding.level == PROBLEM for finding in findings))


def _as_json(findings: list[Finding]) -> str:
    return "\n".join(json.dumps(dataclasses.asdict(finding)) for finding in findings)
