"""Speed of `bert_large.accelerate` against other ways to run the same Hugging Face model on a CPU.

    python benchmarks/hugging_face.py [--precision bf16] [--layers 12]             # fine-tuning, random weights
    python benchmarks/hugging_face.py --model-dir DIR --texts FILE [--precision bf16]   # inference

Fine-tuning: optimizer steps of a classifier of BERT-base's shape on sequences with the lengths of SST-2's sentences,
padded to the longest of the batch as the Trainer does, with its optimizer (fused AdamW) and gradient clipping.

Inference: embeddings of the sentences of FILE, one per line, with the model of a folder. Three comparisons: the encoder
alone, where all variants get the same token ids in the same batches, padded to the longest of the batch, once in the
order of the file and once sorted by length; and from text to embeddings, where `embed` and the loop of
sentence-transformers tokenize, sort and batch.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bert_large
import numpy as np
import torch
from bert_large.bench.options import COUNT, BenchmarkOptions, parse_options, script_parser
from bert_large.bench.output import describe_run, measure_and_print, run_script
from bert_large.bench.training import SEED
from bert_large.config.options import option
from bert_large.engines.precision import Precision, apply_precision
from bert_large.errors import InputError
from bert_large.observe.machine import package_version
from bert_large.observe.timing import Timing, Variant, alternate, as_dicts, format_spread, spread
from bert_large.tables import format_table

OURS = ("accelerate", "embed")
_LENGTH_SHAPE = 4.5
"""Shape of the gamma distribution of lengths: with a mean of 25 tokens, the standard deviation is 11.8."""
_SHORTEST, _LONGEST = 4, 128
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class HuggingFaceOptions(BenchmarkOptions):
    """Options of this benchmark."""

    engine: str = "native"
    rounds: int = option(15, "timed rounds", within=COUNT)
    layers: int = option(12, "encoder layers", within=COUNT)
    hidden_size: int = option(768, "hidden size", within=COUNT)
    batch_size: int = option(32, "sequences of a batch", within=COUNT)
    steps: int = option(1, "optimizer steps per round", within=COUNT)
    mean_tokens: float = option(25.0, "mean tokens of a sequence", within="[4, 128]")
    model_dir: Path | None = option(None, "model folder, to measure inference")
    texts: Path | None = option(None, "sentences for inference, one per line")
    sentences: int = option(512, "sentences per round of inference, the first ones", within=COUNT)


def measure(options: HuggingFaceOptions) -> dict[str, Any]:
    """Measure fine-tuning, or inference if there is a model folder."""
    if (options.model_dir is None) != (options.texts is None):
        raise InputError("--model-dir and --texts are for inference, expected both or neither")
    precision = apply_precision(options.precision)
    if options.model_dir is None or options.texts is None:
        return _measure_training(options, precision)
    return _measure_inference(options, precision, options.model_dir, options.texts)


def make_batches(options: HuggingFaceOptions) -> list[Batch]:
    """Return the padded batches of one round, with labels of two classes."""
    draw = np.random.default_rng(SEED)
    batches = []
    for _ in range(options.steps):
        lengths = draw.gamma(_LENGTH_SHAPE, options.mean_tokens / _LENGTH_SHAPE, options.batch_size)
        lengths = lengths.round().clip(_SHORTEST, _LONGEST).astype(int)
        mask = torch.from_numpy((np.arange(lengths.max()) < lengths[:, None]).astype(np.int64))
        ids = torch.from_numpy(draw.integers(1, options.vocab_size, mask.shape))
        labels = torch.from_numpy(draw.integers(2, size=options.batch_size))
        batches.append({"input_ids": ids * mask, "attention_mask": mask, "labels": labels})
    return batches


def _training_variant(model: Any, batches: Sequence[Batch], precision: Precision) -> Variant:
    """Return optimizer steps as the Trainer runs them."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01, fused=True)

    def run(round_: int) -> None:
        for batch in batches:
            with precision.autocast():
                loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return Variant(run)


def _measure_training(options: HuggingFaceOptions, precision: Precision) -> dict[str, Any]:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(SEED)
    config = BertConfig(**options.model.to_hugging_face() | {"num_labels": 2, "attn_implementation": "eager"})
    models = {"eager": BertForSequenceClassification(config)}
    for name in ("sdpa", "accelerate"):
        models[name] = copy.deepcopy(models["eager"])
        models[name].set_attn_implementation("sdpa")
    bert_large.accelerate(models["accelerate"])
    batches = make_batches(options)
    variants = {name: _training_variant(model, batches, precision) for name, model in models.items()}
    timings = alternate(variants, rounds=options.rounds, warmups=options.warmups)
    mask = torch.cat([batch["attention_mask"].flatten() for batch in batches])
    facts = {
        "sequences": options.batch_size * options.steps,
        "tokens": int(mask.sum()),
        "positions": {"in batches": len(mask)},
    }
    return _results("fine-tuning", options, facts, {"training": timings})


