"""A fine-tuning run: reads the data, claims the output folder, trains all seeds, and writes the results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from bert_large.distributed.collectives import Ranks
from bert_large.errors import InputError
from bert_large.finetune.model import load_task_model
from bert_large.finetune.results import RESULTS_FILE, best_seed, summarize
from bert_large.finetune.seed_run import (
    CHECKPOINTS,
    MODEL,
    PREDICTIONS,
    Encoded,
    EncodedSplits,
    SeedRun,
    TaskTrainer,
    explain_trainer_errors,
    predict_splits,
    trainer_arguments,
)
from bert_large.finetune.settings import FinetuneSettings
from bert_large.finetune.task import Splits, Task
from bert_large.hugging_face.engine import apply_engine
from bert_large.log import LOGGER
from bert_large.model.pretrained import check_model_folder
from bert_large.model.weight_files import weight_shards
from bert_large.storage.atomic import crc32c_of, explain_write_errors, read_json, remove_tree, write_json
from bert_large.storage.output_folder import partial_folder, publish_model
from bert_large.train.run_folder import RUN_FILE, require_same
from bert_large.train.stopping import StopRequest

_DIGEST_ROWS = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneRun:
    """A task, the model to start from, and the folder for all outputs."""

    task: Task
    settings: FinetuneSettings
    checkpoint_dir: Path
    tokenizer: PreTrainedTokenizerFast
    data_dir: Path | None
    output_dir: Path
    seeds: tuple[int, ...]
    save_every: int
    resume: bool
    """Continue the run in the folder, if there is one; else the folder must not hold a run."""
    engine: str
    ranks: Ranks
    """All share each batch and the folder; rank 0 writes."""

    def run(self, stop: StopRequest) -> dict[str, Any]:
        """Train every unfinished seed; return the content of results.json. The caller holds the folder's lock."""
        with self.ranks.failing_together():
            splits = self._limited(self.task.load(self.data_dir))
            if self.ranks.is_main:
                self._claim(splits)
            data = self._encode(splits)
        seeds = [self._run_seed(seed, data, stop) for seed in self.seeds]
        best = best_seed(seeds, self.task.main_metric)
        results = {"task": self.task.name, "main_metric": self.task.main_metric, "best_seed": best}
        results |= {"summary": summarize(seeds), "seeds": seeds}
        if self.ranks.is_main:
            self._publish(best)
            write_json(self.output_dir / RESULTS_FILE, results)
        return results

    def predict(self) -> dict[str, Any]:
        """Predict with a fine-tuned model, without training; return the content of results.json."""
        with self.ranks.failing_together():
            if (self.output_dir / RUN_FILE).exists():
                raise InputError(f"OUTPUT_DIR {self.output_dir} holds a run; give an empty folder for predictions")
            splits = self.task.load(self.data_dir, training=False)
            data = self._encode(self._limited(dataclasses.replace(splits, train=None)))
            model = load_task_model(self.checkpoint_dir, self.task, trained=True)
            LOGGER.info(apply_engine(model, self.engine, self.settings.precision))
        arguments = trainer_arguments(self.settings, self.output_dir / CHECKPOINTS, self.ranks)
        trainer = TaskTrainer(self.task, data, self.tokenizer, model, arguments)
        with explain_write_errors(self.output_dir):
            metrics = predict_splits(trainer, self.task, data, self.output_dir / PREDICTIONS, self.ranks)
        results = {"task": self.task.name, "metrics": metrics}
        if self.ranks.is_main:
            write_json(self.output_dir / RESULTS_FILE, results)
        return results

    def _limited(self, splits: Splits) -> Splits:
        def first(split: Dataset | None, samples: int | None) -> Any:
            return split if samples is None or split is None else split.select(range(min(samples, len(split))))

        most = self.settings.max_eval_samples
        evaluation = {name: first(split, most) for name, split in splits.evaluation.items()}
        return Splits(first(splits.train, self.settings.max_train_samples), evaluation, splits.test)

    def _claim(self, splits: Splits) -> None:
        """Take the output folder for this run; raise `InputError` if it belongs to another run."""
        identity = self._identity(splits)
        path = self.output_dir / RUN_FILE
        if path.exists():
            if not self.resume:
                advice = "give an empty folder (or --resume auto to continue it)"
                raise InputError(f"OUTPUT_DIR {self.output_dir} holds a run; {advice}")
            require_same(self.output_dir, read_json(path), identity)
        else:
            write_json(path, identity)

    def _identity(self, splits: Splits) -> dict[str, Any]:
        """Return everything that determines the result of a seed, except the seed."""
        encode, vocabulary = self.tokenizer, sorted(self.tokenizer.get_vocab().items())
        all_splits = {"train": splits.train, **splits.evaluation, **splits.test}
        values = {
            "task": self.task.name,
            "options": dict(self.task.options),
            "settings": dataclasses.asdict(self.settings),
            "model": "-".join(map(crc32c_of, weight_shards(check_model_folder(self.checkpoint_dir)))),
            "vocabulary": hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest(),
            "lower_case": encode("A", add_special_tokens=False) == encode("a", add_special_tokens=False),
            "data": {name: digest(split) for name, split in all_splits.items()},
        }
        return json.loads(json.dumps(values))

    def _encode(self, splits: Splits) -> EncodedSplits:
        def encode(examples: Dataset, training: bool) -> Dataset:
            return self.task.encode(examples, self.tokenizer, self.settings.max_seq_length, training=training)

        def encoded(parts: dict[str, Dataset]) -> dict[str, Encoded]:
            return {name: Encoded(examples, encode(examples, False)) for name, examples in parts.items()}

        train = None if splits.train is None else encode(splits.train, True)
        data = EncodedSplits(train, encoded(splits.evaluation), encoded(splits.test))
        counts = {} if train is None else {"train": len(train)}
        counts |= {name: len(split.features) for name, split in (data.evaluation | data.test).items()}
        described = ", ".join(f"{name} {count}" for name, count in counts.items())
        LOGGER.info("task %s: %s sequences", self.task.name, described)
        return data

    def _run_seed(self, seed: int, data: EncodedSplits, stop: StopRequest) -> dict[str, Any]:
        folder = self._seed_folder(seed)
        if self.ranks.broadcast((folder / RESULTS_FILE).exists()):
            LOGGER.info("seed %d is finished", seed)
        else:
            seed_run = SeedRun(
                task=self.task, data=data, checkpoint_dir=self.checkpoint_dir, tokenizer=self.tokenizer,
                settings=self.settings, seed=seed, folder=folder, save_every=self.save_every, engine=self.engine,
                ranks=self.ranks,
            )  # fmt: skip
            with explain_trainer_errors(folder):
                results = seed_run.run(stop)
            if self.ranks.is_main:
                write_json(folder / RESULTS_FILE, results)
        if self.ranks.is_main:
            remove_tree(folder / CHECKPOINTS)
        return self.ranks.broadcast(read_json(folder / RESULTS_FILE) if self.ranks.is_main else None)

    def _seed_folder(self, seed: int) -> Path:
        folder = self.output_dir / f"seed-{seed}"
        folder.mkdir(exist_ok=True)
        return folder

    def _publish(self, seed: int) -> None:
        """Copy the best seed's model and predictions into the output folder."""
        folder, predictions = self._seed_folder(seed), self.output_dir / PREDICTIONS
        with explain_write_errors(self.output_dir):
            with partial_folder(self.output_dir / MODEL) as partial:
                _copy_files(folder / MODEL, partial)
                publish_model(partial, self.output_dir / MODEL)
            remove_tree(predictions)
            predictions.mkdir()
            _copy_files(folder / PREDICTIONS, predictions)


def _copy_files(source: Path, target: Path) -> None:
    for path in source.iterdir():
        shutil.copyfile(path, target / path.name)


def digest(examples: Dataset) -> str:
    """Return a digest of all values of a split, which depends on the rows only, not on their source."""
    found = hashlib.sha256()
    for start in range(0, len(examples), _DIGEST_ROWS):
        found.update(json.dumps(examples[start : start + _DIGEST_ROWS], sort_keys=True).encode())
    return found.hexdigest()
