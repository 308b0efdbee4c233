"""Every setting of training and evaluation: keyword-only dataclasses that are checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bert_large.config.model import ACTIVATIONS
from bert_large.config.options import SMALLEST_FLOAT, Setting, check_fields, setting, settings_of
from bert_large.config.presets import CONFIGURATIONS

PHASE_SEQ_LENGTHS = {1: 128, 2: 512}
PHASE_PREDICTIONS = {1: 20, 2: 76}
"""Slots for masked tokens in MLCommons' records of each phase."""
MASKED_LM_PROB = 0.15
"""Fraction of a sequence's tokens that BERT predicts; special tokens are counted but never predicted."""
PRECISIONS = ("fp32", "avx-fp32", "bf16", "bf32", "fp16")
RANK_SILENCE_SECONDS = 20.0
RANK_TIMEOUT_SECONDS = 600.0
"""Long enough for a checkpoint on a slow disk, which takes minutes."""
STEPS_OF_TIME = 1_000_000_000
"""Length of the schedule of a run of hours, and more steps than it can train."""
BENCHMARK_STEPS = 60
"""Steps of a benchmark run, as in Intel's package."""
BENCHMARK_WARMUP_STEPS = 10
"""Steps left out of a summary's timing."""
PROFILE_STEPS = 3
"""Default number of steps to profile; a benchmark's are among those left out of its timing."""
MASKING_UNITS = "token", "word", "span"
SEQUENCES = "pairs", "packed"
"""What records hold: pairs of segments, or full sequences for masked LM alone."""
_COUNT = "[1, inf)"
_POSITIVE = f"[{SMALLEST_FLOAT}, inf)"
"""Numbers above 0 that training computes with in fp32."""
_SECONDS = "(0, 31536000]"
"""At most a year: larger numbers overflow the timers that they are given to."""


