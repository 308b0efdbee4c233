"""Builds the objects of a training run from its checked settings."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from bert_large.config.recipes import describe_settings
from bert_large.config.training import TrainConfig
from bert_large.data.loader import StepBatches, iterate_steps
from bert_large.data.order import SampleOrder
from bert_large.distributed.collectives import Ranks
from bert_large.distributed.gradients import GradientSum
from bert_large.distributed.sharding import ParameterShards
from bert_large.engines.precision import apply_precision
from bert_large.log import LOGGER
from bert_large.model import pretrained
from bert_large.model.bert import BertForPreTraining
from bert_large.model.operations import Operations
from bert_large.observe.metrics_writer import MetricsWriter
from bert_large.observe.mlflow import MlflowLogger
from bert_large.observe.mlperf import RunTimes
from bert_large.observe.observer import Observer
from bert_large.optim.build import build_optimizer, build_schedule
from bert_large.storage.atomic import require_free_bytes
from bert_large.train import checkpoint
from bert_large.train.cadence import Cadence
from bert_large.train.checked import Run
from bert_large.train.clock import TrainingClock
from bert_large.train.datasets import RunData
from bert_large.train.evaluate import evaluate
from bert_large.train.indexing import WINDOWS_FILE, BackgroundIndexing, RecordChecks, open_first_step
from bert_large.train.loop import TrainingLoop
from bert_large.train.mlperf import open_log
from bert_large.train.profile import StepProfiler
from bert_large.train.run_folder import CHECKPOINTS, Start
from bert_large.train.saving import CheckpointSaver
from bert_large.train.step import StepRunner
from bert_large.train.stopping import StopRequest


def build_batches(run: Run, data: RunData, ranks: Ranks) -> StepBatches:
    """Return this rank's micro-batches of every step."""
    return StepBatches(
        dataset=data.training,
        order=SampleOrder(
            data.training if data.training.window_count > 1 else len(data.training), run.train.seed, run.data.shuffle
        ),
        batch_sizes=Cadence(run.train).batch_sizes,
        micro_batch_tokens=run.train.micro_batch_tokens,
        rank=ranks.rank,
        world_size=ranks.world_size,
        max_bad_records=run.data.bad_records_allowed,
        masking=data.masking,
    )


def build_loop(
    run: Run, ranks: Ranks, engine: Operations, data: RunData, start: Start, stop_request: StopRequest, times: RunTimes,
    background: BackgroundIndexing | None = None,
) -> TrainingLoop:  # fmt: skip
    """Return the loop, and carry out the start in the output folder once nothing else can refuse the run.

    The order matters. The loader's processes start before the weights exist, so that they hold no copies of them. The
    weights, the free disk space and the MLPerf log are checked before the folder changes: a run that is refused must
    not have deleted checkpoints or metrics.
    """
    step_batches = build_batches(run, data, ranks)
    open_first_step(step_batches, start.state.step, ranks)
    bad_records: list[str] = []
    batches = iterate_steps(step_batches, start.state.step, run.train.max_steps, run.data.workers, bad_records.append)
    clock = TrainingClock(run.train.max_hours, start.state.seconds or 0.0)
    runner = build_runner(run, ranks, engine, start, stop_request, clock)
    _require_free_space(run.train, runner.model, ranks)
    _log_settings(run, runner.model)
    observers = _open_observers(run, ranks, start, step_batches, data, times)
    if run.train.profile_steps:
        profiler = StepProfiler(
            folder=run.train.output_dir / "profile",
            steps=run.train.profile_steps,
            start_step=start.state.step,
            runner=runner,
        )
        batches = profiler.watch(batches)
        observers.insert(0, profiler)
    saver = None
    if not run.train.benchmark:
        saver = CheckpointSaver(
            run.train.output_dir / CHECKPOINTS,
            keep=run.train.keep_checkpoints,
            runner=runner,
            ranks=ranks,
            identity=start.identity,
            start_step=start.state.step,
        )
    return TrainingLoop(
        config=run.train,
        runner=runner,
        ranks=ranks,
        batches=batches,
        start=start.state,
        stop_request=stop_request,
        clock=clock,
        evaluate=_build_evaluation(run, ranks, runner, data, stop_request),
        saver=saver,
        observers=observers,
        describe_samples=step_batches.describe_samples,
        check_records=RecordChecks(
            step_batches,
            ranks,
            bad_records,
            background,
            None if run.train.benchmark else run.train.output_dir / WINDOWS_FILE,
        ),
    )


