"""A training run from start to end: check everything, build everything, loop, and leave the results."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import platform
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

import bert_large
from bert_large.config import DataConfig, MlperfConfig, ModelConfig, OptimConfig, TrainConfig
from bert_large.data.dataset import Dataset, find_training_folder
from bert_large.data.loader import StepBatches, iterate_steps
from bert_large.data.order import SampleOrder
from bert_large.distributed.environment import Ranks, join_ranks, leave_ranks
from bert_large.engines import check_engine, resolve_engine
from bert_large.engines.precision import apply_precision
from bert_large.errors import InputError, UserError
from bert_large.files import remove_partial_files, require_free_bytes
from bert_large.folder_lock import FolderLock
from bert_large.model.bert import BertForPreTraining
from bert_large.model.operations import Operations
from bert_large.observe.allocator import describe_allocator
from bert_large.observe.console import LOGGER, log_to_file_only, start_logging
from bert_large.observe.metrics import MetricsWriter, read_rows, read_steps
from bert_large.observe.mlperf import RunTimes, check_log, milliseconds_now
from bert_large.observe.observer import Observer
from bert_large.observe.results import summarize, write_results
from bert_large.optim.build import build_optimizer, build_schedule
from bert_large.train import checkpoint, run_folder
from bert_large.train.evaluate import evaluate
from bert_large.train.inputs import DATA_INDEX, open_eval_data, open_training_data, resolve_model_config, resolve_vocab
from bert_large.train.loop import TrainingLoop
from bert_large.train.mlperf import forget_records, open_log
from bert_large.train.settings import (
    BENCHMARK_WARMUP_STEPS,
    Resolved,
    describe_settings,
    resolve,
    resolve_arguments,
    resolve_mlperf,
)
from bert_large.train.step import StepRunner
from bert_large.train.stopping import StopRequest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """The checked settings of a run."""

    data: DataConfig
    optim: OptimConfig
    train: TrainConfig
    model: ModelConfig
    initial_weights: Path | None
    vocab_file: Path | None
    mlperf: MlperfConfig | None
    settings: Mapping[str, Resolved]
    """What `optim`, `train` and the sequence length were made of, and where each comes from."""


def pretrain(arguments: argparse.Namespace, stop_request: StopRequest) -> int:
    """Run `bert-large pretrain`; returns its exit code."""
    run = check_settings(arguments)
    ranks = join_ranks(arguments.backend)
    try:
        if run.train.global_batch_size < ranks.world_size:
            raise InputError(
                f"--global-batch-size is {run.train.global_batch_size}, expected one sequence a rank at least; "
                f"there are {ranks.world_size} ranks"
            )
        with _lock_output_dir(run.train.output_dir, ranks):
            start_logging(run.train.output_dir / "train.log" if ranks.is_main else None)
            return _train(run, ranks, stop_request)
    except UserError as error:
        log_to_file_only(f"error: {error}")
        raise
    finally:
        leave_ranks(ranks)


def _lock_output_dir(folder: Path, ranks: Ranks) -> contextlib.AbstractContextManager[object]:
    """Make the output folder and take its lock, on one rank; raises `InputError` on all when that cannot be."""
    lock: FolderLock | None = None
    error: UserError | None = None
    if ranks.is_main:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FolderLock(folder, "OUTPUT_DIR", LOGGER.warning)
            for place in (folder, folder / DATA_INDEX):
                remove_partial_files(place)
        except OSError as found:
            error = InputError(f"OUTPUT_DIR {folder} cannot be made: {found.strerror}")
        except UserError as found:
            error = found
    ranks.raise_together(error)
    return lock or contextlib.nullcontext()


def check_settings(arguments: argparse.Namespace) -> Run:
    """Check all that can be checked without reading the records."""
    data, optim, train = resolve(arguments)
    mlperf = resolve_mlperf(arguments, data, optim, train)
    if mlperf is not None:
        check_log(mlperf.log, train.output_dir)
    check_engine(train.engine, train.precision)
    model = resolve_model_config(arguments.config_file, arguments.checkpoint_dir, arguments.gelu)
    find_training_folder(data.dataset_dir, data.max_seq_length)
    return Run(
        data=data,
        optim=optim,
        train=train,
        model=model,
        initial_weights=Path(arguments.checkpoint_dir) if arguments.checkpoint_dir is not None else None,
        vocab_file=resolve_vocab(arguments.vocab_file, arguments.checkpoint_dir, model),
        mlperf=mlperf,
        settings=resolve_arguments(arguments),
    )


def _train(run: Run, ranks: Ranks, stop_request: StopRequest) -> int:
    engine, engine_line = resolve_engine(run.train.engine, run.train.precision)
    versions = (bert_large.__version__, torch.__version__, platform.python_version())
    LOGGER.info("bert-large %s, torch %s, Python %s; %s", *versions, ranks.describe())
    for line in ranks.describe_bindings():
        LOGGER.info(line)
    LOGGER.info(engine_line)
    LOGGER.info(describe_allocator())
    init_start = milliseconds_now()
    if run.mlperf is not None:
        forget_records(run.data, ranks)
    times = RunTimes(init_start=init_start, run_start=milliseconds_now())
    dataset = open_training_data(run.data, run.train, run.model, ranks)
    index_dir = run.train.output_dir / DATA_INDEX
    eval_dataset = None
    if run.data.eval_dir is not None:
        eval_dataset = open_eval_data(run.data.eval_dir, index_dir, run.model, ranks)
    identity = run_folder.run_identity(run.model, run.data, run.optim, run.train, dataset.fingerprint())
    resume_from = _claim_folder(run.train, identity, ranks)
    ended = run_folder.reason_ended(run.train)
    if ended is not None:
        LOGGER.info("nothing to do: the run in %s has ended: %s", run.train.output_dir, ended)
        return 0
    loop = _build_loop(run, ranks, engine, dataset, eval_dataset, identity, resume_from, stop_request, times)
    stop_request.defer(run.train.stop_deadline)
    reason = loop.run()
    LOGGER.info("training ended: %s", reason)
    for observer in loop.observers:
        observer.close()
    if ranks.is_main:
        _leave_results(run, loop, reason)
    ranks.wait_for_all()
    return 128 + loop.stop_signal if loop.stop_signal else 0


def _build_loop(
    run: Run,
    ranks: Ranks,
    engine: Operations,
    dataset: Dataset,
    eval_dataset: Dataset | None,
    identity: Mapping[str, Any],
    resume_from: Path | None,
    stop_request: StopRequest,
    times: RunTimes,
) -> TrainingLoop:
    start = checkpoint.read_state(resume_from)[0] if resume_from else checkpoint.Progress()
    step_batches = StepBatches(
        dataset=dataset,
        order=SampleOrder(len(dataset), run.train.seed, run.data.shuffle),
        global_batch_size=run.train.global_batch_size,
        micro_batch_tokens=run.train.micro_batch_tokens,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    # The loader's processes start before the weights exist, so as not to hold copies of their memory.
    batches = iterate_steps(step_batches, start.step, run.train.max_steps, run.data.workers)
    precision = apply_precision(run.train.precision)
    model = BertForPreTraining(run.model, engine)
    optimizer = build_optimizer(model, run.optim, engine.lamb)
    _load_weights(run, model, optimizer, resume_from)
    _require_room(run.train, model, ranks)
    _log_settings(run, model)
    evaluation = None
    if eval_dataset is not None:
        evaluation = partial(
            evaluate,
            model,
            eval_dataset,
            ranks=ranks,
            precision=precision,
            micro_batch_tokens=run.train.micro_batch_tokens,
            samples=run.train.eval_samples,
            is_stop_asked=lambda: stop_request.signal_number > 0,
        )
    runner = StepRunner(
        model=model,
        optimizer=optimizer,
        schedule=build_schedule(run.optim),
        ranks=ranks,
        precision=precision,
        global_batch_size=run.train.global_batch_size,
        max_gradient_norm=run.optim.max_gradient_norm,
        seed=run.train.seed,
        loss_scale=start.loss_scale,
        stop_request=stop_request,
    )
    return TrainingLoop(
        config=run.train,
        runner=runner,
        ranks=ranks,
        batches=batches,
        evaluate=evaluation,
        observers=_open_observers(run, ranks, start, step_batches, eval_dataset, times),
        identity=identity,
        stop_request=stop_request,
        start_step=start.step,
        evaluate_first=start.evaluation_due or (run.train.eval_at_start and start.step == 0),
        start_accuracy=start.masked_lm_accuracy,
    )


def _open_observers(
    run: Run,
    ranks: Ranks,
    start: checkpoint.Progress,
    step_batches: StepBatches,
    eval_dataset: Dataset | None,
    times: RunTimes,
) -> list[Observer]:
    """Open what is told of the run: nothing but on the main rank."""
    observers: list[Observer] = []
    error = None
    if ranks.is_main:
        try:
            observers.append(MetricsWriter(run.train.output_dir, start.step, start.evaluation_due))
            if run.mlperf is not None and eval_dataset is not None:
                log = open_log(
                    run.mlperf,
                    run.optim,
                    run.train,
                    step_batches=step_batches,
                    eval_dataset=eval_dataset,
                    first_samples=start.step * run.train.global_batch_size,
                    times=times,
                )
                observers.append(log)
        except UserError as found:
            error = found
    ranks.raise_together(error)
    return observers


def _claim_folder(train: TrainConfig, identity: Mapping[str, Any], ranks: Ranks) -> Path | None:
    """Claim the output folder on one rank, and return the checkpoint to resume from on all."""
    chosen, error = None, None
    if ranks.is_main:
        try:
            chosen = run_folder.claim(train, identity)
        except UserError as found:
            error = found
    ranks.raise_together(error)
    text = ranks.broadcast_text("" if chosen is None else str(chosen))
    return Path(text) if text else None


def _load_weights(
    run: Run, model: BertForPreTraining, optimizer: torch.optim.Optimizer, resume_from: Path | None
) -> None:
    if resume_from is not None:
        progress = checkpoint.load_checkpoint(resume_from, model, optimizer)
        LOGGER.info("resuming after step %d from %s", progress.step, resume_from)
    elif run.initial_weights is not None:
        checkpoint.load_model(run.initial_weights, model)
        LOGGER.info("starting from the weights of %s", run.initial_weights)
    else:
        model.initialize(run.train.seed)
        LOGGER.info("starting from random weights, seed %d", run.train.seed)


def _require_room(train: TrainConfig, model: BertForPreTraining, ranks: Ranks) -> None:
    """Refuse to train what there is no room to save: a checkpoint is written before an older one is deleted."""
    error = None
    if ranks.is_main and not train.benchmark:
        try:
            require_free_bytes(TrainingLoop.checkpoints_folder(train.output_dir), checkpoint.bytes_to_save(model))
        except UserError as found:
            error = found
    ranks.raise_together(error)


def _log_settings(run: Run, model: BertForPreTraining) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    LOGGER.info("model: %d parameters; %s", parameters, run.model)
    LOGGER.info("data: %s", run.data)
    for line in describe_settings(run.settings):
        LOGGER.info("settings %s", line)


def _leave_results(run: Run, loop: TrainingLoop, reason: str) -> None:
    """Write the summary, and the model unless the run was interrupted or only measured."""
    train = run.train
    # None where the run has come to its end before, but was killed before it left its results.
    metrics = train.output_dir / "metrics.jsonl"
    steps = loop.steps or (read_steps(metrics) if metrics.exists() else [])
    if steps:
        evaluations = read_rows(metrics, "eval")
        accuracy = evaluations[-1]["masked_lm_accuracy"] if evaluations else None
        summary = summarize(steps, train.global_batch_size, BENCHMARK_WARMUP_STEPS, accuracy)
        LOGGER.info(summary.throughput_line())
        write_results(
            train.output_dir,
            summary,
            phase=train.phase,
            precision=train.precision,
            global_batch_size=train.global_batch_size,
        )
    if loop.stop_signal or train.benchmark:
        return
    folder = train.output_dir / "model_save"
    checkpoint.save_model(folder, loop.runner.model, run.model, run.vocab_file)
    run_folder.mark_ended(train, reason)
    LOGGER.info("model saved in %s", folder)
