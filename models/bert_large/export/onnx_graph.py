"""ONNX graphs of the encoder and of the pretraining model, in the usual padded form.

The graph is that of the model in `transformers` with our weights. Before a file is kept, onnxruntime runs it, and its
outputs are compared with those of our model, which has no padding.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bert_large.config.hugging_face import Architecture
from bert_large.data.batch import RaggedBatch, make_batch
from bert_large.data.record import Record
from bert_large.engines.eager import EagerEngine
from bert_large.errors import InputError, UserError
from bert_large.extras import import_extra
from bert_large.model.bert import BertForPreTraining
from bert_large.model.pretrained import load_model, weights_of
from bert_large.storage.atomic import describe_bytes, explain_write_errors, sync_file
from bert_large.storage.output_folder import partial_folder, publish
from bert_large.train.initial_model import resolve_model_config

TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest value of an output; about 2e-6 was measured."""
_FILE_LIMIT_BYTES = 2**31  # of protobuf


class _PaddedGraph(nn.Module):
    """A model of `transformers` with positional inputs, int64 [batch, sequence], and the outputs that are named."""

    def __init__(self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model(**dict(zip(self.inputs, inputs, strict=True)))
        return tuple(getattr(found, name) for name in self.outputs)


def outputs_of(graph: str, architecture: Architecture) -> tuple[str, ...]:
    """Return the names of a graph's float32 outputs: per token and, with a next-sentence head, per sequence."""
    tokens, sequences = {
        "encoder": ("last_hidden_state", "pooler_output"),
        "pretraining": (architecture.prediction_output, "seq_relationship_logits"),
    }[graph]
    return (tokens, sequences) if architecture.has_next_sentence_head else (tokens,)


def export_onnx(checkpoint_dir: Path, output_dir: Path, graphs: Sequence[str], opset: int) -> dict[Path, float]:
    """Write `GRAPH.onnx` for each of `graphs`; return their paths, each with the largest difference from our model.

    All are made before the first file is moved into place. Raises `InputError` if a library is missing or the model is
    too large for the format, and `UserError` if the outputs of a file differ from our model's.
    """
    transformers = import_extra("--format onnx", "onnx", "transformers", "onnx", "onnxruntime", "onnxscript")
    config = resolve_model_config(None, checkpoint_dir, None)
    model = BertForPreTraining(config, EagerEngine())
    load_model(checkpoint_dir, model)
    # The file has the decoder's weights twice: as the embeddings and, transposed, for the product.
    needed_bytes = 4 * (sum(weight.numel() for weight in model.parameters()) + config.vocab_size * config.hidden_size)
    if needed_bytes > _FILE_LIMIT_BYTES:
        raise InputError(
            f"CHECKPOINT_DIR {checkpoint_dir}: an ONNX file holds at most {describe_bytes(_FILE_LIMIT_BYTES)}, this "
            f"model needs {describe_bytes(needed_bytes)}"
        )
    transformers.utils.logging.disable_progress_bar()
    theirs = _in_transformers(transformers, model)
    differences = {}
    with explain_write_errors(output_dir), partial_folder(output_dir) as partial:
        for graph in graphs:
            path, outputs = partial / f"{graph}.onnx", outputs_of(graph, config.traits)
            wrapped = _PaddedGraph(theirs.base_model if graph == "encoder" else theirs, config.traits.inputs, outputs)
            _write(path, wrapped, config.max_position_embeddings, opset)
            differences[output_dir / path.name] = _check(path, model, outputs, opset)
            sync_file(path)
        publish(partial, output_dir)
    return differences


def _in_transformers(transformers: Any, model: BertForPreTraining) -> Any:
    """Return the model of `transformers` with the weights of ours, in evaluation mode."""
    config = model.config
    settings = transformers.AutoConfig.for_model(**config.to_hugging_face())
    settings._attn_implementation = "eager"  # the other implementations do not export
    theirs = getattr(transformers, config.architecture)(settings)
    weights = {config.traits.weight_name(name): weight for name, weight in weights_of(model).items()}
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    # Its decoder shares the embeddings and the bias, under names of its own.
    assert not unexpected and all("decoder" in name or "projector" in name for name in missing), (missing, unexpected)
    return theirs.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's messages about libraries that are not installed and its own deprecated calls."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _write(path: Path, graph: _PaddedGraph, max_length: int, opset: int) -> None:
    # A size of 1 would become a constant, and one tensor given three times a single input.
    examples = tuple(torch.ones(3, 2, dtype=torch.int64) for _ in graph.inputs)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=max_length)}
    with _quiet(), torch.no_grad():
        torch.onnx.export(
            graph,
            examples,
            str(path),
            input_names=graph.inputs,
            output_names=graph.outputs,
            dynamic_shapes=((axes,) * len(graph.inputs),),  # `forward` has one parameter, for all inputs
            opset_version=opset,
            external_data=False,
            dynamo=True,
            verbose=False,
        )


