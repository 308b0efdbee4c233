"""Every setting of a run: keyword-only dataclasses, checked when they are made, before any work starts."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert_large.architectures import ARCHITECTURES, BERT, Architecture
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
ACTIVATIONS = {"tanh": "gelu_pytorch_tanh", "erf": "gelu"}
"""The two forms of GELU, by the names Hugging Face gives them in `hidden_act`."""


def _require(problems: list[str], condition: bool, message: str) -> None:
    if not condition:
        problems.append(message)


def _raise_all(problems: list[str], what: str) -> None:
    if problems:
        raise InputError(f"{what}: " + "; ".join(problems))


_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
"""Fields of `ModelConfig` that every file must tell."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model's size and parts; the field names are those of `bert_config.json`. Defaults are BERT-large's."""

    vocab_size: int = 30522
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    hidden_act: str = ACTIVATIONS["tanh"]
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    """Segments told apart; 0: none are."""
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    architecture: str = BERT
    """Of `architectures.ARCHITECTURES`."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        _require(problems, self.architecture in ARCHITECTURES,
                 f"architecture is {self.architecture!r}, expected one of {', '.join(ARCHITECTURES)}")  # fmt: skip
        fixed_fields = {} if problems else self.traits.fixed_fields
        for name, expected in fixed_fields.items():
            value = getattr(self, name)
            _require(problems, value == expected, f"{name} is {value!r}, expected {expected} of {self.architecture}")
        for name in (*_SIZES, "max_position_embeddings"):
            value = getattr(self, name)
            _require(problems, isinstance(value, int) and value > 0, f"{name} is {value!r}, expected an integer > 0")
        _require(problems, self.hidden_act in ACTIVATIONS.values(),
                 f"hidden_act is {self.hidden_act!r}, expected one of {sorted(ACTIVATIONS.values())}")  # fmt: skip
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            value = getattr(self, name)
            _require(
                problems,
                isinstance(value, int | float) and 0 <= value < 1,
                f"{name} is {value!r}, expected 0 to below 1",
            )
        if not problems:
            heads = self.num_attention_heads
            _require(problems, self.hidden_size % heads == 0,
                     f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {heads}")  # fmt: skip
        _raise_all(problems, "model configuration")

    @property
    def traits(self) -> Architecture:
        """What the architecture has of BERT's parts, and its names."""
        return ARCHITECTURES[self.architecture]

    @classmethod
    def from_json(cls, path: Path, activation: str | None = None) -> ModelConfig:
        """Read Google's `bert_config.json` or a Hugging Face `config.json`, of the architecture that it names.

        In Google's format `gelu` means the tanh approximation (MLCommons' reference computes that); in Hugging
        Face's, which names a `model_type`, it means the erf form. `activation` ("tanh" or "erf") overrides both.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"model configuration {path} does not exist") from None
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"model configuration {path} is not readable JSON: {error}") from None
        if not isinstance(values, dict):
            raise InputError(f"model configuration {path} holds a {type(values).__name__}, expected an object")
        model_type = values.get("model_type", "bert")
        of_type = [name for name, its in ARCHITECTURES.items() if its.model_type == model_type]
        if not of_type:
            known = " or ".join(dict.fromkeys(repr(its.model_type) for its in ARCHITECTURES.values()))
            raise InputError(f"model configuration {path} is of model_type {model_type!r}, expected {known}")
        named = values.get("architectures")
        architecture = named[0] if isinstance(named, list) and named[:1] and named[0] in of_type else of_type[0]
        traits = ARCHITECTURES[architecture]
        keys = {field.name: traits.config_keys.get(field.name, field.name) for field in dataclasses.fields(cls)}
        missing = {keys[name] for name in _SIZES} - set(values)
        if missing:
            raise InputError(
                f"model configuration {path} lacks {', '.join(sorted(missing))}; is it a BERT configuration?"
            )
        chosen = {**traits.fixed_fields, **{name: values[key] for name, key in keys.items() if key in values},
                  "architecture": architecture}  # fmt: skip
        if activation is not None:
            chosen["hidden_act"] = ACTIVATIONS[activation]
        elif chosen.get("hidden_act") == ("gelu_new" if "model_type" in values else "gelu"):  # an older name of tanh
            chosen["hidden_act"] = ACTIVATIONS["tanh"]
        return cls(**chosen)

    def to_hugging_face(self) -> dict[str, Any]:
        """Return the contents of a `config.json` that `transformers` loads."""
        told = {name: value for name, value in dataclasses.asdict(self).items()
                if name != "architecture" and name not in self.traits.fixed_fields}  # fmt: skip
        return {"architectures": [self.architecture], "model_type": self.traits.model_type,
                **{self.traits.config_keys.get(name, name): value for name, value in told.items()},
                **self.traits.config_constants}  # fmt: skip


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
        _require(
            problems, self.optimizer in OPTIMIZERS, f"--optimizer is {self.optimizer!r}, expected one of {OPTIMIZERS}"
        )
        _require(problems, self.learning_rate > 0, f"--learning-rate is {self.learning_rate}, expected > 0")
        for name in ("beta_1", "beta_2"):
            value = getattr(self, name)
            _require(problems, 0 <= value < 1, f"--{name.replace('_', '-')} is {value}, expected 0 to below 1")
        _require(problems, self.epsilon > 0, f"--epsilon is {self.epsilon}, expected > 0")
        _require(problems, self.weight_decay >= 0, f"--weight-decay is {self.weight_decay}, expected >= 0")
        _require(problems, self.max_gradient_norm > 0, f"--max-gradient-norm is {self.max_gradient_norm}, expected > 0")
        _require(problems, self.total_steps > 0, f"--total-steps is {self.total_steps}, expected > 0")
        _require(problems, self.warmup_steps >= 0, f"--warmup-steps is {self.warmup_steps}, expected >= 0")
        _require(problems, self.decay_power > 0, f"--decay-power is {self.decay_power}, expected > 0")
        _raise_all(problems, "optimizer settings")


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
        _require(problems, self.max_seq_length > 0, f"--max-seq-length is {self.max_seq_length}, expected > 0")
        _require(problems, self.workers >= 0, f"--data-workers is {self.workers}, expected >= 0")
        _require(
            problems,
            self.bad_records in BAD_RECORDS,
            f"BAD_RECORDS (--bad-records) is {self.bad_records!r}, expected {' or '.join(BAD_RECORDS)}",
        )
        _require(
            problems,
            self.max_bad_records > 0,
            f"MAX_BAD_RECORDS (--max-bad-records) is {self.max_bad_records}, expected > 0",
        )
        _raise_all(problems, "data settings")

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
        _require(problems, self.phase in PHASE_SEQ_LENGTHS, f"--phase is {self.phase}, expected 1 or 2")
        for name in ("global_batch_size", "micro_batch_tokens", "max_steps", "max_samples", "eval_every_samples",
                     "eval_samples", "save_every", "keep_checkpoints", "max_bad_steps"):  # fmt: skip
            value = getattr(self, name)
            _require(problems, value is None or value > 0, f"--{name.replace('_', '-')} is {value}, expected > 0")
        _require(problems, self.detect_divergence is None or 0 < self.detect_divergence < math.inf,
                 f"--detect-divergence is {self.detect_divergence}, expected > 0 and finite")  # fmt: skip
        _require(problems, self.target_accuracy is None or 0 < self.target_accuracy <= 1,
                 f"--target-accuracy is {self.target_accuracy}, expected above 0, at most 1")  # fmt: skip
        _require(problems, self.stop_deadline >= 0, f"--stop-deadline is {self.stop_deadline}, expected >= 0")
        _require(problems, 0 <= self.seed < 1 << 63, f"--seed is {self.seed}, expected 0 to 2^63 - 1")
        _raise_all(problems, "training settings")
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
        _require(problems, 0 < self.bucket_mb < math.inf, f"--bucket-mb is {self.bucket_mb}, expected > 0 and finite")
        _require(
            problems,
            self.gradient_compression in GRADIENT_COMPRESSIONS,
            f"--gradient-compression is {self.gradient_compression!r}, expected one of {GRADIENT_COMPRESSIONS}",
        )
        _raise_all(problems, "settings of ranks")


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
            _require(problems, value in known, f"--mlperf-{name} is {value!r}, expected one of {', '.join(known)}")
        _raise_all(problems, "MLPerf settings")


def check_precision(name: str) -> None:
    """Refuse a precision that does not exist."""
    if name not in PRECISIONS:
        raise InputError(f"PRECISION (--precision) is {name!r}, expected one of {', '.join(PRECISIONS)}")


def reference_eval_every_samples(global_batch_size: int) -> int:
    """Return the samples between evaluations that the MLPerf BERT rules set for a global batch size."""
    return int(0.05 * (230.23 * global_batch_size + 3_000_000) / 25_000) * 25_000


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level: `{"model.hidden_size": 1024}`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