def _measure_inference(options: HuggingFaceOptions, precision: Precision, folder: Path, path: Path) -> dict[str, Any]:
    from bert_large.finetune.tokenizer import load_tokenizer

    texts = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()][: options.sentences]
    tokenizer = load_tokenizer(folder)
    rows = tokenizer(texts, truncation=True)["input_ids"]
    orders = {"file order": rows, "sorted by length": sorted(rows, key=len, reverse=True)}
    batches = {
        order: [
            dict(tokenizer.pad({"input_ids": ordered[start : start + options.batch_size]}, return_tensors="pt"))
            for start in range(0, len(rows), options.batch_size)
        ]
        for order, ordered in orders.items()
    }
    positions = {order: sum(batch["input_ids"].numel() for batch in of) for order, of in batches.items()}
    facts = {"sequences": len(rows), "tokens": sum(map(len, rows)), "positions": positions}
    with tempfile.TemporaryDirectory() as scratch:
        encoders = _encoders(folder, precision, batches["file order"][0], Path(scratch))
        groups = {
            f"encoder, {order}": {
                name: Variant(lambda round_, run=run, of=of: [run(batch) for batch in of])  # type: ignore[misc]
                for name, run in encoders.items()
            }
            for order, of in batches.items()
        }
        groups["text to embeddings"] = _from_text(options, precision, folder, texts)
        timings = {
            group: alternate(variants, rounds=options.rounds, warmups=options.warmups)
            for group, variants in groups.items()
        }
    return _results("inference", options, facts, timings)


def _encoders(folder: Path, precision: Precision, sample: Batch, scratch: Path) -> dict[str, Callable[[Batch], object]]:
    """Return the ways to compute hidden states of a padded batch."""
    from transformers import AutoModel

    def in_pytorch(attention: str, accelerated: bool = False) -> Callable[[Batch], object]:
        model = AutoModel.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32).eval()
        if accelerated:
            bert_large.accelerate(model)

        def run(batch: Batch) -> object:
            with torch.inference_mode(), precision.autocast():
                return model(**batch).last_hidden_state

        return run

    found = {"eager": in_pytorch("eager"), "sdpa": in_pytorch("sdpa"), "accelerate": in_pytorch("sdpa", True)}
    if package_version("onnxruntime") is not None:
        found["onnxruntime"] = _in_onnxruntime(AutoModel.from_pretrained(folder).eval(), sample, scratch)
    return found


def _in_onnxruntime(model: Any, sample: Batch, scratch: Path) -> Callable[[Batch], object]:
    """Return the model in onnxruntime, with the fusions that it has for BERT. It computes in fp32: it has no bf16."""
    import onnxruntime
    from onnxruntime.transformers.optimizer import optimize_model

    model.set_attn_implementation("eager")
    names = list(sample)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=model.config.max_position_embeddings)}
    path = scratch / "model.onnx"
    torch.onnx.export(
        model, (), str(path), kwargs=sample, input_names=names, output_names=["last_hidden_state"],
        dynamic_shapes=dict.fromkeys(names, axes), dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    config = model.config
    fused = optimize_model(
        str(path), model_type="bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size
    )
    fused.save_model_to_file(str(path))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(["last_hidden_state"], {name: batch[name].numpy() for name in names})


def _from_text(
    options: HuggingFaceOptions, precision: Precision, folder: Path, texts: Sequence[str]
) -> dict[str, Variant]:
    """Return the ways to compute normalized embeddings from texts."""
    from bert_large.inference.embedder import load_embedder

    embedder = load_embedder(folder, engine="native", precision=precision)
    variants = {"embed": Variant(lambda round_: embedder(texts))}
    if package_version("sentence-transformers") is not None:
        from sentence_transformers import SentenceTransformer

        theirs = SentenceTransformer(str(folder), device="cpu")

        def encode(round_: int) -> None:
            with precision.autocast():
                theirs.encode(list(texts), batch_size=options.batch_size, show_progress_bar=False)

        variants["sentence_transformers"] = Variant(encode)
    return variants


def _results(
    work: str, options: HuggingFaceOptions, facts: Mapping[str, Any], groups: Mapping[str, Mapping[str, Timing]]
) -> dict[str, Any]:
    found: dict[str, Any] = {**describe_run("hugging_face", options, options.engine), "work": work, **facts}
    found["transformers"] = package_version("transformers")
    found["comparisons"] = {
        group: {"seconds": as_dicts(timings), "speedup": _speedups(timings)} for group, timings in groups.items()
    }
    return found


def _speedups(timings: Mapping[str, Timing]) -> dict[str, dict[str, Any]]:
    """Return how often as fast as every other variant ours is, from the ratios round by round."""
    ours = next(timings[name] for name in OURS if name in timings)
    return {name: spread(timing.over(ours)) for name, timing in timings.items() if name not in OURS}


def render(results: dict[str, Any]) -> str:
    """Return the results as text."""
    positions = ", ".join(f"{count} ({order})" for order, count in results["positions"].items())
    lines = [
        f"{results['work']}, {results['precision']}: {results['sequences']} sequences, {results['tokens']} tokens in "
        f"positions with padding: {positions}; {results['rounds']} alternating rounds, {results['threads']} threads"
    ]
    for group, compared in results["comparisons"].items():
        rows = [[group, "seconds", "sequences/s", "our speed-up"]]
        for name, timing in compared["seconds"].items():
            speedup = compared["speedup"].get(name)
            rate = results["sequences"] / timing["median"]
            rows.append([name, f"{timing['median']:.4f}", f"{rate:.1f}", format_spread(speedup) if speedup else ""])
        lines.append(format_table(rows))
    return "\n\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = script_parser(HuggingFaceOptions, "time Hugging Face's BERT with and without bert_large.accelerate")
    return measure_and_print(parse_options(HuggingFaceOptions, parser.parse_args(argv)), measure, render)


if __name__ == "__main__":
    sys.exit(run_script(main))
