"""One seed's training and predictions, by Hugging Face's Trainer."""

from __future__ import annotations

import contextlib
import errno
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from bert_large.engines.precision import get_precision
from bert_large.errors import DamageError, InputError, UserError
from bert_large.finetune.callbacks import LOWER_RATE, Log, Stop, Timer
from bert_large.finetune.settings import FinetuneSettings
from bert_large.finetune.task import Task
from bert_large.log import LOGGER
from bert_large.storage.atomic import explain_write_errors, remove_tree
from bert_large.storage.integrity import check_checksums, write_checksums
from bert_large.storage.output_folder import CONFIG_FILE, WEIGHTS_FILE, partial_folder, publish_model
from bert_large.train.stopping import StopRequest

CHECKPOINTS, MODEL = "checkpoints", "model_save"
_KEPT_CHECKPOINTS = 2
_LOG_EVERY_STEPS = 10


@dataclass(frozen=True)
class Encoded:
    """A split, and the features made of it."""

    examples: Dataset
    features: Dataset


@dataclass(frozen=True)
class EncodedSplits:
    """All splits as the model takes them; see `Splits`."""

    train: Dataset
    evaluation: dict[str, Encoded]
    test: dict[str, Encoded]

    @property
    def watched(self) -> Encoded:
        """The split that chooses the best weights."""
        return next(iter(self.evaluation.values()))


class Stopped(Exception):
    """A signal asked for the end; the seed can go on from its last checkpoint."""


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """Trains one seed in a folder of its own, which holds its checkpoints and its best weights.

    Every pass over the data ends with an evaluation of the watched split; the best weights so far, by the task's main
    metric and the first of equals, are in `model_save`. A run that was interrupted goes on from its newest intact
    checkpoint, to the same weights as if it had not been.
    """

    task: Task
    data: EncodedSplits
    model_settings: dict[str, Any]
    checkpoint_dir: Path
    tokenizer: PreTrainedTokenizerFast
    settings: FinetuneSettings
    seed: int
    folder: Path
    save_every: int
    """Optimizer steps between checkpoints."""

    def run(self, stop: StopRequest) -> dict[str, Any]:
        """Train, predict every split with the best weights, write predictions, and return the figures.

        Raises `Stopped` when a signal has come: before it starts, or with a checkpoint while it trains.
        """
        if stop.signal_number:
            raise Stopped
        set_seed(self.seed)  # the head's first weights
        model = self._load_model()
        trainer = _Trainer(
            task=self.task,
            watched=self.data.watched,
            model=model,
            args=self._arguments(),
            train_dataset=self.data.train,
            eval_dataset=self.data.watched.features,
            data_collator=self.task.collator(self.tokenizer),
            processing_class=self.tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        timer = Timer()
        for callback in (timer, _KeepBest(self), Log(self.seed), Stop(stop)):
            trainer.add_callback(callback)
        resumed = self._newest_checkpoint()
        if resumed is not None:
            LOGGER.info("seed %d: going on from %s", self.seed, resumed)
            timer.resume(resumed)
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
        if trainer.state.global_step < trainer.state.max_steps:
            raise Stopped
        model.load_state_dict(load_file(self.folder / MODEL / WEIGHTS_FILE))
        best_step, _ = _best(trainer.state.log_history, f"eval_{self.task.main_metric}")
        samples = len(self.data.train) * self.settings.epochs
        return {
            "seed": self.seed,
            "steps": trainer.state.max_steps,
            "best_step": best_step,
            "train_seconds": timer.seconds,
            "train_samples_per_second": samples / timer.seconds,
            "metrics": dict(self._judge(trainer)),
        }

    def _load_model(self) -> Any:
        """Return the encoder of `checkpoint_dir` with the task's head, whose weights are new unless they are there.

        Raises `InputError` if the folder is no model that can have this head, or weights of the encoder are not there:
        the pooler alone, which masked-LM-only models lack, may be new.
        """
        try:
            model, loaded = self.task.model_class().from_pretrained(
                self.checkpoint_dir,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # of the head of another task
                output_loading_info=True,
                **self.model_settings,
            )
        except (OSError, ValueError, SafetensorError) as error:
            reason = str(error).partition("\n")[0] or repr(error)
            raise InputError(
                f"CHECKPOINT_DIR {self.checkpoint_dir} cannot be loaded: {reason}; give a model_save folder of BERT or "
                "DistilBERT"
            ) from error
        new = {*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])}
        encoder = f"{model.base_model_prefix}."
        if lost := sorted(name for name in new if name.startswith(encoder) and ".pooler." not in name):
            raise InputError(
                f"CHECKPOINT_DIR {self.checkpoint_dir} has no {lost[0]} ({len(lost)} such weights) of the shape that "
                f"its {CONFIG_FILE} makes it; give a folder whose {WEIGHTS_FILE} and {CONFIG_FILE} are of one model"
            )
        return model

    def _arguments(self) -> TrainingArguments:
        settings = self.settings
        steps_per_epoch = math.ceil(len(self.data.train) / settings.batch_size)
        return TrainingArguments(
            output_dir=str(self.folder / CHECKPOINTS),
            use_cpu=True,
            bf16=get_precision(settings.precision).autocast_dtype == torch.bfloat16,
            seed=self.seed,
            data_seed=self.seed,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            per_device_eval_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            warmup_steps=math.ceil(settings.warmup_share * steps_per_epoch * settings.epochs),
            weight_decay=settings.weight_decay,
            # By steps, both: a checkpoint at the end of an epoch then comes after its evaluation.
            eval_strategy="steps",
            eval_steps=steps_per_epoch,
            save_strategy="steps",
            save_steps=self.save_every,
            save_total_limit=_KEPT_CHECKPOINTS,
            logging_steps=_LOG_EVERY_STEPS,
            logging_nan_inf_filter=False,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )

    def _newest_checkpoint(self) -> Path | None:
        """Return the newest checkpoint that is intact; remove those after it, which a kill left unfinished."""
        found = (self.folder / CHECKPOINTS).glob("checkpoint-[0-9]*")
        for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
            try:
                check_checksums(path)
            except DamageError as error:
                LOGGER.warning("warning: seed %d: %s; removing that checkpoint", self.seed, error)
                remove_tree(path)
            else:
                return path
        return None

    def _judge(self, trainer: Trainer) -> Iterator[tuple[str, dict[str, float]]]:
        """Predict every split, write its predictions, and yield the figures of those with labels."""
        predictions = self.folder / "predictions"
        predictions.mkdir(exist_ok=True)
        for name, split in (self.data.evaluation | self.data.test).items():
            outcome = trainer.predict(split.features)
            self.task.write_predictions(predictions, name, split.examples, split.features, outcome.predictions)
            if name in self.data.evaluation:
                yield name, self.task.compute_metrics(split.examples, split.features, outcome.predictions)

    def save_best(self, model: Any) -> None:
        """Put the weights and the tokenizer into `model_save`, whole or not at all; refuse weights that say nothing."""
        for name, weights in model.named_parameters():
            if not weights.isfinite().all():
                raise UserError(f"seed {self.seed}: {name} is not finite any more, so nothing is learned. {LOWER_RATE}")
        with partial_folder(self.folder / MODEL) as partial:
            model.save_pretrained(partial)
            self.tokenizer.save_pretrained(partial)
            write_checksums(partial)
            publish_model(partial, self.folder / MODEL)


