"""Every setting of a run: keyword-only dataclasses, checked when they are made, before any work starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from bert_large.config.model import raise_all, require
from bert_large.errors import InputError

PHASE_SEQ_LENGTHS = {1: 128, 2: 512}
PHASE_PREDICTIONS = {1: 20, 2: 76}
"""Slots for masked tokens in MLCommons' records of each phase."""
PRECISIONS = ("fp32", "avx-fp32", "bf16", "bf32", "fp16")
OPTIMIZERS = ("lamb", "adamw")
GRADIENT_COMPRESSIONS = ("none", "bf16")
RANK_SILENCE_SECONDS = 20.0
"""Default of the time without a sign of life after which a rank is lost."""
RANK_TIMEOUT_SECONDS = 600.0
"""Default of the time that a rank may keep others waiting: slow disks take minutes for a checkpoint."""
BAD_RECORDS = ("stop", "skip")
MLPERF_DIVISIONS = ("closed", "open")
MLPERF_STATUSES = ("onprem", "cloud", "research")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and its rate schedule."""

    optimizer: str = "lamb"
    learning_rate: float
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    total_steps: int
    """Length of the rate schedule, in steps; the rate reaches 0 there."""
    warmup_steps: int = 0
    start_warmup_step: int = 0
    decay_power: float = 1.0

    def __post_init__(self) -> None:
        problems: list[str] = []
        require(
            problems, self.optimizer in OPTIMIZERS, f"--optimizer is {self.optimizer!r}, expected one of {OPTIMIZERS}"
        )
        require(problems, self.learning_rate > 0, f"--learning-rate is {self.learning_rate}, expected > 0")
        for name in ("beta_1", "beta_2"):
            value = getattr(self, name)
            require(problems, 0 <= value < 1, f"--{name.replace('_', '-')} is {value}, expected 0 to below 1")
        require(problems, self.epsilon > 0, f"--epsilon is {self.epsilon}, expected > 0")
        require(problems, self.weight_decay >= 0, f"--weight-decay is {self.weight_decay}, expected >= 0")
        require(problems, self.max_gradient_norm > 0, f"--max-gradient-norm is {self.max_gradient_norm}, expected > 0")
        require(problems, self.total_steps > 0, f"--total-steps is {self.total_steps}, expected > 0")
        require(problems, self.warmup_steps >= 0, f"--warmup-steps is {self.warmup_steps}, expected >= 0")
        require(problems, self.decay_power > 0, f"--decay-power is {self.decay_power}, expected > 0")
        raise_all(problems, "optimizer settings")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where records come from and how they are ordered."""

    dataset_dir: Path
    text_dir: Path | None = None
    """Text that the records in `dataset_dir` are made of before training; None: they are there."""
    eval_dir: Path | None = None
    max_seq_length: int
    """Token slots of the training records; checked against the shards."""
    shuffle: bool = True
    dynamic_masking: bool = False
    """Whether masks are drawn anew for each sample of each epoch, or are the training records' own."""
    workers: int = 1
    """Processes per rank that read and decode records ahead of training; 0 decodes in the training process."""
    bad_records: str = "stop"
    """Whether a damaged training record ends the run, or is skipped: the next good one of its shard takes its place."""
    max_bad_records: int = 100
    """With "skip": stop when more training records than these are bad."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        require(problems, self.max_seq_length > 0, f"--max-seq-length is {self.max_seq_length}, expected > 0")
        require(problems, self.workers >= 0, f"--data-workers is {self.workers}, expected >= 0")
        require(
            problems,
            self.bad_records in BAD_RECORDS,
            f"BAD_RECORDS (--bad-records) is {self.bad_records!r}, expected {' or '.join(BAD_RECORDS)}",
        )
        require(
            problems,
            self.max_bad_records > 0,
            f"MAX_BAD_RECORDS (--max-bad-records) is {self.max_bad_records}, expected > 0",
        )
        raise_all(problems, "data settings")

    @property
    def bad_records_allowed(self) -> int:
        """How many training records may be bad."""
        return self.max_bad_records if self.bad_records == "skip" else 0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to train, on what batches, how often to evaluate and save."""

    output_dir: Path
    phase: int
    precision: str = "fp32"
    engine: str = "auto"
    global_batch_size: int
    """Sequences per optimizer step, over all ranks."""
    micro_batch_tokens: int = 2048
    """Most tokens in one forward and backward pass of a rank; bounds the memory of activations."""
    max_steps: int
    max_samples: int | None = None
    target_accuracy: float | None = None
    """Stop when an evaluation's masked-LM accuracy reaches this."""
    eval_every_samples: int
    eval_samples: int | None = None
    """Evaluate on the first records only; None: on all."""
    eval_at_start: bool = False
    save_every: int
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    max_bad_steps: int = 5
    """Stop after so many steps in a row whose loss or gradient is not finite; fp16's loss scale ends runs itself."""
    detect_divergence: float | None = None
    """Stop when the running mean of the masked-LM loss is so many nats above its lowest value; None: never."""
    stop_deadline: float = 60.0
    """Seconds that the step in hand has to end in after SIGTERM or SIGINT; one that would take longer is dropped."""
    seed: int = 42
    benchmark: bool = False
    profile_steps: int = 0
    """Steps to profile, after the first few; 0: none."""
    resume: str = "auto"

    def __post_init__(self) -> None:
        problems: list[str] = []
        require(problems, self.phase in PHASE_SEQ_LENGTHS, f"--phase is {self.phase}, expected 1 or 2")
        for name in ("global_batch_size", "micro_batch_tokens", "max_steps", "max_samples", "eval_every_samples",
                     "eval_samples", "save_every", "keep_checkpoints", "max_bad_steps"):  # fmt: skip
            value = getattr(self, name)
            require(problems, value is None or value > 0, f"--{name.replace('_', '-')} is {value}, expected > 0")
        require(problems, self.detect_divergence is None or 0 < self.detect_divergence < math.inf,
                 f"--detect-divergence is {self.detect_divergence}, expected > 0 and finite")  # fmt: skip
        require(problems, self.target_accuracy is None or 0 < self.target_accuracy <= 1,
                 f"--target-accuracy is {self.target_accuracy}, expected above 0, at most 1")  # fmt: skip
        require(problems, self.stop_deadline >= 0, f"--stop-deadline is {self.stop_deadline}, expected >= 0")
        require(problems, 0 <= self.seed < 1 << 63, f"--seed is {self.seed}, expected 0 to 2^63 - 1")
        raise_all(problems, "training settings")
        check_precision(self.precision)


