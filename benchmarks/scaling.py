"""A model of training on many sockets, computed from measured inputs (scaling_inputs.json).

    python benchmarks/scaling.py [--update benchmarks/SCALING.md] [--json]

A step of global batch G on n ranks takes

    compute       G/n sequences at the rate of a single rank, times balance: most work of a rank over the mean
    + exposed     the rest of the sum of gradients when the backward pass of the last micro-batch is over
    + optimizer   clipping and LAMB, at memory speed; divided over ranks with zero1, which then sends the weights

Gradients are summed by a ring (Patarasuk and Yuan 2009): 2(n-1) messages of 1/n of the bytes each, one after the
other, at the lower of two rates: the network's, and that at which the ranks' own code receives messages and adds them.
The ring passes the network card of each node once in each direction, however many ranks the node has. The sum is hidden
behind the backward pass except for the word embeddings, whose gradient is complete only at its very end. Weights are
sent in trees, one tree per owner. The model assumes the best case: either every rank is busy passing all weights on
once, or the owner of the most weights is busy sending its own to all branches.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bert_large.bench.output import run_script
from bert_large.bench.synthetic import LengthHistogram, phase_lengths
from bert_large.config.model import ModelConfig
from bert_large.config.training import RanksConfig, reference_eval_every_samples
from bert_large.data.order import deal_to_ranks
from bert_large.errors import InputError
from bert_large.storage.atomic import write_atomically
from bert_large.tables import format_markdown
from optimizer import BYTES_PER_PARAMETER

INPUTS_FILE = Path(__file__).with_name("scaling_inputs.json")
PARAMETERS = 336_226_108
PHASE = 2
RANKS_PER_NODE = 2
NODES = (1, 2, 4, 8, 16, 32, 64)
GLOBAL_BATCH_SIZES = (2048, 4096, 8192)
NETWORKS_GBITS = (10, 25, 100, 200)
BACKWARD_SHARE = 2 / 3
"""Share of the backward pass in both passes: two of three matrix products."""
EVAL_SAMPLES = 10_000
SUMS_AT_ONCE = 2
"""Buckets that gloo sums at the same time: the number of its threads."""
SAMPLES_TO_TARGET = {256: 2.55e6, 448: 2.41e6, 1536: 2.78e6, 3072: 2.76e6, 8192: 4.19e6}
"""Mean sequences to masked-LM accuracy 0.72 by global batch: MLCommons' reference convergence points."""
INTEL_RUNS = {8: (2048, 540.0), 16: (3072, 1027.0)}
"""Global batch and sequences per second, evaluation included, of Intel's MLPerf v3.1 submissions by nodes of two Xeon
8480+ in bf16: samples over the time from run_start to run_stop in each first log (result_0.txt)."""
START, END = "<!-- computed: python benchmarks/scaling.py --update FILE -->", "<!-- end of the computed tables -->"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Measured or assumed inputs; `scaling_inputs.json` states the source of each."""

    source: Mapping[str, str]
    sum_bytes_per_second: float
    """Bytes of float32 gradients that two ranks sum per second over gloo, with nothing else running."""
    bf16_sum_bytes_per_second: float
    """The same for float32 gradients rounded to bfloat16 in transfer; the bytes are those of float32."""
    optimizer_over_bound: float
    clip_and_optimizer_over_bound: float
    """LAMB with clipping, over 40 bytes per parameter at copy bandwidth; the field above: LAMB alone."""
    sequences_per_second: float
    """Throughput of phase 2, 24 layers, on the measured machine."""
    copy_bytes_per_second: float
    """Bandwidth of the measured machine, bytes read and written."""
    socket_bytes_per_second: float
    """Assumed bandwidth of a server's socket."""
    latency_seconds: float
    """Assumed latency of a message over TCP between two nodes."""
    micro_batch_tokens: int
    """Assumed micro-batch of a server's socket."""

    @classmethod
    def read(cls, path: Path = INPUTS_FILE) -> Inputs:
        """Read the inputs beside this script."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Ranks, the rates of each rank alone, and the network between them."""

    ranks: int
    sequences_per_second: float
    """Rate of forward and backward passes of a rank alone."""
    memory_bytes_per_second: float
    network_bytes_per_second: float
    sum_bytes_per_second: float = math.inf
    """Rate of the ranks' own code for sums, with an infinitely fast network."""
    latency_seconds: float
    micro_batch_tokens: int
    bucket_mb: float = RanksConfig().bucket_mb
    gradient_bytes: int = 4
    """Bytes of a parameter's gradient in transfer."""
    zero1: bool = False


