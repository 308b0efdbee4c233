"""Training and predictions of one seed, with Hugging Face's Trainer."""

from __future__ import annotations

import contextlib
import errno
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import transformers
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from bert_large.config.hugging_face import IGNORED_LABEL
from bert_large.distributed.collectives import Ranks
from bert_large.errors import DamageError, UserError
from bert_large.finetune.callbacks import LOWER_RATE, Log, Stop, Timer, is_stopped
from bert_large.finetune.model import load_task_model
from bert_large.finetune.settings import FinetuneSettings
from bert_large.finetune.task import Task
from bert_large.hugging_face.engine import apply_engine
from bert_large.log import LOGGER
from bert_large.storage.atomic import explain_write_errors, remove_tree
from bert_large.storage.integrity import check_checksums, write_checksums
from bert_large.storage.output_folder import WEIGHTS_FILE, partial_folder, publish_model
from bert_large.train.stopping import StopRequest

CHECKPOINTS, MODEL, PREDICTIONS = "checkpoints", "model_save", "predictions"
_KEPT_CHECKPOINTS = 2
_LOG_EVERY_STEPS = 10


class Encoded(NamedTuple):
    """The examples of a split and their features."""

    examples: Dataset
    features: Dataset


@dataclass(frozen=True)
class EncodedSplits:
    """All splits of a task as features; see `Splits`."""

    train: Dataset | None
    evaluation: dict[str, Encoded]
    test: dict[str, Encoded]

    @property
    def watched(self) -> Encoded:
        """The split that chooses the best weights."""
        return next(iter(self.evaluation.values()))


class Stopped(Exception):
    """A signal stopped the run; the seed can be resumed from its last checkpoint."""


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """The training of one seed in its own folder, which holds its checkpoints and its best weights.

    Every pass over the data ends with an evaluation of the watched split. The best weights so far, by the task's main
    metric (on a tie, the earliest), are in `model_save`. An interrupted run resumes from its newest intact checkpoint
    and gives the same weights as an uninterrupted one.
    """

    task: Task
    data: EncodedSplits
    checkpoint_dir: Path
    tokenizer: PreTrainedTokenizerFast
    settings: FinetuneSettings
    seed: int
    folder: Path
    save_every: int
    """Optimizer steps between checkpoints."""
    engine: str
    ranks: Ranks
    """All share each batch and the folder; rank 0 writes."""

    def run(self, stop: StopRequest) -> dict[str, Any]:
        """Train, predict every split with the best weights, write the predictions, and return the metrics.

        Raises `Stopped` after a signal: before the start, or during training after writing a checkpoint.
        """
        if is_stopped(stop, self.ranks):
            raise Stopped
        set_seed(self.seed)  # for the initial weights of the head
        model = load_task_model(self.checkpoint_dir, self.task)
        LOGGER.info(apply_engine(model, self.engine, self.settings.precision))
        trainer = TaskTrainer(self.task, self.data, self.tokenizer, model, self._arguments())
        timer = Timer(self.ranks)
        for callback in (timer, _KeepBest(self), Log(self.seed), Stop(stop, self.ranks)):
            trainer.add_callback(callback)
        resumed = self._newest_checkpoint()
        if resumed is not None:
            LOGGER.info("seed %d: resuming from %s", self.seed, resumed)
            timer.resume(resumed)
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
        if trainer.state.global_step < trainer.state.max_steps:
            raise Stopped
        model.load_state_dict(load_file(self.folder / MODEL / WEIGHTS_FILE))
        best_step = _best_step(trainer.state.log_history, f"eval_{self.task.main_metric}")
        samples = len(self.data.train or ()) * self.settings.epochs
        return {
            "seed": self.seed,
            "steps": trainer.state.max_steps,
            "best_step": best_step,
            "train_seconds": timer.seconds,
            "train_samples_per_second": samples / timer.seconds,
            "metrics": predict_splits(trainer, self.task, self.data, self.folder / PREDICTIONS, self.ranks),
        }

    def _arguments(self) -> TrainingArguments:
        settings = self.settings
        steps_per_epoch = math.ceil(len(self.data.train or ()) / settings.batch_size)
        return trainer_arguments(
            settings,
            self.folder / CHECKPOINTS,
            self.ranks,
            seed=self.seed,
            data_seed=self.seed,
            num_train_epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            warmup_steps=math.ceil(settings.warmup_share * steps_per_epoch * settings.epochs),
            weight_decay=settings.weight_decay,
            # Both by steps, so that a checkpoint at the end of an epoch is written after its evaluation.
            eval_strategy="steps",
            eval_steps=steps_per_epoch,
            save_strategy="steps",
            save_steps=self.save_every,
            save_total_limit=_KEPT_CHECKPOINTS,
            logging_steps=_LOG_EVERY_STEPS,
            logging_nan_inf_filter=False,
        )

    def _newest_checkpoint(self) -> Path | None:
        """Return the newest intact checkpoint, the same on all ranks."""
        found = self.ranks.broadcast(self._find_checkpoint() if self.ranks.is_main else None)
        return None if found is None else self.folder / CHECKPOINTS / found

    def _find_checkpoint(self) -> str | None:
        """Return the name of the newest intact checkpoint; delete newer ones, which a kill left unfinished."""
        found = (self.folder / CHECKPOINTS).glob("checkpoint-[0-9]*")
        for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
            try:
                check_checksums(path)
            except DamageError as error:
                LOGGER.warning("warning: seed %d: %s; deleting that checkpoint", self.seed, error)
                remove_tree(path)
            else:
                return path.name
        return None

    def save_best(self, model: Any) -> None:
        """Write weights and tokenizer into `model_save`, atomically; raise `UserError` if weights are not finite."""
        for name, weights in model.named_parameters():
            if not weights.isfinite().all():
                raise UserError(f"seed {self.seed}: {name} is no longer finite: training diverged. {LOWER_RATE}")
        if self.ranks.is_main:
            with partial_folder(self.folder / MODEL) as partial:
                model.save_pretrained(partial)
                self.tokenizer.save_pretrained(partial)
                write_checksums(partial)
                publish_model(partial, self.folder / MODEL)
        self.ranks.wait_for_all()


