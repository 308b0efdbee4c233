"""`bert-large bench scaling`: a model of training on many sockets, from measured inputs.

A step of global batch G on n ranks takes

    compute       G/n sequences at the rate of a rank alone, times balance: most work of a rank over the mean
    + exposed     what is left of summing gradients when the last micro-batch's backward pass is over
    + optimizer   clipping and LAMB, at memory speed; divided over ranks with zero1, which then sends weights about

Gradients are summed by a ring (Patarasuk and Yuan 2009): 2(n-1) messages of 1/n of the bytes each, one after the
other, at the lower of the network's rate and that at which the ranks' own code takes messages in and adds them. The
ring passes each node's network card once each way, however many ranks the node has. A sum is hidden behind the backward
pass but for the word embeddings, whose gradient is complete only at its very end. Weights go about in trees, a tree for
each owner: at best, every rank is busy passing all of them on once, or the owner of the most sending its own to all
branches.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bert_large.bench.optimizer import BYTES_PER_PARAMETER
from bert_large.bench.report import format_markdown
from bert_large.bench.synthetic import LengthHistogram, phase_lengths
from bert_large.config.model import ModelConfig
from bert_large.config.training import RanksConfig, reference_eval_every_samples
from bert_large.data.order import deal_to_ranks
from bert_large.errors import InputError
from bert_large.storage.atomic import write_atomically

INPUTS_FILE = Path(__file__).with_name("scaling_inputs.json")
PARAMETERS = 336_226_108
PHASE = 2
RANKS_PER_NODE = 2
NODES = (1, 2, 4, 8, 16, 32, 64)
GLOBAL_BATCH_SIZES = (2048, 4096, 8192)
NETWORKS_GBITS = (10, 25, 100, 200)
BACKWARD_SHARE = 2 / 3
"""Of forward and backward passes together: two of three matrix products."""
EVAL_SAMPLES = 10_000
SUMS_AT_ONCE = 2
"""Buckets that gloo sums at the same time: its threads."""
SAMPLES_TO_TARGET = {256: 2.55e6, 448: 2.41e6, 1536: 2.78e6, 3072: 2.76e6, 8192: 4.19e6}
"""Mean sequences to masked-LM accuracy 0.72 by global batch: MLCommons' reference convergence points."""
INTEL_MINUTES = {8: 85.9, 16: 47.3}
"""Intel's results on MLPerf BERT by nodes of two sockets, 4th-generation Xeon in bf16."""
INTEL_GLOBAL_BATCH_SIZE = 2048
"""With 8 nodes; that of 16 nodes is taken to be the same."""
START, END = "<!-- computed: bert-large bench scaling --update FILE -->", "<!-- end of what is computed -->"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What was measured or assumed; `scaling_inputs.json` says where it comes from."""

    source: Mapping[str, str]
    sum_bytes_per_second: float
    """Bytes of float32 gradients that two ranks sum in a second over gloo, nothing beside it."""
    bf16_sum_bytes_per_second: float
    """The same for float32 gradients rounded to bfloat16 on their way; the bytes are those of float32."""
    optimizer_over_bound: float
    clip_and_optimizer_over_bound: float
    """LAMB, and with clipping, over 40 bytes a parameter at copy bandwidth."""
    sequences_per_second: float
    """Of phase 2, 24 layers, on the measured machine."""
    copy_bytes_per_second: float
    """Of the measured machine, read and written."""
    socket_bytes_per_second: float
    """Assumed for a server's socket."""
    latency_seconds: float
    """Assumed for a message over TCP between two nodes."""
    micro_batch_tokens: int
    """Assumed for a server's socket."""

    @classmethod
    def read(cls, path: Path = INPUTS_FILE) -> Inputs:
        """Read the figures that come with the package."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Ranks, what each can do alone, and what connects them."""

    ranks: int
    sequences_per_second: float
    """Forward and backward passes of a rank alone."""
    memory_bytes_per_second: float
    network_bytes_per_second: float
    sum_bytes_per_second: float = math.inf
    """Of the ranks' own code for sums, if the network were no limit."""
    latency_seconds: float
    micro_batch_tokens: int
    bucket_mb: float = RanksConfig().bucket_mb
    gradient_bytes: int = 4
    """Of a parameter's gradient on its way."""
    zero1: bool = False


@dataclass(frozen=True)
class StepSeconds:
    """What a step's time is made of."""

    compute: float
    imbalance: float
    exposed: float
    optimizer: float
    summing: float
    """All of the sum of gradients; not a part of the step, as most of it is hidden."""

    @property
    def total(self) -> float:
        """The step."""
        return self.compute + self.imbalance + self.exposed + self.optimizer


@functools.cache
def _lengths() -> LengthHistogram:
    return phase_lengths(PHASE)


@functools.cache
def balance(ranks: int, global_batch_size: int, draws: int = 3) -> float:
    """Return the most tokens of a rank over the mean, on average over random global batches of real lengths."""
    counts = _lengths().counts
    generator = np.random.default_rng(0)
    ratios = []
    for _ in range(draws):
        lengths = generator.choice(len(counts), global_batch_size, p=counts / counts.sum()) + 1
        loads = [int(lengths[positions].sum()) for positions in deal_to_ranks(lengths, ranks)]
        ratios.append(max(loads) * ranks / sum(loads))
    return float(np.mean(ratios))


def sum_seconds(cluster: Cluster, parameters: float) -> float:
    """Return the time to sum the gradients of so many parameters over all ranks."""
    if cluster.ranks == 1:
        return 0.0
    turns = 2 * (cluster.ranks - 1)
    sent = parameters * cluster.gradient_bytes
    buckets = max(1.0, parameters * 4 / (cluster.bucket_mb * 2**20))
    rate = min(cluster.network_bytes_per_second, cluster.sum_bytes_per_second)
    return turns * (sent / cluster.ranks / rate + buckets * cluster.latency_seconds / SUMS_AT_ONCE)


