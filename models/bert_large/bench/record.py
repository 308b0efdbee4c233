"""`bert-large bench record`: run the set of benchmarks, each in a process of its own, and keep what they gave."""

from __future__ import annotations

import datetime
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_large.bench.report import format_markdown
from bert_large.errors import UserError
from bert_large.observe.machine import Machine, read_commit
from bert_large.storage.atomic import default_file_mode, write_atomically

# name: arguments of `bert-large bench`. Sizes are chosen so that the whole set takes less than a quarter of an hour on
# two cores: fewer layers stand for 24 where a ratio is asked for, and 24 layers are run where memory is.
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "step_128": ("step", "--seq-len=128", "--batch-size=16", "--layers=2"),
    "step_512": ("step", "--seq-len=512", "--batch-size=4", "--layers=2"),
    "train_1": ("train", "--phase=1", "--layers=12", "--micro-batch-tokens=4096"),
    "train_2": ("train", "--phase=2", "--layers=12", "--micro-batch-tokens=4096"),
    "tokens": ("tokens", "--layers=2"),
    "memory": (
        "train", "--phase=2", "--layers=24", "--global-batch-size=24", "--micro-batch-tokens=4096", "--rounds=1",
        "--compare",
    ),
}  # fmt: skip


GOALS_PRECISION = "fp32"


@dataclass(frozen=True)
class Goal:
    """A figure to reach in fp32: at most, or with `at_least` at least, `value`."""

    what: str
    benchmark: str
    key: str
    value: float
    unit: str = ""
    at_least: bool = False
    scale: float = 1.0
    """What the figure is divided by to be in `unit`."""

    def is_met(self, figure: float) -> bool:
        """Tell whether a figure, in `unit`, reaches the goal."""
        return figure >= self.value if self.at_least else figure <= self.value

    def judge(self, best: float, median: float | None) -> str:
        """Return what to say of the figure of the best round and, where there is one, of the median."""
        if not self.is_met(best):
            return "**missed**"
        return "met" if median is None or self.is_met(median) else "met in the best round only"


GOALS = (
    Goal("encoder, 128 tokens x 16, over its matrix products", "step_128", "step_over_gemm", 1.08),
    Goal("encoder, 512 tokens x 4, attention included, over its matrix products", "step_512", "step_over_gemm", 1.20),
    Goal("phase 1, sequences/s over Hugging Face's padded eager model", "train_1", "over_hugging_face", 1.6,
         at_least=True),
    Goal("phase 2, sequences/s over Hugging Face's padded eager model", "train_2", "over_hugging_face", 3.3,
         at_least=True),
    Goal("phase 1, LAMB over its memory traffic", "train_1", "optimizer_over_bound", 1.3),
    Goal("phase 1, waiting for data, share of the step", "train_1", "data_wait_share", 1.0, unit="%", scale=0.01),
    Goal("phase 2, waiting for data, share of the step", "train_2", "data_wait_share", 1.0, unit="%", scale=0.01),
    Goal("24 layers, micro-batches of 4096 tokens, peak memory", "memory", "peak_memory_bytes", 14, unit="GiB",
         scale=2**30),
    Goal("1k to 16k tokens a step, furthest from the mean cost of a token", "tokens", "nonlinearity", 5.0, unit="%",
         scale=0.01),
)  # fmt: skip

