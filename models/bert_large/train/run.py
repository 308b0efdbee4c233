"""A training run from start to end: check everything, build everything, train, and write the results."""

from __future__ import annotations

import argparse
import dataclasses
import platform
from pathlib import Path
from typing import Any

import torch

import bert_large
from bert_large.config.differences import flatten
from bert_large.data.loader import explain_dead_worker
from bert_large.distributed.collectives import Ranks
from bert_large.distributed.joining import joined_ranks, restarts
from bert_large.engines import resolve_engine
from bert_large.errors import UserError
from bert_large.log import LOGGER, log_to_file_only, start_logging
from bert_large.model import pretrained
from bert_large.model.operations import Operations
from bert_large.observe.machine import describe_allocator, describe_base_image
from bert_large.observe.metrics import METRICS_FILE, read_rows, read_steps
from bert_large.observe.mlperf import RunTimes, milliseconds_now
from bert_large.observe.results import write_results
from bert_large.storage.atomic import continuing_when_repeated
from bert_large.train import run_folder
from bert_large.train.build import build_loop
from bert_large.train.checked import Run, check_settings
from bert_large.train.datasets import RunData, log_vocabulary, make_text_records, open_data
from bert_large.train.indexing import background_indexing
from bert_large.train.loop import TrainingLoop
from bert_large.train.memory import require_memory
from bert_large.train.mlperf import forget_records
from bert_large.train.state import state_from
from bert_large.train.stopping import StopRequest


def pretrain(arguments: argparse.Namespace, stop_request: StopRequest) -> int:
    """Run `bert-large pretrain` and return its exit code."""
    try:
        with (
            continuing_when_repeated(arguments.resume != "never" and not arguments.benchmark),
            joined_ranks(arguments.backend, arguments.rank_silence, arguments.rank_timeout) as ranks,
        ):
            with ranks.failing_together():
                run = check_settings(arguments, ranks.world_size)
            with run_folder.locked_folder(run.train.output_dir, ranks):
                start_logging(run.train.output_dir / run_folder.LOG_FILE if ranks.is_main else None)
                return _train(run, ranks, stop_request)
    except UserError as error:
        log_to_file_only(f"error: {error}")
        raise


def _train(run: Run, ranks: Ranks, stop_request: StopRequest) -> int:
    """Carry out a run whose settings have been checked and whose folder is locked."""
    engine = _choose_engine(run, ranks)
    require_memory(run, ranks, engine)
    run = dataclasses.replace(run, data=make_text_records(run.data, run.text, ranks))
    init_start = milliseconds_now()
    if run.mlperf is not None:
        forget_records(run.data, ranks)
    times = RunTimes(init_start=init_start, run_start=milliseconds_now())
    data = open_data(run.data, run.train, run.model, run.vocab_file, ranks)
    with ranks.failing_together():
        if ranks.is_main and run.text is None:  # otherwise logged when the records were made
            log_vocabulary(data.training, run.vocab_file, run.do_lower_case, run.strip_accents)
    start = _plan_start(run, data, ranks)
    if start.ended is not None:
        LOGGER.info("nothing to do: the run in %s has already ended (%s)", run.train.output_dir, start.ended)
        if run.train.resume not in ("auto", "never"):
            LOGGER.info("to train again from %s, delete %s", run.train.resume, start.folder / run_folder.ENDED_FILE)
        return 0
    with background_indexing(data.training, ranks, wanted=not run.train.benchmark) as background:
        loop = build_loop(run, ranks, engine, data, start, stop_request, times, background)
        stop_request.defer(run.train.stop_deadline)
        try:
            with explain_dead_worker():
                reason = loop.run()
        except Exception:
            for observer in loop.observers:
                observer.run_fails()
            raise
    LOGGER.info("training ended: %s", reason)
    for observer in loop.observers:
        observer.close()
    if ranks.is_main:
        _write_results(run, loop)
        if not loop.stop_signal and not run.train.benchmark:
            _save_model(run, loop, reason)
    ranks.wait_for_all()
    return 128 + loop.stop_signal if loop.stop_signal else 0


def _choose_engine(run: Run, ranks: Ranks) -> Operations:
    """Return the engine, after checking that all ranks have the same settings, and log what the run computes with."""
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
            LOGGER.info("but %s: %s; runs are bit-identical only if every rank has the same engine", name, line)
    LOGGER.info(describe_allocator())
    if base_image := describe_base_image():
        LOGGER.info(base_image)
    return engine


def _common_settings(run: Run, engine: Operations) -> dict[str, Any]:
    """Return the settings that must be equal on all ranks; paths and memory limits may differ between hosts."""
    train = dataclasses.asdict(run.train)
    for name in ("output_dir", "resume", "micro_batch_tokens", "engine"):
        del train[name]
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


def _plan_start(run: Run, data: RunData, ranks: Ranks) -> run_folder.Start:
    """Decide how the run starts.

    The main rank decides, since only its host must see the folder, and broadcasts the result.
    """
    fingerprint = data.training.fingerprint()
    windows = data.training.window_count
    identity = run_folder.run_identity(run.model, run.data, run.optim, run.train, fingerprint, data.masking, windows)
    start = run_folder.Start(folder=run.train.output_dir, identity=identity)
    with ranks.failing_together():
        if ranks.is_main:
            start = run_folder.plan_start(run.train, identity, run.initial_weights, restarted=restarts() > 0)
    resume_from, state, ended = ranks.broadcast(
        (str(start.resume_from) if start.resume_from else None, dataclasses.asdict(start.state), start.ended)
    )
    if ranks.is_main:
        return start
    resume_from = Path(resume_from) if resume_from else None
    return dataclasses.replace(start, resume_from=resume_from, state=state_from(state), ended=ended)


def _write_results(run: Run, loop: TrainingLoop) -> None:
    """Log the throughput, and write `summary.log` and `results.yaml`."""
    train, metrics_file = run.train, run.train.output_dir / METRICS_FILE
    if not loop.totals.steps and metrics_file.exists():
        # An earlier process finished training, but was killed before it wrote the results.
        for metrics in read_steps(metrics_file):
            loop.totals.add(metrics)
    if not loop.totals.steps:
        return
    evaluations = read_rows(metrics_file, "eval")
    accuracy = evaluations[-1]["masked_lm_accuracy"] if evaluations else None
    summary = loop.totals.summarize(accuracy)
    LOGGER.info(summary.throughput_line())
    write_results(
        train.output_dir,
        summary,
        phase=train.phase,
        precision=train.precision,
        global_batch_size=train.global_batch_size,
    )


def _save_model(run: Run, loop: TrainingLoop, reason: str) -> None:
    """Write the model folder, and after it, the note that the run has ended."""
    folder = run.train.output_dir / run_folder.MODEL
    pretrained.save_model(folder, loop.runner.model, run.model, run.vocab_file, run.do_lower_case, run.strip_accents)
    run_folder.mark_ended(run.train, reason)
    LOGGER.info("model saved in %s", folder)