@dataclass(frozen=True)
class StepSeconds:
    """The parts of a step's time."""

    compute: float
    imbalance: float
    exposed: float
    optimizer: float
    summing: float
    """The whole sum of gradients; not a part of the step, because most of it is hidden."""

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.compute + self.imbalance + self.exposed + self.optimizer


@functools.cache
def _lengths() -> LengthHistogram:
    return phase_lengths(PHASE)


@functools.cache
def balance(ranks: int, global_batch_size: int, draws: int = 3) -> float:
    """Return the most tokens of a rank over the mean, averaged over random global batches of real lengths."""
    counts = _lengths().counts
    generator = np.random.default_rng(0)
    ratios = []
    for _ in range(draws):
        lengths = generator.choice(len(counts), global_batch_size, p=counts / counts.sum()) + 1
        loads = [int(lengths[positions].sum()) for positions in deal_to_ranks(lengths, ranks)]
        ratios.append(max(loads) * ranks / sum(loads))
    return float(np.mean(ratios))


def sum_seconds(cluster: Cluster, parameters: float) -> float:
    """Return the time to sum the gradients of `parameters` parameters over all ranks."""
    if cluster.ranks == 1:
        return 0.0
    turns = 2 * (cluster.ranks - 1)
    sent = parameters * cluster.gradient_bytes
    buckets = max(1.0, parameters * 4 / (cluster.bucket_mb * 2**20))
    rate = min(cluster.network_bytes_per_second, cluster.sum_bytes_per_second)
    return turns * (sent / cluster.ranks / rate + buckets * cluster.latency_seconds / SUMS_AT_ONCE)


def step_seconds(cluster: Cluster, global_batch_size: int, inputs: Inputs) -> StepSeconds:
    """Return the time of a step of phase 2."""
    model, ranks = ModelConfig(), cluster.ranks
    compute = global_batch_size / ranks / cluster.sequences_per_second
    uneven = balance(ranks, global_batch_size)
    tokens = global_batch_size / ranks * _lengths().mean
    window = compute * min(1.0, cluster.micro_batch_tokens / tokens) * BACKWARD_SHARE
    words = model.vocab_size * model.hidden_size
    hidden, tail = sum_seconds(cluster, PARAMETERS - words), sum_seconds(cluster, words)
    bound = BYTES_PER_PARAMETER * PARAMETERS / cluster.memory_bytes_per_second
    clip = (inputs.clip_and_optimizer_over_bound - inputs.optimizer_over_bound) * bound
    update = inputs.optimizer_over_bound * bound
    if cluster.zero1 and ranks > 1:
        rate = min(cluster.network_bytes_per_second, cluster.sum_bytes_per_second)
        update *= max(1 / ranks, words / PARAMETERS)  # parameters are not divided
        branches, largest = math.ceil(math.log2(ranks)), max(PARAMETERS / ranks, words)
        update += 4 * max(PARAMETERS * (ranks - 1) / ranks, largest * branches) / rate
    return StepSeconds(
        compute=compute,
        imbalance=compute * (uneven - 1),
        exposed=tail + max(0.0, hidden - window),
        optimizer=clip + update,
        summing=hidden + tail,
    )


def samples_to_target(global_batch_size: int) -> float:
    """Return the sequences to the target, interpolated linearly between MLCommons' reference points."""
    sizes = sorted(SAMPLES_TO_TARGET)
    return float(np.interp(global_batch_size, sizes, [SAMPLES_TO_TARGET[size] for size in sizes]))


def minutes_to_target(cluster: Cluster, global_batch_size: int, inputs: Inputs) -> float:
    """Return the time of a run to the target with MLPerf's evaluations, which are forward passes only."""
    samples = samples_to_target(global_batch_size)
    training = samples / global_batch_size * step_seconds(cluster, global_batch_size, inputs).total
    evaluations = samples // reference_eval_every_samples(global_batch_size)
    one = EVAL_SAMPLES / cluster.ranks / cluster.sequences_per_second * (1 - BACKWARD_SHARE)
    return (training + evaluations * one) / 60


def calibrate(cluster: Cluster, minutes: float, global_batch_size: int, inputs: Inputs) -> Cluster:
    """Return the cluster with the rate of a single rank at which the run takes `minutes`.

    Raises `InputError` if even infinitely fast ranks would take longer.
    """
    low, high = 1e-3, 1e6
    if minutes_to_target(replace(cluster, sequences_per_second=high), global_batch_size, inputs) > minutes:
        raise InputError(f"no ranks are fast enough for {minutes} minutes: the rest of a run takes longer")
    for _ in range(100):
        middle = math.sqrt(low * high)
        slow = minutes_to_target(replace(cluster, sequences_per_second=middle), global_batch_size, inputs) > minutes
        low, high = (middle, high) if slow else (low, middle)
    return replace(cluster, sequences_per_second=high)