class Checked:
    """Settings that are checked when they are made."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """The model to train, and the vocabulary that belongs to it."""

    config_file: str | None = setting(
        None,
        "model configuration: a bert_config.json or config.json, or the name of a model",
        default_text="that of --checkpoint-dir",
        path="input",
        words=tuple(CONFIGURATIONS),
        aliases=("BERT_MODEL_CONFIG",),
    )
    checkpoint_dir: Path | None = setting(
        None,
        "model folder to start from: model_save or a published BERT, which may also be OWNER/NAME of a model of the "
        "hub; an empty folder in phase 1 means new weights",
        default_text="new weights",
        path="input",
        aliases=("PRETRAINED_MODEL",),
    )
    vocab_file: Path | None = setting(
        None,
        "vocab.txt to check against the model and to save with it; sets vocab_size of a named model",
        default_text="that of --checkpoint-dir; with --text-dir, trained from the text",
        path="input",
    )
    extend_vocab: int = setting(
        0, "tokens to train on --text-dir and to add to the vocabulary of --checkpoint-dir", within="[0, 1000000]"
    )
    do_lower_case: bool | None = setting(
        None,
        "whether the records' text is lowercase; saved with the model, and applied to --text-dir",
        default_text="as the vocabulary or tokenizer_config.json beside it says; true where one is trained",
    )
    strip_accents: bool | None = setting(
        None,
        "whether accents are stripped from the records' text",
        default_text="as DO_LOWER_CASE if that is set, otherwise found in the same way",
    )
    masked_lm_only: bool = setting(
        False,
        "train without the next-sentence head, its loss and its metrics; with --text-dir, on packed sequences",
        deferred=True,
    )
    gelu: str | None = setting(
        None, "form of GELU", choices=tuple(sorted(ACTIVATIONS)), default_text="as the configuration says"
    )


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Checked):
    """The optimizer and its learning-rate schedule."""

    optimizer: str = setting("lamb", "optimizer", choices=("lamb", "adamw"), deferred=True)
    learning_rate: float = setting(
        text="peak learning rate", within=_POSITIVE, default_text="that of the recipe", deferred=True
    )
    beta_1: float = setting(0.9, "decay of the first moment", within="[0, 1)", deferred=True)
    beta_2: float = setting(0.999, "decay of the second moment", within="[0, 1)", deferred=True)
    epsilon: float = setting(1e-6, "added to the root of the second moment", within=_POSITIVE, deferred=True)
    weight_decay: float = setting(0.01, "decoupled weight decay", within="[0, inf)", deferred=True)
    max_gradient_norm: float = setting(
        1.0, "gradients are clipped to this global norm", within=_POSITIVE, deferred=True
    )
    total_steps: int = setting(
        text="length of the learning-rate schedule; set it if you will raise --max-steps later",
        unit="steps",
        within=_COUNT,
        default_text="--max-steps",
        deferred=True,
    )
    schedule: str = setting(
        "polynomial",
        "learning-rate schedule: polynomial decay from step 0 as in MLCommons' reference, linear or cosine decay after "
        "the warmup, wsd (warmup, stable, decay), or one-cycle",
        choices=("polynomial", "linear", "cosine", "wsd", "one-cycle"),
        deferred=True,
    )
    warmup_steps: int = setting(
        0, "length of the warmup; its peak with one-cycle", unit="steps", within="[0, inf)", deferred=True
    )
    warmup_fraction: float | None = setting(
        None,
        "length of the warmup as a fraction of the schedule, in place of --warmup-steps",
        within="[0, 1)",
        default_text="that of --warmup-steps; 0.3 with one-cycle",
        deferred=True,
    )
    start_warmup_step: int = setting(
        0, "step at which the warmup starts; a negative one is before the run", within="(-inf, 0]", deferred=True
    )
    decay_power: float = setting(1.0, "power of the polynomial decay", within="(0, inf)", deferred=True)
    decay_fraction: float = setting(0.2, "fraction of the schedule in which wsd decays", within="(0, 1]", deferred=True)


@dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """Where records come from and how they are ordered."""

    dataset_dir: Path = setting(
        text="folder with seq_128/ and seq_512/, or folder of shards", path="input", alternative="text_dir"
    )
    text_dir: Path | None = setting(
        None,
        "folder of text, as for `bert-large corpus`, of which OUTPUT_DIR/records is made first; some articles are held "
        "out for evaluation",
        path="input",
    )
    eval_dir: Path | None = setting(
        None,
        "held-out records, or none",
        default_text="eval/ in the dataset folder, if it exists",
        path="input",
        words=("none",),
    )
    max_seq_length: int = setting(
        text="token slots of the records", within="[1, 65536]", default_text="128; phase 2: 512", deferred=True
    )
    shuffle: bool = setting(True, "train on records in file order", option="no-shuffle")
    sequences: str | None = setting(
        None,
        "what the records hold, and what is made of --text-dir: pairs of segments, or full sequences without pairs",
        choices=SEQUENCES,
        default_text="as the records are; with --text-dir, pairs, or packed if there is no next-sentence head",
        deferred=True,
    )
    shuffle_window: float = setting(
        1.0,
        "data whose records are shuffled with each other in the first epoch, in whole shards; training starts when the "
        "first window is indexed. 0: all data",
        unit="GB",
        within="[0, 1000000]",
    )
    index_dir: Path | None = setting(
        None,
        "folder for the index of the records, which all runs on the same data share",
        default_text="beside the data, or else in ~/.cache/bert-large",
        path="output",
    )
    dynamic_masking: bool = setting(
        False,
        "draw new masks in every epoch instead of using the records' masks; needs the records' vocabulary",
        deferred=True,
    )
    masking_rate: float = setting(
        MASKED_LM_PROB, "share of a sequence's tokens that --dynamic-masking masks", within="(0, 1)", deferred=True
    )
    masking_unit: str = setting(
        "token",
        "what --dynamic-masking chooses: single tokens, whole words, or spans of up to ten words",
        choices=MASKING_UNITS,
        deferred=True,
    )
    workers: int = setting(
        1,
        "processes per rank that read and decode records ahead of training; 0: the training process itself",
        option="data-workers",
        within="[0, 1024]",
    )
    bad_records: str = setting(
        "stop",
        "what a bad training record does: end the run, or be replaced by the next good record of its shard",
        choices=("stop", "skip"),
    )
    max_bad_records: int = setting(100, "largest number of training records to skip", within=_COUNT)

    @property
    def bad_records_allowed(self) -> int:
        """Number of training records that may be bad."""
        return self.max_bad_records if self.bad_records == "skip" else 0


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Checked):
    """How to compute, how long to train, on what batches, how often to evaluate and save."""

    output_dir: Path = setting(text="folder for logs, checkpoints/ and model_save/; one per run", path="output")
    phase: int = setting(1, "1: 128 tokens, 2: 512 tokens", within="[1, 2]", variable="")
    precision: str = setting("fp32", "precision of matrix products", choices=PRECISIONS)
    engine: str = setting(
        "auto",
        "native: C++ kernels; eager: plain PyTorch; ipex: Intel Extension for PyTorch; auto: the fastest available",
        choices=("auto", "native", "eager", "ipex"),
    )
    global_batch_size: int = setting(
        text="sequences per optimizer step, over all ranks",
        within="[1, 1048576]",
        default_text="that of the recipe",
        deferred=True,
        variable="BATCH_SIZE",
        aliases=("batch_size",),
    )
    micro_batch_tokens: int = setting(
        2048,
        "largest number of tokens in one forward and backward pass of a rank; bounds memory, does not change results",
        within="[1, 16777216]",
        deferred=True,
    )
    max_steps: int = setting(
        text="optimizer steps to train", within=_COUNT, default_text="that of the recipe", deferred=True
    )
    max_hours: float | None = setting(
        None,
        "train for this time, interruptions not counted, in place of --max-steps; the schedule has the same length",
        unit="hours",
        within="(0, 87600]",
        default_text="no limit",
        deferred=True,
    )
    start_batch_size: int | None = setting(
        None,
        "sequences of the first step, from which the batch grows linearly to --global-batch-size",
        within="[1, 1048576]",
        default_text="--global-batch-size",
        deferred=True,
    )
    batch_ramp_steps: int = setting(
        0, "steps over which the batch grows from --start-batch-size", within="[0, 1000000]", deferred=True
    )
    max_samples: int | None = setting(None, "stop after this many sequences", within=_COUNT, deferred=True)
    target_accuracy: float | None = setting(
        None, "stop when an evaluation's masked-LM accuracy reaches this", within="(0, 1]", deferred=True
    )
    eval_every_samples: int = setting(
        text="sequences between evaluations; a shorter run has none",
        within=_COUNT,
        default_text="MLPerf's rule for the global batch size",
        deferred=True,
    )
    eval_samples: int | None = setting(
        None, "evaluate on this many records, the first ones", within=_COUNT, default_text="all", deferred=True
    )
    eval_at_start: bool = setting(False, "evaluate before the first step too", deferred=True)
    save_every: int = setting(100, "steps between checkpoints", within=_COUNT, deferred=True)
    keep_checkpoints: int = setting(2, "number of checkpoints to keep", within=_COUNT, deferred=True)
    max_bad_steps: int = setting(
        5,
        "stop after this many steps in a row whose loss or gradient is not finite; fp16's loss scale stops runs itself",
        within=_COUNT,
        deferred=True,
    )
    detect_divergence: float | None = setting(
        None,
        "stop when the masked-LM loss, averaged over about 100 steps, exceeds its lowest value by this",
        unit="nats",
        within="(0, inf)",
        default_text="never",
        deferred=True,
    )
    stop_deadline: float = setting(
        60.0,
        "time after SIGTERM or SIGINT in which the current step must end; a slower one is discarded",
        unit="seconds",
        within="[0, 31536000]",
        deferred=True,
    )
    seed: int = setting(42, "seed of weights, sample order, dropout and new masks", within="[0, inf)", deferred=True)
    benchmark: bool = setting(
        False, f"measure throughput over {BENCHMARK_STEPS} steps, or --max-steps if given; saves nothing"
    )
    profile_steps: int = setting(
        0,
        "number of steps to profile",
        within="[0, 1000]",
        default_text=f"{PROFILE_STEPS} with --profile",
        deferred=True,
    )
    resume: str = setting(
        "auto",
        "auto: continue from the last intact checkpoint; never: refuse a folder that holds a run; or a checkpoint's "
        "folder to start from",
        path="input",
        words=("auto", "never"),
    )

    @property
    def planned_steps(self) -> int | None:
        """Number of steps to train; None for a run of hours, which does not know it."""
        return self.max_steps if self.max_hours is None else None


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Settings of `bert-large pretrain` that decide others or are used only while a run starts."""

    recipe: str = setting("intel", "named set of hyperparameters, see `bert-large recipes`")
    profile: bool = setting(False, "trace some steps after the first three and log where their time goes", variable="")
    mlflow: bool = setting(
        False, "also log settings and metrics to MLflow, at MLFLOW_TRACKING_URI; needs the extra mlflow"
    )


