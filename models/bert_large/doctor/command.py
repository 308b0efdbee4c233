"""`bert-large doctor`: check that this machine and set-up are fit for training."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from bert_large.config.options import CommandParser, add_settings, option
from bert_large.config.presets import CONFIGURATIONS, read_configuration
from bert_large.config.training import PRECISIONS, TrainConfig
from bert_large.doctor.finding import PROBLEM, render


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """The run that the machine is checked for."""

    config_file: str = option(
        "bert-large", f"configuration of the model: a file, or one of {', '.join(CONFIGURATIONS)}"
    )
    phase: int | None = option(None, "phase to train", within="[1, 2]", default_text="either")
    micro_batch_tokens: int = option(TrainConfig.micro_batch_tokens, "as for pretrain", within="[1, 1e9]")
    precision: str | None = option(
        None, "as for pretrain", choices=PRECISIONS, default_text="memory is predicted for fp32"
    )
    ranks: int | None = option(
        None, "ranks on this machine, as RANKS_PER_NODE", within="[1, 4096]", default_text="as for a run"
    )
    dataset_dir: Path | None = option(None, "also check this data folder")
    output_dir: Path | None = option(
        None,
        "folder that checkpoints will be written to",
        default_text="the current folder; in a container none, which has no disk of its own",
    )
    json: bool = option(False, "print one JSON object per line instead of a table")


def add_arguments(parser: CommandParser) -> None:
    """Add the options."""
    add_settings(parser, DoctorOptions)
    parser.epilog = (
        "The exit code is 1 if there is a problem. The environment variables of a run apply here too: RANKS_PER_NODE, "
        "BIND, BACKEND, OMP_NUM_THREADS, MASTER_PORT, CONTAINER_ENGINE and others."
    )


def run(arguments: argparse.Namespace) -> int:
    """Print all findings; return 1 if one of them is a problem."""
    from bert_large.doctor.examine import examine

    names = ("phase", "micro_batch_tokens", "precision", "ranks", "dataset_dir", "output_dir")
    given = {name: getattr(arguments, name) for name in names}
    findings = examine(model=read_configuration(arguments.config_file), **given)
    lines = "\n".join(json.dumps(dataclasses.asdict(finding)) for finding in findings)
    sys.stdout.write(f"{lines if arguments.json else render(findings)}\n")
    return int(any(finding.level == PROBLEM for finding in findings))