def _check(path: Path, model: BertForPreTraining, outputs: Sequence[str], expected_opset: int) -> float:
    """Return the largest difference of a file's outputs from our model's; raise `UserError` if it is too large."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path))
    found_opset = {opset.domain: opset.version for opset in onnx.load(str(path)).opset_import}.get("")
    if found_opset != expected_opset:
        raise UserError(f"the exporter wrote opset {found_opset}, --opset is {expected_opset}; choose another")
    batch = sample_batch(model.config.vocab_size, model.config.max_position_embeddings)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = run_session(session, batch)
    expected = ragged_outputs(model, batch)
    differences = {name: relative_difference(found[name], expected[name]) for name in outputs}
    for name, difference in differences.items():
        if not difference <= TOLERANCE:  # or if it is not a number
            raise UserError(
                f"{name} of the ONNX graph is {difference:.1e} from the model's, relative to the largest value, "
                f"expected at most {TOLERANCE}; nothing was kept. Try other versions of torch, onnxscript and "
                "onnxruntime"
            )
    return max(differences.values())


def sample_batch(vocab_size: int, max_positions: int) -> RaggedBatch:
    """Return sequences of very different lengths, including the longest and the shortest possible."""
    generator = np.random.default_rng(0)
    records = []
    for length in (min(7, max_positions), 1, max_positions, max_positions // 2 + 1):
        ids = generator.integers(vocab_size, size=length, dtype=np.int32)
        segments = (np.arange(length) > length // 2).astype(np.uint8)
        records.append(Record(ids, segments, np.arange(length, dtype=np.int32), ids, 0))
    return make_batch(records, range(len(records)))


def run_session(session: Any, batch: RaggedBatch) -> dict[str, torch.Tensor]:
    """Run a graph on the padded batch; return its outputs, for tokens without the padding as [T, …]."""
    places = batch.sequence_ids.numpy(), batch.position_ids.numpy()
    ids, types = batch.input_ids, batch.token_type_ids
    values_of_tokens: dict[str, Any] = {"input_ids": ids, "attention_mask": 1, "token_type_ids": types}
    feeds = {item.name: np.zeros((batch.sequences, batch.max_length), np.int64) for item in session.get_inputs()}
    for name, rows in feeds.items():
        rows[places] = values_of_tokens[name]
    names = [output.name for output in session.get_outputs()]
    values = zip(names, session.run(names, feeds), strict=True)
    return {name: torch.from_numpy(value[places] if value.ndim == 3 else value) for name, value in values}


@torch.no_grad()
def ragged_outputs(model: BertForPreTraining, batch: RaggedBatch) -> dict[str, torch.Tensor]:
    """Return our model's values for every output of its graphs: [T, …] for tokens and [B, …] for sequences."""
    engine = EagerEngine()
    hidden = model.bert(batch, engine, None)
    head, words = model.cls.predictions, model.bert.embeddings.word_embeddings.weight
    transformed = engine.transform(hidden, head.transform.dense, model.config.hidden_act, head.transform.LayerNorm)
    outputs = {
        "last_hidden_state": hidden,
        model.config.traits.prediction_output: functional.linear(transformed, words, head.bias),
    }
    if model.bert.pooler is not None:
        outputs["pooler_output"] = model.bert.pooler(hidden[batch.cu_seqlens[:-1].long()])
        outputs["seq_relationship_logits"] = model.next_sentence_logits(batch, hidden)
    return outputs


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference divided by the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max())
