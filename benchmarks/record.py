"""Runs the set of benchmarks, each in its own process, and writes a dated record of the results.

    python benchmarks/record.py [--output-dir benchmarks] [--engine eager] [--precision bf16] [--rounds 3]

The sizes are chosen so that the whole set takes less than a quarter of an hour on two cores: fewer layers stand for 24
where a ratio is measured, and all 24 layers run where memory is measured.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bert_large
import torch
from bert_large.bench.options import COUNT
from bert_large.bench.output import run_script
from bert_large.config.options import CommandParser, add_settings, setting
from bert_large.config.training import PRECISIONS
from bert_large.cpu import read_cpu_flags, read_cpu_model
from bert_large.errors import UserError
from bert_large.observe.machine import package_version
from bert_large.observe.timing import format_spread, is_steady
from bert_large.storage.atomic import write_atomically
from bert_large.storage.output_folder import make_folder
from bert_large.tables import format_markdown

HERE = Path(__file__).resolve().parent
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "step_128": ("bench", "step", "--seq-len=128", "--batch-size=16"),
    "step_512": ("bench", "step", "--seq-len=512", "--batch-size=4"),
    "train_1": ("bench", "train", "--phase=1", "--layers=12", "--micro-batch-tokens=4096"),
    "train_2": ("bench", "train", "--phase=2", "--layers=12", "--micro-batch-tokens=4096"),
    "optimizer": ("optimizer.py", "--layers=12"),
    "tokens": ("tokens.py", "--layers=2"),
    "memory": (
        "bench", "train", "--phase=2", "--layers=24", "--global-batch-size=24", "--micro-batch-tokens=4096",
        "--rounds=1", "--compare",
    ),
}  # fmt: skip
"""By name: `bench` and its arguments, or a script beside this one and its arguments."""
GOALS_PRECISION = "fp32"
FLAGS = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_fp16",
)  # fmt: skip
VARIABLES = ("OMP_NUM_THREADS", "KMP_AFFINITY", "LD_PRELOAD", "DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA")

Results = Mapping[str, Mapping[str, Any]]
"""Results by benchmark."""


@dataclass(frozen=True)
class Goal:
    """A value to reach in fp32: at most `value`, or with `at_least` at least."""

    what: str
    benchmark: str
    key: str
    value: float
    unit: str = ""
    at_least: bool = False
    scale: float = 1.0
    """Divisor that converts a result to `unit`."""

    def is_met(self, result: float) -> bool:
        """Return whether a result, in `unit`, reaches the goal."""
        return result >= self.value if self.at_least else result <= self.value

    def judge(self, result: float | Mapping[str, Any]) -> str:
        """Return the verdict on a value, or on the median of one that was measured in every round."""
        if isinstance(result, Mapping) and not is_steady(result):
            return "not measured: unsteady"
        value = result["median"] if isinstance(result, Mapping) else result
        return "met" if self.is_met(value / self.scale) else "**missed**"


GOALS = (
    Goal("encoder, 128 tokens x 16, over its matrix products", "step_128", "step_over_gemm", 1.08),
    Goal("encoder, 512 tokens x 4, attention included, over its matrix products", "step_512", "step_over_gemm", 1.20),
    Goal("phase 1, sequences/s over Hugging Face's padded eager model", "train_1", "over_hugging_face", 1.6,
         at_least=True),
    Goal("phase 2, sequences/s over Hugging Face's padded eager model", "train_2", "over_hugging_face", 3.3,
         at_least=True),
    Goal("LAMB over its memory traffic", "optimizer", "optimizer_over_bound", 1.3),
    Goal("phase 1, waiting for data, share of the step", "train_1", "data_wait_share", 1.0, unit="%", scale=0.01),
    Goal("phase 2, waiting for data, share of the step", "train_2", "data_wait_share", 1.0, unit="%", scale=0.01),
    Goal("24 layers, micro-batches of 4096 tokens, peak memory", "memory", "peak_memory_bytes", 14, unit="GiB",
         scale=2**30),
    Goal("1k to 16k tokens per step, largest distance from the mean time per token", "tokens", "nonlinearity", 5.0,
         unit="%", scale=0.01),
)  # fmt: skip

CAVEATS = (
    "In each process, rounds alternate between all compared variants. Ratios are taken round by round; shown are their "
    "median and, in parentheses, their quartiles. Where these are more than 10% of the median apart, the machine was "
    "too unsteady, and only the quartiles are shown.",
    "`step` runs full sequences, without padding. Its matrix products are `torch.mm` into existing memory, with query, "
    "key and value as one product or as three, whichever was faster. Hugging Face's encoder gets no attention mask, "
    "which favors it. The share of the peak is relative to multiply-adds of operands in registers on all threads.",
    "The native engine keeps the memory of large tensors for the whole process, so Hugging Face's model also profits "
    "from it here: in its own process it would be slower by its page faults.",
    "All variants have the same weights. A variant was timed only if its result and gradients without dropout equal "
    "those of the eager engine in fp32, up to the rounding of its precision.",
    "`hugging_face_compile`, `hugging_face_ipex` and `hugging_face_fast_bert` are the same model under "
    "`torch.compile`, `ipex.optimize` with IPEX's fused LAMB, and `ipex.fast_bert`. IPEX, once loaded, changes PyTorch "
    "for all variants in the process.",
    "`train` has the number of layers that its command states, with the embeddings and both heads of the full "
    "vocabulary. Hugging Face's masked-LM head computes all positions, ours the masked ones: with fewer layers than 24 "
    "the heads weigh more, so the ratio is a few percent larger than that of the full model.",
    "Sequences have the lengths of the Wikipedia-512 histogram (graphcore/examples, tutorials/blogs_code/packedBERT), "
    "cut at 128 for phase 1, at evenly spaced quantiles in every global batch; their tokens are random.",
    "Hugging Face's model trains the same sequences padded to 128 or 512, with PyTorch's fused AdamW and clipping, in "
    "micro-batches of 16 or 4 sequences; padding them is not timed. Ours has LAMB, clipping, and the loader.",
    "The optimizer's bound is 40 bytes per parameter (two passes over weight, gradient and moments) at the bandwidth "
    "of a copy between two 256 MiB buffers, bytes read and written counted, measured in the same rounds. Clipping is "
    "listed separately.",
    "Peak memory is that of the training process, without its loader's.",
)


@dataclass(frozen=True)
class Machine:
    """The machine and the software of a record."""

    cpu: str
    cores: int
    threads: int
    flags: list[str]
    is_virtual: bool
    memory_bytes: int
    load: tuple[float, float, float]
    """Load averages (1, 5, 15 minutes) before the first benchmark: other processes disturb the measurements."""

    @classmethod
    def read(cls) -> Machine:
        """Read the machine that this runs on."""
        flags = read_cpu_flags()
        return cls(
            cpu=read_cpu_model(),
            cores=len(os.sched_getaffinity(0)),
            threads=torch.get_num_threads(),
            flags=[flag for flag in FLAGS if flag in flags],
            is_virtual="hypervisor" in flags,
            memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            load=os.getloadavg(),
        )

    @property
    def slug(self) -> str:
        """The CPU's name as part of a file name."""
        words = re.sub(r"\((r|tm)\)|\bcpu\b|\bprocessor\b|@.*", " ", self.cpu.lower())
        return f"{'-'.join(re.findall(r'[a-z0-9]+', words)) or 'cpu'}-{self.cores}-cores"

    def describe(self) -> dict[str, str]:
        """Return the lines of the record on the machine, by title."""
        packages = {name: package_version(name) or "not installed" for name in ("torch", "transformers", "numpy")}
        variables = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
        return {
            "CPU": f"{self.cpu}{' (virtual machine)' if self.is_virtual else ''}",
            "cores": f"{self.cores}, {self.threads} threads",
            "instructions": ", ".join(self.flags) or "unknown",
            "memory": f"{self.memory_bytes / 2**30:.1f} GiB",
            "load before": ", ".join(f"{load:.2f}" for load in self.load),
            "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
            "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
            "environment": shlex.join(variables) or "nothing set",
        }


@dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """Options of the whole set."""

    output_dir: Path = setting(HERE, "folder for the record", variable="")
    engine: str = setting("auto", "engine, as for pretrain", variable="")
    precision: str = setting("fp32", "precision, as for pretrain", choices=PRECISIONS, variable="")
    rounds: int | None = setting(
        None, "timed rounds of every benchmark", within=COUNT, variable="", default_text="the set's"
    )


def read_commit(folder: Path = HERE) -> str:
    """Return the commit of the checkout that holds `folder`, marked if files differ from it."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return f"{commit} with local changes" if _git(folder, "status", "--porcelain") else commit
    except (OSError, subprocess.CalledProcessError):
        return f"unknown (version {bert_large.__version__}, not in a git checkout)"


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def write_record(folder: Path, options: Mapping[str, Any]) -> Path:
    """Run the set, write the record into `folder` and return its path; raises `UserError` if a benchmark fails.

    `options` are engine, precision, rounds and compare; None keeps the value of the set.
    """
    started, machine, commit = datetime.datetime.now(datetime.timezone.utc), Machine.read(), read_commit()
    make_folder(folder)
    commands, results = {}, {}
    for name, benchmark in BENCHMARKS.items():
        commands[name] = [*benchmark, *_as_arguments(options, benchmark), "--json"]
        print(_display(commands[name]), file=sys.stderr)
        results[name] = _run(commands[name])
    minutes = (datetime.datetime.now(datetime.timezone.utc) - started).total_seconds() / 60
    facts = {**machine.describe(), "commit": commit, "time": f"{started:%Y-%m-%d %H:%M} UTC, {minutes:.1f} minutes"}
    title = f"Benchmarks of {started:%Y-%m-%d}, {machine.cpu}, {machine.cores} cores"
    path = _free_path(folder, f"{started:%Y-%m-%d}-{machine.slug}")
    with write_atomically(path) as file:
        file.write(compose(title, facts, commands, results).encode())
    return path


def _as_arguments(options: Mapping[str, Any], benchmark: Sequence[str]) -> list[str]:
    """Return the options of the whole set as arguments of one benchmark, without those that do not apply to it."""
    unused = {"compare"} if benchmark[0] != "bench" else set()
    # The memory benchmark has its own: one round, and no model beside the one measured.
    unused |= {name for name in options if any(argument.split("=")[0] == f"--{name}" for argument in benchmark)}
    given = []
    for name, value in options.items():
        if name not in unused and value is not None:
            given += [f"--{name}", *value] if isinstance(value, list) else [f"--{name}={value}"]
    return given


def _run(command: Sequence[str]) -> dict[str, Any]:
    """Run one benchmark and return its results; its standard error is passed through."""
    program = ["-m", "bert_large", *command] if command[0] == "bench" else [str(HERE / command[0]), *command[1:]]
    done = subprocess.run([sys.executable, *program], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"{_display(command)} ended with exit code {done.returncode}; no record was written")
    return json.loads(done.stdout)


def _display(command: Sequence[str]) -> str:
    is_script = command[0] != "bench"
    return shlex.join(["python", f"benchmarks/{command[0]}", *command[1:]] if is_script else ["bert-large", *command])


def _free_path(folder: Path, name: str) -> Path:
    """Return a path in `folder` that no earlier record of the day has."""
    path, number = folder / f"{name}.md", 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}.md"
    return path


def compose(title: str, facts: Mapping[str, str], commands: Mapping[str, Sequence[str]], results: Results) -> str:
    """Return the record as Markdown."""
    engines = ", ".join(sorted({result["engine"] for result in results.values()}))
    precisions = ", ".join(sorted({result["precision"] for result in results.values()}))
    sections = [
        f"# {title}",
        f"Engine {engines}, precision {precisions}, dropout {next(iter(results.values()))['dropout']}.",
        format_markdown(_goal_rows(results)),
        format_markdown(_other_rows(results)),
        "## Machine",
        "\n".join(f"- {name}: {fact}" for name, fact in facts.items()),
        "## Commands",
        "```bash\n" + "\n".join(_display(command) for command in commands.values()) + "\n```",
        "## Caveats",
        "\n".join(f"- {caveat}" for caveat in CAVEATS),
        "## All results",
        "\n\n".join(f"`{name}`\n\n```json\n{json.dumps(result)}\n```" for name, result in results.items()),
    ]
    return "\n\n".join(sections) + "\n"


def _goal_rows(results: Results) -> list[list[str]]:
    rows = [["What", "Median (quartiles)", f"Goal ({GOALS_PRECISION})", ""]]
    for goal in GOALS:
        result = results[goal.benchmark]
        aim = f"{'≥' if goal.at_least else '≤'} {goal.value:g} {goal.unit}".strip()
        if goal.key not in result:
            rows.append([goal.what, "not measured", aim, ""])
            continue
        value = result[goal.key]
        verdict = goal.judge(value) if result["precision"] == GOALS_PRECISION else ""
        rows.append([goal.what, _cell(value, goal.unit, goal.scale), aim, verdict])
    return rows


def _other_rows(results: Results) -> list[list[str]]:
    """Return the rows of results that have no goal."""
    rows = [["What", "Median (quartiles)"]]

    def add(what: str, name: str, key: str) -> None:
        rows.append([what, _cell(results[name][key])])

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
            rows.append([f"`{compared}`, `{name}`", f"not comparable: {difference}"])
    for name in ("step_128", "step_512"):
        add(f"`{name}`, matrix products, GFLOP/s", name, "gemm_gflops_per_second")
        if "gemm_share_of_peak" in results[name]:
            add(f"`{name}`, matrix products, share of the CPU's peak", name, "gemm_share_of_peak")
    add("clipping and LAMB over LAMB's memory traffic", "optimizer", "clip_and_optimizer_over_bound")
    return rows


def _cell(value: float | Mapping[str, Any], unit: str = "", scale: float = 1.0) -> str:
    if isinstance(value, Mapping):
        return format_spread(value, unit, scale)
    return f"{value / scale:.3f} {unit}".strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Write a record."""
    parser = CommandParser(description="run the set of benchmarks and write a dated record")
    add_settings(parser, RecordOptions)
    parser.add_argument("--compare", nargs="*", metavar="NAME", help="as for bench (default: the set's)")
    arguments = parser.parse_args(argv)
    options = {name: getattr(arguments, name) for name in ("engine", "precision", "rounds", "compare")}
    print(write_record(arguments.output_dir, options))
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