CAVEATS = (
    "Figures without “median” come from the fastest round, those with it from the middle one; rounds alternate between "
    "all that is compared, in one process. On a machine that others use too, trust the ratios, not the seconds.",
    "`step` runs full sequences: no padding for anyone. Its matrix products are `torch.mm` into existing memory, with "
    "query, key and value as one product or as three, whichever was faster. Hugging Face's encoder gets no attention "
    "mask, which favours it.",
    "The native engine keeps large tensors' memory for the whole process, so Hugging Face's model has that gain here "
    "too: on its own it would be slower by its page faults.",
    "All that is compared has the same weights, and was timed only because its result and gradients without dropout "
    "are those of the eager engine in fp32 but for its precision's rounding.",
    "`hugging_face_compile` and `hugging_face_ipex` are the same model under `torch.compile` and `ipex.optimize`, the "
    "latter with IPEX's fused LAMB. IPEX, once loaded, changes PyTorch for all in the process.",
    "`train` has the layers that its command says, with the embeddings and both heads of the full vocabulary. Hugging "
    "Face's masked-LM head works on all positions, ours on the masked ones: with fewer layers than 24 the heads weigh "
    "more, so the ratio is a few percent larger than that of the full model.",
    "Sequences have the lengths of the Wikipedia-512 histogram (graphcore/examples, tutorials/blogs_code/packedBERT), "
    "cut at 128 for phase 1, at its evenly spaced quantiles in every global batch; their words are random.",
    "Hugging Face trains the same sequences padded to 128 or 512, with PyTorch's fused AdamW and clipping, its "
    "micro-batches of 16 or 4 sequences; padding them is not timed. Ours has LAMB, clipping, and the loader.",
    "The optimizer's bound is 40 bytes a parameter (two passes over weight, gradient and moments) at the bandwidth of "
    "a copy between two 256 MiB buffers, bytes read and written counted, measured in the same rounds. Clipping comes "
    "on top and is given apart.",
    "Peak memory is of the training process; its loader is another one.",
)


def write_record(
    folder: Path, options: Mapping[str, Any], on_command: Callable[[str], None] = lambda command: None
) -> Path:
    """Run the set, write the record into `folder` and return its path.

    `options` are those of `bert-large bench record` by their names; None leaves the set's own. `on_command` is told
    each command before it is run. Raises `UserError` if a benchmark fails.
    """
    started, machine, commit = datetime.datetime.now(datetime.timezone.utc), Machine.read(), read_commit()
    folder.mkdir(parents=True, exist_ok=True)
    commands, results = {}, {}
    for name, arguments in BENCHMARKS.items():
        commands[name] = [*arguments, *_as_arguments(options, arguments), "--json"]
        on_command(_display(commands[name]))
        results[name] = _run(commands[name])
    ended = datetime.datetime.now(datetime.timezone.utc)
    path = _free_path(folder, f"{started:%Y-%m-%d}-{machine.slug}")
    with write_atomically(path) as file:
        file.write(compose(machine, commit, started, ended, commands, results).encode())
    path.chmod(default_file_mode())
    return path


def _as_arguments(options: Mapping[str, Any], arguments: Sequence[str]) -> list[str]:
    """Return the set's common options as arguments for one benchmark, without those that it has no use for."""
    unused = {"compare"} if arguments[0] == "tokens" else set()
    # Memory is measured in one round, which is no good timing, and of one model alone.
    unused |= {name for name in options if any(argument.split("=")[0] == f"--{name}" for argument in arguments)}
    given = []
    for name, value in options.items():
        if name in unused or value is None:
            continue
        given += [f"--{name}", *value] if isinstance(value, list) else [f"--{name}={value}"]
    return given


def _run(arguments: Sequence[str]) -> dict[str, Any]:
    """Run one benchmark and return its figures; what it says on standard error is passed through."""
    command = [sys.executable, "-m", "bert_large", "bench", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"{_display(arguments)} ended with exit code {done.returncode}; no record was written")
    return json.loads(done.stdout)


def _display(arguments: Sequence[str]) -> str:
    return shlex.join(["bert-large", "bench", *arguments])


def _free_path(folder: Path, name: str) -> Path:
    """Return a path in `folder` that no earlier record of the day has."""
    path, number = folder / f"{name}.md", 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}.md"
    return path


