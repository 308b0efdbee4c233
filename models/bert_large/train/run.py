"""A training run from start to end: check everything, build everything, loop, and leave the results."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import platform
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

import bert_large
from bert_large.config.differences import flatten
from bert_large.config.training import TrainConfig
from bert_large.data.dataset import Dataset
from bert_large.data.loader import StepBatches, explain_dead_worker, iterate_steps
from bert_large.data.masking import DynamicMasking
from bert_large.data.order import SampleOrder
from bert_large.data.record import BadRecordError, BadRecords
from bert_large.distributed.collectives import Ranks, joined_ranks, restarts
from bert_large.distributed.gradients import GradientSum
from bert_large.distributed.sharding import ParameterShards
from bert_large.engines import resolve_engine
from bert_large.engines.precision import apply_precision
from bert_large.errors import InputError, UserError
from bert_large.log import LOGGER, log_to_file_only, start_logging
from bert_large.model import pretrained
from bert_large.model.bert import BertForPreTraining
from bert_large.model.operations import Operations
from bert_large.observe.allocator import describe_allocator
from bert_large.observe.base_image import describe_base_image
from bert_large.observe.metrics import MetricsWriter, read_rows, read_steps
from bert_large.observe.mlperf import RunTimes, milliseconds_now
from bert_large.observe.observer import Observer
from bert_large.observe.results import write_results
from bert_large.optim.build import build_optimizer, build_schedule
from bert_large.storage.atomic import remove_partial_files, require_free_bytes
from bert_large.storage.lock import FolderLock
from bert_large.train import checkpoint, run_folder
from bert_large.train.checked import Run, check_settings
from bert_large.train.datasets import (
    DATA_INDEX,
    make_text_records,
    open_eval_data,
    open_training_data,
    resolve_masking,
)
from bert_large.train.evaluate import evaluate
from bert_large.train.loop import TrainingLoop
from bert_large.train.mlperf import forget_records, open_log
from bert_large.train.profile import StepProfiler
from bert_large.train.settings import (
    describe_settings,
)
from bert_large.train.step import StepRunner
from bert_large.train.stopping import StopRequest


def pretrain(arguments: argparse.Namespace, stop_request: StopRequest) -> int:
    """Run `bert-large pretrain`; returns its exit code."""
    try:
        with joined_ranks(arguments.backend, arguments.rank_silence, arguments.rank_timeout) as ranks:
            with ranks.failing_together():
                run = check_settings(arguments, ranks.world_size)
            with _locked_output_dir(run.train.output_dir, ranks):
                start_logging(run.train.output_dir / "train.log" if ranks.is_main else None)
                return _train(run, ranks, stop_request)
    except UserError as error:
        log_to_file_only(f"error: {error}")
        raise


@contextlib.contextmanager
def _locked_output_dir(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Make the output folder, and hold its lock on the main rank; raises `InputError` on all when that cannot be."""
    with contextlib.ExitStack() as stack:
        with ranks.failing_together():
            _require_utf_8(folder)
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"OUTPUT_DIR {folder} cannot be made: {error.strerror}") from None
            if ranks.is_main:
                stack.enter_context(FolderLock(folder, "OUTPUT_DIR", LOGGER.warning))
        with ranks.failing_together():
            if ranks.local_rank == 0:  # the folder may be each host's own
                for place in (folder, folder / DATA_INDEX):
                    remove_partial_files(place)
        yield


def _require_utf_8(folder: Path) -> None:
    """Refuse a name under which the safetensors library would not open the checkpoints that it is to hold."""
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"OUTPUT_DIR {folder} has bytes in its name that are no UTF-8, so that its checkpoints could not be read "
            "again; give a folder of another name"
        ) from None