@dataclass(frozen=True, kw_only=True)
class RanksConfig:
    """How ranks share their work; without effect on one rank."""

    bucket_mb: float = 25.0
    """MiB of gradients that are summed over ranks together."""
    gradient_compression: str = "none"
    """Type that gradients are rounded to on their way."""
    zero1: bool = False
    """Whether each rank keeps optimizer state for its share of the parameters alone."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        require(problems, 0 < self.bucket_mb < math.inf, f"--bucket-mb is {self.bucket_mb}, expected > 0 and finite")
        require(
            problems,
            self.gradient_compression in GRADIENT_COMPRESSIONS,
            f"--gradient-compression is {self.gradient_compression!r}, expected one of {GRADIENT_COMPRESSIONS}",
        )
        raise_all(problems, "settings of ranks")


@dataclass(frozen=True, kw_only=True)
class MlperfConfig:
    """Where the MLPerf log goes, and what it says of the submission."""

    log: Path
    submitter: str = "unspecified"
    platform: str | None = None
    """None: the CPU's name."""
    division: str = "closed"
    status: str = "research"

    def __post_init__(self) -> None:
        problems: list[str] = []
        for name, known in (("division", MLPERF_DIVISIONS), ("status", MLPERF_STATUSES)):
            value = getattr(self, name)
            require(problems, value in known, f"--mlperf-{name} is {value!r}, expected one of {', '.join(known)}")
        raise_all(problems, "MLPerf settings")


def check_precision(name: str) -> None:
    """Refuse a precision that does not exist."""
    if name not in PRECISIONS:
        raise InputError(f"PRECISION (--precision) is {name!r}, expected one of {', '.join(PRECISIONS)}")


def reference_eval_every_samples(global_batch_size: int) -> int:
    """Return the samples between evaluations that the MLPerf BERT rules set for a global batch size."""
    return int(0.05 * (230.23 * global_batch_size + 3_000_000) / 25_000) * 25_000