def step_seconds(cluster: Cluster, global_batch_size: int, inputs: Inputs) -> StepSeconds:
    """Return what a step of phase 2 takes."""
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
    """Return the sequences to the target, between MLCommons' reference points by straight lines."""
    sizes = sorted(SAMPLES_TO_TARGET)
    return float(np.interp(global_batch_size, sizes, [SAMPLES_TO_TARGET[size] for size in sizes]))


def minutes_to_target(cluster: Cluster, global_batch_size: int, inputs: Inputs) -> float:
    """Return the time of a run to the target, evaluations by MLPerf's rule included; they are forward passes alone."""
    samples = samples_to_target(global_batch_size)
    training = samples / global_batch_size * step_seconds(cluster, global_batch_size, inputs).total
    evaluations = samples // reference_eval_every_samples(global_batch_size)
    one = EVAL_SAMPLES / cluster.ranks / cluster.sequences_per_second * (1 - BACKWARD_SHARE)
    return (training + evaluations * one) / 60


def calibrate(cluster: Cluster, minutes: float, global_batch_size: int, inputs: Inputs) -> Cluster:
    """Return the cluster with the rate of a rank alone with which the run takes so many minutes.

    Raises `InputError` if even ranks of endless speed would take longer.
    """
    low, high = 1e-3, 1e6
    if minutes_to_target(replace(cluster, sequences_per_second=high), global_batch_size, inputs) > minutes:
        raise InputError(f"no ranks are fast enough for {minutes} minutes: what does not depend on them takes longer")
    for _ in range(100):
        middle = math.sqrt(low * high)
        slow = minutes_to_target(replace(cluster, sequences_per_second=middle), global_batch_size, inputs) > minutes
        low, high = (middle, high) if slow else (low, middle)
    return replace(cluster, sequences_per_second=high)


def socket_cluster(inputs: Inputs, network_gbits: float, *, gloo: bool, ranks: int) -> Cluster:
    """Return sockets as fast as Intel's: with this network, eight nodes of them take the minutes that Intel's took."""
    template = Cluster(
        ranks=8 * RANKS_PER_NODE,
        sequences_per_second=1.0,
        memory_bytes_per_second=inputs.socket_bytes_per_second,
        network_bytes_per_second=network_gbits * 1e9 / 8,
        sum_bytes_per_second=inputs.sum_bytes_per_second if gloo else math.inf,
        latency_seconds=inputs.latency_seconds,
        micro_batch_tokens=inputs.micro_batch_tokens,
    )
    return replace(calibrate(template, INTEL_MINUTES[8], INTEL_GLOBAL_BATCH_SIZE, inputs), ranks=ranks)


def machine_cluster(inputs: Inputs, network_gbits: float, *, ranks: int) -> Cluster:
    """Return ranks that are each like the measured machine."""
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
    """Return the cluster with gradients rounded to bfloat16 on their way."""
    bf16_rate = math.inf if math.isinf(cluster.sum_bytes_per_second) else inputs.bf16_sum_bytes_per_second / 2
    return replace(cluster, gradient_bytes=2, sum_bytes_per_second=bf16_rate)


def efficiency(cluster: Cluster, global_batch_size: int, inputs: Inputs) -> float:
    """Return the share of a step in which a rank computes."""
    step = step_seconds(cluster, global_batch_size, inputs)
    return step.compute / step.total


def measure(inputs: Inputs | None = None) -> dict[str, Any]:
    """Return all tables: each a title and rows of text, the first their head."""
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
    rows = [
        ["network", "sequences/s a socket alone", "predicted for 16 nodes, minutes", "Intel's", "predicted over it"]
    ]
    for gbits in NETWORKS_GBITS:
        for gloo in (True, False):
            name = f"{gbits} Gbit/s, {'gloo' if gloo else 'network alone'}"
            try:
                cluster = socket_cluster(inputs, gbits, gloo=gloo, ranks=16 * RANKS_PER_NODE)
            except InputError:
                rows.append([name, "cannot be", "", "", ""])
                continue
            minutes = minutes_to_target(cluster, INTEL_GLOBAL_BATCH_SIZE, inputs)
            rows.append([name, f"{cluster.sequences_per_second:.1f}", f"{minutes:.1f}", f"{INTEL_MINUTES[16]}",
                         f"{minutes / INTEL_MINUTES[16]:.2f}"])  # fmt: skip
    return rows


def _reference_socket(inputs: Inputs) -> float:
    """Return the rate of a socket alone: Intel's, had their sums been limited by 100 Gbit/s alone."""
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
            "as it is": plain,
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


def render(figures: Mapping[str, Any]) -> str:
    """Return the tables in Markdown."""
    sources = format_markdown(
        [["Input", "Where it comes from"], *([name, its] for name, its in figures["source"].items())]
    )
    tables = (f"### {title}\n\n{format_markdown(rows)}" for title, rows in figures["tables"].items())
    return "\n\n".join([sources, *tables])


def update(path: Path, text: str) -> None:
    """Put the tables into a document, between the lines that mark their place."""
    document = path.read_text(encoding="utf-8")
    if document.count(START) != 1 or document.count(END) != 1:
        raise InputError(f"{path} does not have the lines {START!r} and {END!r} once each; the tables go between them")
    before, after = document.split(START)[0], document.split(END)[1]
    with write_atomically(path) as file:
        file.write(f"{before}{START}\n\n{text}\n\n{END}{after}".encode())