@contextlib.contextmanager
def explain_trainer_errors(folder: Path) -> Iterator[None]:
    """Raise as `WriteError` what befalls a seed's writing in `folder`; PyTorch and safetensors have their own errors.

    PyTorch's does not tell the system's reason.
    """
    with explain_write_errors(folder):
        try:
            yield
        except (RuntimeError, SafetensorError) as error:
            if isinstance(error, SafetensorError) or "inline_container" in str(error):  # PyTorch's writer
                raise OSError(errno.EIO, str(error).splitlines()[0]) from error
            raise


class _Trainer(Trainer):
    """The Trainer, with metrics from examples and predictions: its own are told of labels alone."""

    def __init__(self, *, task: Task, watched: Encoded, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._task, self._watched = task, watched

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        outcome = self.predict(self._watched.features, metric_key_prefix="eval")
        figures = self._task.compute_metrics(self._watched.examples, self._watched.features, outcome.predictions)
        metrics = {f"eval_{name}": value for name, value in figures.items()}
        metrics |= {name: value for name, value in (outcome.metrics or {}).items() if name == "eval_loss"}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _best(history: list[dict[str, Any]], metric: str) -> tuple[int, float]:
    """Return the step and the value of the best evaluation, the first of equals."""
    row = max((row for row in history if metric in row), key=lambda row: row[metric])
    return row["step"], row[metric]


class _KeepBest(TrainerCallback):
    """Keeps the best weights. It looks at the history alone, which checkpoints hold."""

    def __init__(self, run: SeedRun) -> None:
        self._run = run

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step, _ = _best(state.log_history, f"eval_{self._run.task.main_metric}")
        if step == state.global_step:
            self._run.save_best(kwargs["model"])