def socket_cluster(inputs: Inputs, network_gbits: float, *, gloo: bool, ranks: int) -> Cluster:
    """Return sockets as fast as Intel's: with this network, eight nodes of them train at the rate of Intel's."""
    template = Cluster(
        ranks=8 * RANKS_PER_NODE,
        sequences_per_second=1.0,
        memory_bytes_per_second=inputs.socket_bytes_per_second,
        network_bytes_per_second=network_gbits * 1e9 / 8,
        sum_bytes_per_second=inputs.sum_bytes_per_second if gloo else math.inf,
        latency_seconds=inputs.latency_seconds,
        micro_batch_tokens=inputs.micro_batch_tokens,
    )
    batch, rate = INTEL_RUNS[8]
    return replace(calibrate(template, samples_to_target(batch) / rate / 60, batch, inputs), ranks=ranks)


def machine_cluster(inputs: Inputs, network_gbits: float, *, ranks: int) -> Cluster:
    """Return ranks that each equal the measured machine."""
    return Cluster(
        ranks=ranks,
        sequences_per_second=inputs.sequences_per_second,
        memory_bytes_per_second=inputs.copy_bytes_per_second,
        network_bytes_per_second=network_gbits * 1e9 / 8,
        sum_bytes_per_second=inputs.sum_bytes_per_second,
        latency_seconds=inputs.latency_seconds,
        micro_batch_tokens=inputs.micro_batch_tokens,
    )


def compressed(cluster: Cluster, inputs: Inputs) -> Cluster:
    """Return the cluster with gradients rounded to bfloat16 in transfer."""
    bf16_rate = math.inf if math.isinf(cluster.sum_bytes_per_second) else inputs.bf16_sum_bytes_per_second / 2
    return replace(cluster, gradient_bytes=2, sum_bytes_per_second=bf16_rate)


def efficiency(cluster: Cluster, global_batch_size: int, inputs: Inputs) -> float:
    """Return the share of a step in which a rank computes."""
    step = step_seconds(cluster, global_batch_size, inputs)
    return step.compute / step.total


def measure(inputs: Inputs | None = None) -> dict[str, Any]:
    """Return all tables by title: rows of text, the first of which is the header."""
    inputs = inputs or Inputs.read()
    return {
        "benchmark": "scaling",
        "source": dict(inputs.source),
        "tables": {
            "Intel's results": _intel_table(inputs),
            "Share of a step in which sockets compute, summing over gloo as measured": _efficiency_table(
                inputs, (10, 100), gloo=True
            ),
            "The same if summing were limited by the network alone": _efficiency_table(
                inputs, NETWORKS_GBITS, gloo=False
            ),
            "What a step of 64 nodes is made of, global batch 4096, 100 Gbit/s": _parts_table(inputs),
            "Minutes to masked-LM accuracy 0.72, 100 Gbit/s, best global batch": _minutes_table(inputs),
            "Ranks like the measured machine, 10 Gbit/s": _machine_table(inputs),
            "Most tokens of a rank over the mean, phase 2": _balance_table(),
        },
    }


def _intel_table(inputs: Inputs) -> list[list[str]]:
    batch, published = INTEL_RUNS[16]
    rows = [["network of a node", "sequences/s of a single socket", "predicted for 16 nodes, sequences/s", "Intel's",
             "Intel's over predicted"]]  # fmt: skip
    for gbits in NETWORKS_GBITS:
        for gloo in (True, False):
            name = f"{gbits} Gbit/s, {'gloo' if gloo else 'network alone'}"
            try:
                cluster = socket_cluster(inputs, gbits, gloo=gloo, ranks=16 * RANKS_PER_NODE)
            except InputError:
                rows.append([name, "impossible", "", "", ""])
                continue
            rate = samples_to_target(batch) / (60 * minutes_to_target(cluster, batch, inputs))
            rows.append([name, f"{cluster.sequences_per_second:.1f}", f"{rate:.0f}", f"{published:.0f}",
                         f"{published / rate:.2f}"])  # fmt: skip
    return rows


def _reference_socket(inputs: Inputs) -> float:
    """Return the rate of a single socket: Intel's, if 100 Gbit/s had been the only limit of their sums."""
    return socket_cluster(inputs, 100, gloo=False, ranks=1).sequences_per_second