def _train(run: Run, ranks: Ranks, stop_request: StopRequest) -> int:
    with ranks.failing_together():
        engine, engine_line = resolve_engine(run.train.engine, run.train.precision)
    ranks.require_agreement(_common_settings(run, engine))
    versions = (bert_large.__version__, torch.__version__, platform.python_version())
    LOGGER.info("bert-large %s, torch %s, Python %s; %s", *versions, ranks.describe())
    for line in ranks.describe_bindings():
        LOGGER.info(line)
    LOGGER.info(engine_line)
    for name, line in zip(ranks.names, ranks.gather(engine_line), strict=True):
        if line != engine_line:
            LOGGER.info("but %s: %s; runs repeat to the last digit only where each rank has the same", name, line)
    LOGGER.info(describe_allocator())
    if base_image := describe_base_image():
        LOGGER.info(base_image)
    run = dataclasses.replace(run, data=make_text_records(run.data, run.text, ranks))
    init_start = milliseconds_now()
    if run.mlperf is not None:
        forget_records(run.data, ranks)
    times = RunTimes(init_start=init_start, run_start=milliseconds_now())
    dataset = open_training_data(run.data, run.train, run.model, ranks)
    index_dir = run.train.output_dir / DATA_INDEX
    eval_dataset = None
    if run.data.eval_dir is not None:
        eval_dataset = open_eval_data(run.data.eval_dir, index_dir, run.model, ranks)
    masking = resolve_masking(run.vocab_file, run.data, run.train, dataset)
    fingerprints = {"data": dataset.fingerprint(), "masks": masking.vocabulary if masking else "the records' own"}
    if eval_dataset is not None:
        fingerprints["evaluation data"] = eval_dataset.fingerprint()
    ranks.require_agreement(fingerprints)
    identity = run_folder.run_identity(run.model, run.data, run.optim, run.train, fingerprints["data"], masking)
    resume_from, start, ended = _claim_folder(run.train, identity, ranks)
    if ended is not None:
        LOGGER.info("nothing to do: the run in %s has ended: %s", run.train.output_dir, ended)
        return 0
    loop = _build_loop(
        run, ranks, engine, dataset, masking, eval_dataset, identity, resume_from, start, stop_request, times
    )
    stop_request.defer(run.train.stop_deadline)
    with explain_dead_worker():
        reason = loop.run()
    LOGGER.info("training ended: %s", reason)
    for observer in loop.observers:
        observer.close()
    if ranks.is_main:
        _leave_results(run, loop, reason)
    ranks.wait_for_all()
    return 128 + loop.stop_signal if loop.stop_signal else 0


def _common_settings(run: Run, engine: Operations) -> dict[str, Any]:
    """Return what every rank must be started with; paths and what bounds memory may be each host's own."""
    train = dataclasses.asdict(run.train)
    for own in ("output_dir", "resume", "micro_batch_tokens", "engine"):
        del train[own]
    return flatten(
        {
            **train,
            **dataclasses.asdict(run.ranks),
            "engine": engine.name,
            "model": dataclasses.asdict(run.model),
            "optimizer": dataclasses.asdict(run.optim),
            "shuffle": run.data.shuffle,
            "max_seq_length": run.data.max_seq_length,
            "evaluates": run.data.eval_dir is not None,
            "starts from weights": run.initial_weights is not None,
            "writes an MLPerf log": run.mlperf is not None,
        }
    )


def _build_loop(
    run: Run,
    ranks: Ranks,
    engine: Operations,
    dataset: Dataset,
    masking: DynamicMasking | None,
    eval_dataset: Dataset | None,
    identity: Mapping[str, Any],
    resume_from: Path | None,
    start: checkpoint.Progress,
    stop_request: StopRequest,
    times: RunTimes,
) -> TrainingLoop:
    step_batches = StepBatches(
        dataset=dataset,
        order=SampleOrder(len(dataset), run.train.seed, run.data.shuffle),
        global_batch_size=run.train.global_batch_size,
        micro_batch_tokens=run.train.micro_batch_tokens,
        rank=ranks.rank,
        world_size=ranks.world_size,
        max_bad_records=run.data.bad_records_allowed,
        masking=masking,
    )
    # The loader's processes start before the weights exist, so as not to hold copies of their memory.
    bad_records: list[str] = []
    batches = iterate_steps(step_batches, start.step, run.train.max_steps, run.data.workers, bad_records.append)
    precision = apply_precision(run.train.precision)
    model = BertForPreTraining(run.model, engine)
    shards = ParameterShards(model, ranks) if run.ranks.zero1 and ranks.world_size > 1 else None
    optimizer = build_optimizer(model, run.optim, engine.lamb, None if shards is None else shards.owned)
    _load_weights(run, model, optimizer, resume_from, ranks)
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
        gradient_sum=GradientSum(bucket_mb=run.ranks.bucket_mb, compression=run.ranks.gradient_compression),
        shards=shards,
        max_bad_steps=run.train.max_bad_steps,
        skipped=start.skipped,
        stop_request=stop_request,
    )
    observers = _open_observers(run, ranks, start, step_batches, eval_dataset, times)
    if run.train.profile_steps:
        profiler = StepProfiler(
            folder=run.train.output_dir / "profile",
            steps=run.train.profile_steps,
            start_step=start.step,
            runner=runner,
        )
        batches = profiler.watch(batches)
        observers.insert(0, profiler)
    return TrainingLoop(
        config=run.train,
        runner=runner,
        ranks=ranks,
        batches=batches,
        evaluate=evaluation,
        observers=observers,
        identity=identity,
        describe_samples=step_batches.describe_samples,
        note_bad_records=partial(
            _note_bad_records, ranks, dataset.count_bad_records(run.data.bad_records_allowed), bad_records
        ),
        loss_trend=start.loss_trend,
        stop_request=stop_request,
        start_step=start.step,
        evaluate_first=start.evaluation_due or (run.train.eval_at_start and start.step == 0),
        start_accuracy=start.masked_lm_accuracy,
    )