@contextlib.contextmanager
def explain_trainer_errors(folder: Path) -> Iterator[None]:
    """Convert errors from writing to a seed's folder to `WriteError`.

    PyTorch and safetensors raise errors of their own, and PyTorch's lacks the reason of the operating system.
    """
    with explain_write_errors(folder):
        try:
            yield
        except (RuntimeError, SafetensorError) as error:
            if isinstance(error, SafetensorError) or "inline_container" in str(error):  # PyTorch's writer
                raise OSError(errno.EIO, str(error).splitlines()[0]) from error
            raise


def trainer_arguments(settings: FinetuneSettings, folder: Path, ranks: Ranks, **more: Any) -> TrainingArguments:
    """Return the arguments of training and of predicting alone; the ranks share the sequences of each batch."""
    size, is_bf16 = settings.batch_size // ranks.world_size, settings.precision == "bf16"
    return TrainingArguments(
        output_dir=str(folder), use_cpu=True, bf16=is_bf16, per_device_train_batch_size=size,
        per_device_eval_batch_size=size, report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
        ddp_find_unused_parameters=False, **more,
    )  # fmt: skip


def predict_splits(
    trainer: Trainer, task: Task, data: EncodedSplits, folder: Path, ranks: Ranks
) -> dict[str, dict[str, float]]:
    """Predict every split, write the predictions into `folder`, and return the metrics of the splits with labels."""
    folder.mkdir(exist_ok=True)
    metrics = {}
    for name, split in (data.evaluation | data.test).items():
        outcome = trainer.predict(split.features)
        if ranks.is_main:
            task.write_predictions(folder, name, *split, outcome.predictions)
        if name in data.evaluation:
            metrics[name] = task.compute_metrics(*split, outcome.predictions)
    return metrics


class TaskTrainer(Trainer):
    """A Trainer that computes metrics from examples and predictions.

    The base class passes only predictions and labels.
    """

    def __init__(
        self, task: Task, data: EncodedSplits, tokenizer: PreTrainedTokenizerFast, model: Any, args: TrainingArguments
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            train_dataset=data.train,
            # Without training, splits with labels are optional, and this one is not used.
            eval_dataset=data.watched.features if data.train is not None else None,
            data_collator=getattr(transformers, task.collator_class)(tokenizer),
            processing_class=tokenizer,
        )
        self._task, self._data = task, data
        self.remove_callback(PrinterCallback)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean loss over the labels of a batch. In training, they are those of all ranks.

        The base class multiplies losses by the number of ranks that are means already, as those of classification.
        """
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        if model.training and num_items_in_batch is not None:
            own = (inputs["labels"] != IGNORED_LABEL).sum()
            loss = loss * (own * self.args.world_size / num_items_in_batch)  # gradients are averaged over the ranks
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        watched = self._data.watched
        outcome = self.predict(watched.features, metric_key_prefix="eval")
        values = self._task.compute_metrics(*watched, outcome.predictions)
        metrics = {f"eval_{name}": value for name, value in values.items()}
        metrics |= {name: value for name, value in (outcome.metrics or {}).items() if name == "eval_loss"}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _best_step(history: list[dict[str, Any]], metric: str) -> int:
    """Return the step of the best evaluation; on a tie, the earliest."""
    return max((row for row in history if metric in row), key=lambda row: row[metric])["step"]


class _KeepBest(TrainerCallback):
    """Saves the best weights. Its only state is the Trainer's history, which checkpoints contain."""

    def __init__(self, run: SeedRun) -> None:
        self._run = run

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if _best_step(state.log_history, f"eval_{self._run.task.main_metric}") == state.global_step:
            self._run.save_best(kwargs["model"])