def build_runner(
    run: Run, ranks: Ranks, engine: Operations, start: Start, stop_request: StopRequest, clock: TrainingClock
) -> StepRunner:
    """Return the step runner, with the model's weights and the optimizer's state loaded or initialized."""
    precision = apply_precision(run.train.precision)
    model = BertForPreTraining(run.model, engine)
    shards = ParameterShards(model, ranks) if run.ranks.zero1 and ranks.world_size > 1 else None
    optimizer = build_optimizer(model, run.optim, engine.lamb, None if shards is None else shards.owned)
    _load_weights(run, model, optimizer, start.resume_from, ranks)
    return StepRunner(
        model=model,
        optimizer=optimizer,
        schedule=build_schedule(run.optim, None if run.train.max_hours is None else clock.share),
        ranks=ranks,
        precision=precision,
        batch_sizes=Cadence(run.train).batch_sizes,
        max_gradient_norm=run.optim.max_gradient_norm,
        seed=run.train.seed,
        loss_scale=start.state.loss_scale,
        gradient_sum=GradientSum(bucket_mb=run.ranks.bucket_mb, compression=run.ranks.gradient_compression),
        shards=shards,
        max_bad_steps=run.train.max_bad_steps,
        skipped=start.state.skipped,
        stop_request=stop_request,
    )


def _load_weights(
    run: Run, model: BertForPreTraining, optimizer: torch.optim.Optimizer, resume_from: Path | None, ranks: Ranks
) -> None:
    ranks.note("loading or initializing weights")
    if resume_from is not None:
        state = checkpoint.load_checkpoint(resume_from, model, optimizer, ranks)
        LOGGER.info("resuming after step %d from %s", state.step, resume_from)
    elif run.initial_weights is not None:
        with ranks.failing_together():
            pretrained.load_to_train(run.initial_weights, model, run.train.seed, run.vocab_file)
        LOGGER.info("starting from the weights of %s", run.initial_weights)
    else:
        model.initialize(run.train.seed)
        LOGGER.info("starting from random weights, seed %d", run.train.seed)


def _require_free_space(train: TrainConfig, model: BertForPreTraining, ranks: Ranks) -> None:
    """Refuse a run whose checkpoints do not fit: each is written before an older one is deleted."""
    with ranks.failing_together():
        if ranks.is_main and not train.benchmark:
            needed_bytes = checkpoint.bytes_to_save(pretrained.weights_of(model))
            require_free_bytes(train.output_dir / CHECKPOINTS, needed_bytes)


def _log_settings(run: Run, model: BertForPreTraining) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    LOGGER.info("model: %d parameters; %s; %s", parameters, run.model_origin, run.model)
    LOGGER.info("data: %s", run.data)
    LOGGER.info("ranks: %s", run.ranks)
    for line in describe_settings(run.settings):
        LOGGER.info("settings %s", line)


def _open_observers(
    run: Run, ranks: Ranks, start: Start, step_batches: StepBatches, data: RunData, times: RunTimes
) -> list[Observer]:
    """Return the observers that write the run's files, on the main rank; carries out the start in between."""
    observers: list[Observer] = []
    with ranks.failing_together():
        if ranks.is_main:
            if run.mlperf is not None and data.evaluation is not None:  # first: it may refuse to continue the log
                with ranks.busy("counting all records for the MLPerf log"):  # which indexes those that are new
                    log = open_log(
                        run.mlperf,
                        run.optim,
                        run.train,
                        step_batches=step_batches,
                        eval_dataset=data.evaluation,
                        first_samples=Cadence(run.train).samples(start.state.step),
                        times=times,
                    )
                observers.append(log)
            if run.mlflow:
                with ranks.busy("connecting to MLflow"):
                    values = {name: setting.value for name, setting in run.settings.items()}
                    observers.append(MlflowLogger(run.train.output_dir, {"precision": run.train.precision, **values}))
            start.carry_out()
            observers.insert(0, MetricsWriter(run.train.output_dir, start.state.step, start.state.evaluation_due))
    return observers


def _build_evaluation(
    run: Run, ranks: Ranks, runner: StepRunner, data: RunData, stop_request: StopRequest
) -> partial | None:
    if data.evaluation is None:
        return None
    return partial(
        evaluate,
        runner.model,
        data.evaluation,
        ranks=ranks,
        precision=runner.precision,
        micro_batch_tokens=run.train.micro_batch_tokens,
        samples=run.train.eval_samples,
        is_stop_requested=lambda: stop_request.signal_number > 0,
    )