def compose(
    machine: Machine,
    commit: str,
    started: datetime.datetime,
    ended: datetime.datetime,
    commands: Mapping[str, Sequence[str]],
    results: Mapping[str, Mapping[str, Any]],
) -> str:
    """Return the record as Markdown."""
    engines = sorted({figures["engine"] for figures in results.values()})
    sections = [
        f"# Benchmarks of {started:%Y-%m-%d}, {machine.cpu}, {machine.cores} cores",
        f"Engine {', '.join(engines)}, precision {', '.join(sorted({its['precision'] for its in results.values()}))}, "
        f"dropout {next(iter(results.values()))['dropout']}.",
        format_markdown(_goal_rows(results)),
        format_markdown(_other_rows(results)),
        "## Machine",
        _machine_lines(machine, commit, started, ended),
        "## Commands",
        "```bash\n" + "\n".join(_display(arguments) for arguments in commands.values()) + "\n```",
        "## Caveats",
        "\n".join(f"- {caveat}" for caveat in CAVEATS),
        "## All figures",
        "\n\n".join(f"`{name}`\n\n```json\n{json.dumps(figures)}\n```" for name, figures in results.items()),
    ]
    return "\n\n".join(sections) + "\n"


def _goal_rows(results: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows = [["What", "Best round", "Median", f"Goal ({GOALS_PRECISION})", ""]]
    for goal in GOALS:
        figures = results[goal.benchmark]
        sign = "≥" if goal.at_least else "≤"
        aim = f"{sign} {goal.value:g} {goal.unit}".strip()
        if goal.key not in figures:
            rows.append([goal.what, "not measured", "", aim, ""])
            continue
        best, median = figures[goal.key] / goal.scale, figures.get(f"{goal.key}_median")
        if median is not None:
            median /= goal.scale
        rows.append(
            [
                goal.what,
                _number(best, goal.unit),
                "" if median is None else _number(median, goal.unit),
                aim,
                goal.judge(best, median) if figures["precision"] == GOALS_PRECISION else "",
            ]
        )
    return rows


def _other_rows(results: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return the rows of figures that have no goal."""
    rows = [["What", "Best round", "Median"]]

    def add(what: str, name: str, key: str) -> None:
        figures = results[name]
        rows.append([what, _number(figures[key]), _number(figures[f"{key}_median"])])

    for name, shape in (("step_128", "128 tokens x 16"), ("step_512", "512 tokens x 4")):
        for compared in results[name]["compared"]:
            add(f"`{compared}`, encoder, {shape}, over its matrix products", name, f"{compared}_over_gemm")
    for name, phase in (("train_1", "phase 1"), ("train_2", "phase 2")):
        engine = results[name]["engine"]
        add(f"`{engine}`, {phase}, sequences/s", name, "sequences_per_second")
        for compared in results[name]["compared"]:
            add(f"`{compared}`, {phase}, sequences/s", name, f"{compared}_sequences_per_second")
            add(f"`{engine}` over `{compared}`, {phase}", name, f"over_{compared}")
    for name in ("step_128", "step_512", "train_1", "train_2"):
        for compared, difference in results[name]["not_comparable"].items():
            rows.append([f"`{compared}`, `{name}`", f"not comparable: {difference}", ""])
    for name in ("step_128", "step_512"):
        figures = results[name]
        rows.append([f"`{name}`, matrix products, GFLOP/s", f"{figures['gemm_gflops_per_second']:.0f}", ""])
    for name in ("train_1", "train_2"):
        figures = results[name]
        over = _number(figures["clip_and_optimizer_over_bound"])
        rows.append([f"`{name}`, clipping and LAMB over LAMB's memory traffic", over, ""])
    return rows


def _number(value: float, unit: str = "") -> str:
    return f"{value:.3f} {unit}".strip()


def _machine_lines(machine: Machine, commit: str, started: datetime.datetime, ended: datetime.datetime) -> str:
    facts = {
        "CPU": f"{machine.cpu}{' (virtual machine)' if machine.is_virtual else ''}",
        "cores": f"{machine.cores}, {machine.threads} threads",
        "instructions": ", ".join(machine.flags) or "unknown",
        "memory": f"{machine.memory_bytes / 2**30:.1f} GiB",
        "load before": ", ".join(f"{load:.2f}" for load in machine.load),
        "system": machine.system,
        "packages": ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
        "environment": shlex.join(f"{name}={value}" for name, value in machine.variables.items()) or "nothing set",
        "commit": commit,
        "time": f"{started:%Y-%m-%d %H:%M} UTC, {(ended - started).total_seconds() / 60:.1f} minutes",
    }
    return "\n".join(f"- {name}: {fact}" for name, fact in facts.items())