def _sockets(inputs: Inputs, gbits: float, nodes: int, *, gloo: bool) -> Cluster:
    machine = machine_cluster(inputs, gbits, ranks=nodes * RANKS_PER_NODE)
    return replace(
        machine,
        sequences_per_second=_reference_socket(inputs),
        memory_bytes_per_second=inputs.socket_bytes_per_second,
        sum_bytes_per_second=inputs.sum_bytes_per_second if gloo else math.inf,
    )


def _efficiency_table(inputs: Inputs, networks_gbits: Sequence[float], *, gloo: bool) -> list[list[str]]:
    rows = [["nodes", *map(str, NODES)]]
    for gbits in networks_gbits:
        for size in GLOBAL_BATCH_SIZES:
            clusters = [_sockets(inputs, gbits, nodes, gloo=gloo) for nodes in NODES]
            shares = [f"{efficiency(cluster, size, inputs):.2f}" for cluster in clusters]
            rows.append([f"{gbits} Gbit/s, global batch {size}", *shares])
    return rows


def _parts_table(inputs: Inputs) -> list[list[str]]:
    rows = [["seconds", "compute", "imbalance", "sum of gradients, exposed", "optimizer", "step"]]
    for gloo in (True, False):
        plain = _sockets(inputs, 100, 64, gloo=gloo)
        for name, cluster in {
            "defaults": plain,
            "--bucket-mb 100": replace(plain, bucket_mb=100.0),
            "--gradient-compression bf16": compressed(plain, inputs),
            "--zero1": replace(plain, zero1=True),
            "bf16 and --bucket-mb 100": replace(compressed(plain, inputs), bucket_mb=100.0),
        }.items():
            step = step_seconds(cluster, 4096, inputs)
            parts = (step.compute, step.imbalance, step.exposed, step.optimizer, step.total)
            rows.append([f"{'gloo' if gloo else 'network alone'}, {name}", *(f"{part:.3f}" for part in parts)])
    return rows


def _minutes_table(inputs: Inputs) -> list[list[str]]:
    rows = [["nodes", "gloo: global batch", "minutes", "network alone: global batch", "minutes"]]
    for nodes in NODES:
        row = [str(nodes)]
        for gloo in (True, False):
            cluster = _sockets(inputs, 100, nodes, gloo=gloo)
            minutes, size = min((minutes_to_target(cluster, size, inputs), size) for size in GLOBAL_BATCH_SIZES)
            row += [str(size), f"{minutes:.1f}"]
        rows.append(row)
    return rows


def _machine_table(inputs: Inputs) -> list[list[str]]:
    rows = [["global batch", *(f"{ranks} ranks" for ranks in (2, 4, 8, 16, 32, 64))]]
    for size in (256, 1024, 4096):
        clusters = [machine_cluster(inputs, 10, ranks=ranks) for ranks in (2, 4, 8, 16, 32, 64)]
        rows.append([str(size), *(f"{efficiency(cluster, size, inputs):.3f}" for cluster in clusters)])
    return rows


def _balance_table() -> list[list[str]]:
    ranks = (2, 8, 16, 32, 64, 128)
    return [
        ["global batch", *(f"{count} ranks" for count in ranks)],
        *([str(size), *(f"{balance(count, size):.4f}" for count in ranks)] for size in (256, *GLOBAL_BATCH_SIZES)),
    ]


def render(results: Mapping[str, Any]) -> str:
    """Return the tables in Markdown."""
    sources = format_markdown([["Input", "Source"], *map(list, results["source"].items())])
    tables = (f"### {title}\n\n{format_markdown(rows)}" for title, rows in results["tables"].items())
    return "\n\n".join([sources, *tables])


def update(path: Path, text: str) -> None:
    """Replace the tables in a document, between the lines that mark their place."""
    document = path.read_text(encoding="utf-8")
    if document.count(START) != 1 or document.count(END) != 1:
        raise InputError(f"{path} must have the lines {START!r} and {END!r} exactly once, with the tables between them")
    before, after = document.split(START)[0], document.split(END)[1]
    with write_atomically(path) as file:
        file.write(f"{before}{START}\n\n{text}\n\n{END}{after}".encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables or update the document."""
    parser = argparse.ArgumentParser(description="a model of training on many sockets")
    parser.add_argument("--update", type=Path, metavar="FILE", help="replace the tables in a document")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    arguments = parser.parse_args(argv)
    results = measure()
    if arguments.update is not None:
        update(arguments.update, render(results))
    else:
        print(json.dumps(results, allow_nan=False) if arguments.json else render(results))
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
