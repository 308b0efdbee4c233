"""`bert-large plan`: the tokens, steps, hours, memory and disk space of a run, and what to change to fit a budget."""

from __future__ import annotations

import argparse
import dataclasses
import sys

from bert_large.bench.output import to_json
from bert_large.config.options import CommandParser, add_settings, option
from bert_large.train import command as pretrain


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """The budget of the run, and the machine if it is not this one."""

    hours: float | None = option(None, "time that the run may take", within="(0, 1e6]")
    memory: float | None = option(
        None, "memory of a machine, in GiB", within="(0, 1e6]", default_text="what is available here"
    )
    machines: int = option(1, "equal machines that share the work", within="[1, 100000]")
    tokens_per_second: float | None = option(
        None,
        "speed of another machine, instead of measuring this one: tokens per second of a step of this model, as its "
        "metrics.jsonl has it",
        within="(0, 1e12]",
    )
    gflops: float | None = option(
        None,
        "speed of another machine, instead of measuring this one: GFLOP/s of its matrix products in this precision, as "
        "`bert-large bench step` prints there",
        within="(0, 1e12]",
    )
    json: bool = option(False, "print one JSON object instead of a table")


def add_arguments(parser: CommandParser) -> None:
    """Add the options of `pretrain`, which describe the run, and those of the plan."""
    add_settings(parser, PlanOptions, title="plan")
    pretrain.add_arguments(parser)
    parser.epilog = "The run is described by the options of pretrain, and nothing of it is started or written."


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; the exit code is 0 whether or not the run fits its budget."""
    from bert_large.plan.forecast import Budget, advise, forecast, render
    from bert_large.plan.survey import survey
    from bert_large.plan.timing import describe_machine, measure_machine
    from bert_large.train.checked import check_settings

    run_ = check_settings(arguments)
    data, evaluation = survey(run_)
    if arguments.tokens_per_second is None and arguments.gflops is None:
        speed = measure_machine(run_, data)
    else:
        speed = describe_machine(run_, data, arguments.tokens_per_second, arguments.gflops)
    plan = forecast(run_, data, evaluation, speed, arguments.machines)
    advice = advise(run_, plan, speed, Budget.of(arguments.hours, arguments.memory))
    content = {**dataclasses.asdict(plan), "advice": advice}
    sys.stdout.write(f"{to_json(content) if arguments.json else render(plan, advice)}\n")
    return 0
