"""Accelerated models in the Trainer, in Accelerate and in `DistributedDataParallel`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bert_large
import pytest
import torch
from torch import Tensor

transformers = pytest.importorskip("transformers", minversion="5", reason="needs Hugging Face's transformers")

from tests.support.transformers_models import (  # noqa: E402
    add_labels,
    assert_same,
    gradients_of,
    make_inputs,
    make_model,
)

CLASSIFIER = "BertForSequenceClassification"


def examples(count: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    rows = []
    for number in range(count):
        length = int(torch.randint(3, 20, (), generator=generator))
        ids = torch.randint(5, 120, (length,), generator=generator)
        rows.append({"input_ids": ids, "attention_mask": torch.ones(length), "labels": torch.tensor(number % 3)})
    return rows


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    def padded(name: str) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence([row[name].long() for row in rows], batch_first=True)

    return {name: padded(name) for name in ("input_ids", "attention_mask")} | {
        "labels": torch.stack([row["labels"] for row in rows])
    }


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True])
def test_trainer(bf16: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Losses of training, with fused AdamW, accumulation and clipping, and of evaluation; the model that it saves."""
    pytest.importorskip("accelerate")
    losses: list[list[float]] = []
    for change in (bert_large.restore, bert_large.accelerate):
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, bf16=bf16, per_device_train_batch_size=4, max_steps=8,
            gradient_accumulation_steps=2, logging_steps=1, learning_rate=2e-3, report_to=[], save_strategy="no",
            optim="adamw_torch_fused", max_grad_norm=0.5, disable_tqdm=True, seed=1,
        )  # fmt: skip
        model = change(make_model(CLASSIFIER))
        trainer = transformers.Trainer(model, arguments, collate, train_dataset=examples(40), eval_dataset=examples(10))
        trainer.train()
        history = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        losses.append([*history, trainer.evaluate()["eval_loss"]])
        trainer.save_model(str(tmp_path / "model"))
        loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
        assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
    assert len(losses[0]) == 9 and losses[0][-1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=0.03 if bf16 else 1e-4)
    assert not [record for record in caplog.records if record.name == "bert_large"]


def test_accelerate_library() -> None:
    library = pytest.importorskip("accelerate")
    library.state.AcceleratorState._reset_state(reset_partial_state=True)  # which a Trainer has set before
    model, inputs = make_model(CLASSIFIER), add_labels(CLASSIFIER, make_inputs())
    expected = gradients_of(model, inputs)
    accelerator = library.Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(
        bert_large.accelerate(model), torch.optim.AdamW(model.parameters(), lr=1e-3)
    )
    loss = prepared(**inputs).loss
    optimizer.zero_grad()
    accelerator.backward(loss)
    found = {name: value.grad for name, value in accelerator.unwrap_model(prepared).named_parameters()}
    assert_same({"loss": loss.detach()} | found, expected, 1e-5)


def _train_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = bert_large.accelerate(make_model(CLASSIFIER))
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    inputs = {name: value[rank::2] for name, value in _global_batch().items()}
    with parallel.no_sync():
        parallel(**inputs).loss.backward()
    parallel(**inputs).loss.backward()
    torch.save({name: value.grad for name, value in model.named_parameters()}, f"{folder}/gradients-{rank}.pt")
    torch.distributed.destroy_process_group()


def _global_batch() -> dict[str, Tensor]:
    return add_labels(CLASSIFIER, make_inputs(lengths=(9, 3, 14, 1, 7, 5)))


@pytest.mark.slow
def test_distributed_data_parallel(tmp_path: Path) -> None:
    """Gradients of two ranks, summed over two micro-batches, are those of one process."""
    torch.multiprocessing.spawn(_train_rank, (str(tmp_path),), nprocs=2)
    expected: dict[str, Any] = gradients_of(make_model(CLASSIFIER), _global_batch())
    del expected["loss"]
    for rank in range(2):
        found = torch.load(tmp_path / f"gradients-{rank}.pt")
        assert_same({name: value / 2 for name, value in found.items()}, expected, 1e-5)