def _note_bad_records(ranks: Ranks, known: BadRecords, found: list[str]) -> None:
    """Count and log records that were good when they were indexed and that any rank has `found` to be bad since."""
    if known.most == 0 or not ranks.any(bool(found)):
        return
    texts = [text for its in ranks.gather(found) for text in its]
    found.clear()
    with ranks.failing_together():
        for text in texts:
            if known.add(BadRecordError(text)) and ranks.is_main:
                LOGGER.warning("bad record skipped: %s; the next good one of its shard stands in for it", text)


def _open_observers(
    run: Run,
    ranks: Ranks,
    start: checkpoint.Progress,
    step_batches: StepBatches,
    eval_dataset: Dataset | None,
    times: RunTimes,
) -> list[Observer]:
    """Open what writes the run's files as it is told of it: nothing but on the main rank."""
    observers: list[Observer] = []
    with ranks.failing_together():
        if ranks.is_main:
            observers.append(MetricsWriter(run.train.output_dir, start.step, start.evaluation_due))
        if ranks.is_main and run.mlperf is not None and eval_dataset is not None:
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
    return observers


def _claim_folder(
    train: TrainConfig, identity: Mapping[str, Any], ranks: Ranks
) -> tuple[Path | None, checkpoint.Progress, str | None]:
    """Claim the output folder on the main rank, whose host need be the only one that sees it.

    Returns, on all ranks, the checkpoint to resume from, its progress, and why the run has ended if it has.
    """
    chosen, start, ended = None, checkpoint.Progress(), None
    with ranks.failing_together():
        if ranks.is_main:
            chosen = run_folder.claim(train, identity, restarted=restarts() > 0)
            start = checkpoint.read_state(chosen)[0] if chosen else start
            ended = run_folder.reason_ended(train)
    folder, progress, ended = ranks.broadcast((str(chosen) if chosen else None, dataclasses.asdict(start), ended))
    return Path(folder) if folder else None, checkpoint.progress_from(progress), ended


def _load_weights(
    run: Run, model: BertForPreTraining, optimizer: torch.optim.Optimizer, resume_from: Path | None, ranks: Ranks
) -> None:
    ranks.note("loading or making weights")
    if resume_from is not None:
        progress = checkpoint.load_checkpoint(resume_from, model, optimizer, ranks)
        LOGGER.info("resuming after step %d from %s", progress.step, resume_from)
    elif run.initial_weights is not None:
        pretrained.load_model(run.initial_weights, model, draw_heads_with=run.train.seed)
        LOGGER.info("starting from the weights of %s", run.initial_weights)
    else:
        model.initialize(run.train.seed)
        LOGGER.info("starting from random weights, seed %d", run.train.seed)


def _require_room(train: TrainConfig, model: BertForPreTraining, ranks: Ranks) -> None:
    """Refuse to train what there is no room to save: a checkpoint is written before an older one is deleted."""
    with ranks.failing_together():
        if ranks.is_main and not train.benchmark:
            needed_bytes = checkpoint.bytes_to_save(checkpoint.weights_of(model))
            require_free_bytes(TrainingLoop.checkpoints_folder(train.output_dir), needed_bytes)


def _log_settings(run: Run, model: BertForPreTraining) -> None:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    LOGGER.info("model: %d parameters; %s; %s", parameters, run.model_origin, run.model)
    LOGGER.info("data: %s", run.data)
    LOGGER.info("ranks: %s", run.ranks)
    for line in describe_settings(run.settings):
        LOGGER.info("settings %s", line)


def _leave_results(run: Run, loop: TrainingLoop, reason: str) -> None:
    """Write the summary, and the model unless the run was interrupted or only measured."""
    train = run.train
    # None where the run has come to its end before, but was killed before it left its results.
    metrics = train.output_dir / "metrics.jsonl"
    if not loop.totals.steps and metrics.exists():
        for figures in read_steps(metrics):
            loop.totals.add(figures)
    if loop.totals.steps:
        evaluations = read_rows(metrics, "eval")
        accuracy = evaluations[-1]["masked_lm_accuracy"] if evaluations else None
        summary = loop.totals.summarize(train.global_batch_size, accuracy)
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
    pretrained.save_model(folder, loop.runner.model, run.model, run.vocab_file, run.do_lower_case)
    run_folder.mark_ended(train, reason)
    LOGGER.info("model saved in %s", folder)
