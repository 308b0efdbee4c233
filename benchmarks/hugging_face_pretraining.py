"""Masked-LM pretraining of a Hugging Face BERT by its Trainer, as `time_to_accuracy.py` compares with.

    python benchmarks/hugging_face_pretraining.py --text-dir TEXT --tokenizer-dir FOLDER --config-file FILE \
        --eval-dir RECORDS --output-dir OUTPUT --max-steps 10000

As in transformers' example run_mlm.py, each article is tokenized, all are concatenated and cut into full sequences, so
no sequence has padding, and masks are drawn at each use. Evaluations are on masked records of this package, so that
both trainings report the same loss. Steps and evaluations are rows of OUTPUT/metrics.jsonl with the keys of this
package.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from bert_large.bench.hugging_face import pad
from bert_large.bench.options import COUNT, parse_options, script_parser
from bert_large.bench.output import run_script
from bert_large.config.hugging_face import IGNORED_LABEL
from bert_large.config.model import ModelConfig
from bert_large.config.options import option
from bert_large.config.training import PRECISIONS
from bert_large.data.dataset import Dataset
from bert_large.data.record import RecordLimits
from bert_large.errors import InputError
from bert_large.observe.metrics import METRICS_FILE
from bert_large.storage.output_folder import make_folder
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_EVAL_BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """Options of this script."""

    text_dir: Path = option(text="folder of text files, with blank lines between articles")
    tokenizer_dir: Path = option(text="folder of the tokenizer, as `export` writes it")
    config_file: Path = option(text="shape of the model (bert_config.json)")
    eval_dir: Path = option(text="folder of records of this package to evaluate on")
    output_dir: Path = option(text="folder for metrics.jsonl and the trained model")
    max_steps: int = option(10_000, "optimizer steps", within=COUNT)
    batch_size: int = option(256, "sequences per step", within=COUNT)
    micro_batch_size: int = option(32, "sequences of a forward and backward pass", within=COUNT)
    seq_len: int = option(128, "tokens of a sequence", within="[8, 512]")
    learning_rate: float = option(5e-4, "largest learning rate", within="(0, 1]")
    warmup_steps: int = option(1000, "steps until it is reached; then it falls linearly to 0", within="[0, 1000000]")
    weight_decay: float = option(0.01, "AdamW's weight decay", within="[0, 1]")
    masking_rate: float = option(0.15, "share of the tokens to predict", within="(0, 1)")
    attention: str = option("sdpa", "implementation of attention", choices=("eager", "sdpa"))
    precision: str = option("bf16", "bf16: under autocast", choices=tuple(sorted({"fp32", "bf16"} & {*PRECISIONS})))
    eval_every: int = option(250, "steps between evaluations", within=COUNT)
    seed: int = option(42, "of weights, order and masks", within="[0, 1000000]")


class _Log:
    """Writes rows of metrics.jsonl."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def row(self, event: str, **values: Any) -> None:
        self._file.write(f"{json.dumps({'event': event, **values})}\n")
        self._file.flush()


def _load_sequences(options: TrainerOptions, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the text as a data set of full sequences, cached by `datasets`."""
    from datasets import Dataset as TextDataset

    files = sorted(str(path) for path in options.text_dir.iterdir() if path.is_file())
    if not files:
        raise InputError(f"--text-dir is {options.text_dir}, which has no files; expected text files")
    documents = TextDataset.from_text(files, sample_by="paragraph")
    tokens = documents.map(
        lambda batch: tokenizer(batch["text"], return_special_tokens_mask=True), batched=True,
        remove_columns=["text"],
    )  # fmt: skip

    def cut(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {name: list(chain.from_iterable(rows)) for name, rows in batch.items()}
        end = len(joined["input_ids"]) // options.seq_len * options.seq_len
        return {
            name: [values[start : start + options.seq_len] for start in range(0, end, options.seq_len)]
            for name, values in joined.items()
        }

    return tokens.map(cut, batched=True)


def _evaluate(model: torch.nn.Module, records: Dataset, precision: str) -> dict[str, float]:
    """Return the mean loss and accuracy over all masked tokens of `records`."""
    loss, correct, count = 0.0, 0, 0
    was_training = model.training
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for start in range(0, len(records), _EVAL_BATCH_SIZE):
            read = records.read_all(range(start, min(start + _EVAL_BATCH_SIZE, len(records))))
            batch = pad(read, records.shape.max_seq_length)
            labels = batch.pop("labels")
            del batch["next_sentence_label"]
            masked = labels != IGNORED_LABEL
            logits = model(**batch).logits[masked].float()
            loss += float(functional.cross_entropy(logits, labels[masked], reduction="sum"))
            correct += int((logits.argmax(dim=1) == labels[masked]).sum())
            count += int(masked.sum())
    model.train(was_training)
    return {"masked_lm_loss": loss / count, "masked_lm_accuracy": correct / count}


def _make_callback(log: _Log, records: Dataset, options: TrainerOptions) -> Any:
    from transformers import TrainerCallback

    class Callback(TrainerCallback):
        """Times the steps, without the evaluations between them."""

        def __init__(self) -> None:
            self._started = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step, samples = state.global_step, state.global_step * options.batch_size
            log.row("step", step=step, samples=samples, seconds=time.perf_counter() - self._started)
            if step % options.eval_every == 0 or step == options.max_steps:
                log.row("eval", step=step, samples=samples, **_evaluate(kwargs["model"], records, options.precision))
            self._started = time.perf_counter()

    return Callback()


def train(options: TrainerOptions) -> None:
    """Train, and write the metrics and the model."""
    import transformers

    if options.batch_size % options.micro_batch_size:
        raise InputError(
            f"--batch-size is {options.batch_size}, expected a multiple of --micro-batch-size "
            f"{options.micro_batch_size}"
        )
    transformers.set_seed(options.seed)
    config = ModelConfig.from_json(options.config_file)
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.tokenizer_dir)
    model = transformers.BertForMaskedLM(
        transformers.BertConfig(**config.to_hugging_face() | {"attn_implementation": options.attention})
    )
    make_folder(options.output_dir)
    limits = RecordLimits(config.vocab_size, config.max_position_embeddings)
    records = Dataset.open(options.eval_dir, options.output_dir / "data_index", build=True, limits=limits)
    arguments = transformers.TrainingArguments(
        output_dir=str(options.output_dir), use_cpu=True, bf16=options.precision == "bf16", max_steps=options.max_steps,
        per_device_train_batch_size=options.micro_batch_size,
        gradient_accumulation_steps=options.batch_size // options.micro_batch_size,
        learning_rate=options.learning_rate, warmup_steps=options.warmup_steps, lr_scheduler_type="linear",
        weight_decay=options.weight_decay, save_strategy="no", logging_strategy="no", report_to=[],
        dataloader_num_workers=1, seed=options.seed, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=_load_sequences(options, tokenizer),
        data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=options.masking_rate),
        callbacks=[_make_callback(_Log(options.output_dir / METRICS_FILE), records, options)],
    )  # fmt: skip
    trainer.train()
    model.save_pretrained(options.output_dir / "hf")
    tokenizer.save_pretrained(options.output_dir / "hf")


def main(argv: Sequence[str] | None = None) -> int:
    """Train."""
    arguments = script_parser(TrainerOptions, "pretrain a Hugging Face BERT with its Trainer").parse_args(argv)
    train(parse_options(TrainerOptions, arguments))
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