@dataclass(frozen=True, kw_only=True)
class RanksConfig(Checked):
    """How ranks share their work; without effect on one rank."""

    bucket_mb: float = setting(25.0, "size of the gradient buckets that are reduced together", unit="MiB",
                               within="(0, 65536]")  # fmt: skip
    gradient_compression: str = setting(
        "none", "type to which gradients are rounded for communication", choices=("none", "bf16")
    )
    zero1: bool = setting(False, "shard the optimizer state across ranks (ZeRO-1)")


@dataclass(frozen=True, kw_only=True)
class Communication:
    """How ranks find out about each other's failures, and by which backend they communicate."""

    backend: str | None = setting(
        None,
        "communication backend of several ranks",
        choices=("ccl", "mpi", "gloo"),
        default_text="the faster of ccl and gloo where oneCCL is installed, else gloo",
    )
    rank_silence: float = setting(
        RANK_SILENCE_SECONDS, "time without a sign of life from a rank after which the others end", unit="seconds",
        within=_SECONDS,
    )  # fmt: skip
    rank_timeout: float = setting(
        RANK_TIMEOUT_SECONDS, "time for which a rank may keep others waiting, alive but without progress",
        unit="seconds", within=_SECONDS,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MlperfConfig(Checked):
    """Where the MLPerf log goes, and its description of the submission."""

    log: Path = setting(
        text="file for the run's MLPerf log, such as result_0.txt", option="mlperf-log", default_text="none",
        deferred=True,
    )  # fmt: skip
    submitter: str = setting("unspecified", "submission_org of the log", option="mlperf-submitter")
    platform: str | None = setting(
        None, "submission_platform of the log", option="mlperf-platform", default_text="the CPU's name"
    )
    division: str = setting("closed", "division of the log", option="mlperf-division", choices=("closed", "open"))
    status: str = setting(
        "research", "status of the log", option="mlperf-status", choices=("onprem", "cloud", "research")
    )


RECIPE_CONFIGS = (TrainConfig, OptimConfig, DataConfig, ModelSource)
RECIPE_SETTINGS: dict[str, Setting] = {
    item.name: item
    for config in RECIPE_CONFIGS
    for item in settings_of(config)
    if item.deferred and item.name != "profile_steps"
}
"""Settings that a recipe may hold."""


def reference_eval_every_samples(global_batch_size: int) -> int:
    """Return the samples between evaluations that the MLPerf BERT rules set for a global batch size."""
    return int(0.05 * (230.23 * global_batch_size + 3_000_000) / 25_000) * 25_000
