"""One optimizer step: micro-batches forward and backward, one all-reduce, clip, update."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bert_large.data.batch import RaggedBatch
from bert_large.distributed.environment import Ranks
from bert_large.engines.precision import Precision
from bert_large.errors import UserError
from bert_large.model.bert import BertForPreTraining, PretrainingSums
from bert_large.model.dropout import StepDropout
from bert_large.observe.console import LOGGER
from bert_large.observe.metrics import MASKED_LM_EPSILON, StepFigures, masked_lm_loss, mean
from bert_large.optim.build import clip_gradients, set_rate
from bert_large.optim.schedule import Schedule
from bert_large.train.loss_scale import LossScale
from bert_large.train.stopping import StopRequest, WorkDropped


class NonFiniteLossError(UserError):
    """The loss or the gradient is infinite or not a number, in fp16 at the smallest loss scale as well."""


@dataclass
class StepRunner:
    """Carries out optimizer steps of one model on this rank."""

    model: BertForPreTraining
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    ranks: Ranks
    precision: Precision
    global_batch_size: int
    max_gradient_norm: float
    seed: int
    loss_scale: LossScale | None = None
    """The next step's, where the precision scales the loss; None: as a run begins."""
    stop_request: StopRequest = field(default_factory=StopRequest)

    def __post_init__(self) -> None:
        if self.precision.scales_loss and self.loss_scale is None:
            self.loss_scale = LossScale()
        self._parameters = list(self.model.parameters())
        self._replica: nn.Module = self.model
        if self.ranks.world_size > 1:
            self._replica = DistributedDataParallel(self.model, gradient_as_bucket_view=True)

    def run(
        self, step: int, micro_batches: list[RaggedBatch], data_seconds: float, on_sequences: Callable[[int], None]
    ) -> StepFigures:
        """Train on this rank's part of global batch `step` (from 0).

        Losses are normalised over the global batch, so they depend neither on the cut into micro-batches nor on the
        number of ranks. `on_sequences(done)` is called before each micro-batch with this rank's sequences done.
        In fp16 a step whose loss or gradient is not finite makes no update, and says so in the log; its figures are
        told as they are. Raises `NonFiniteLossError` where that cannot help, and `WorkDropped` when the step would not
        end by the deadline of a stop: nothing has changed then but gradients.
        """
        started = time.perf_counter()
        counts = torch.tensor(
            [sum(batch.masked_tokens for batch in micro_batches), sum(batch.tokens for batch in micro_batches)],
            dtype=torch.float64,
        )
        masked_tokens, tokens = self.ranks.sum(counts).tolist()
        self._zero_gradients()
        sums = torch.zeros(4, dtype=torch.float64)
        dropout, done = StepDropout(self.seed, step), 0
        sequences = sum(batch.sequences for batch in micro_batches)
        for number, batch in enumerate(micro_batches):
            on_sequences(done)
            is_last = number == len(micro_batches) - 1
            drops = self.stop_request.drops_step(time.perf_counter() - started, done / sequences)
            if (drops or is_last) and self.ranks.any(drops):  # each rank comes here once, before gradients are summed
                raise WorkDropped
            with self._communication(is_last):
                result = self._forward_backward(batch, dropout, masked_tokens)
            sums += _as_row(result)
            done += batch.sequences
        sums = self.ranks.sum(sums)

        gradient_norm = self.model.engine.global_norm(
            [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        )
        gradient_norm /= self._gradient_factor()
        masked_lm, masked_lm_correct, next_sentence, next_sentence_correct = sums.tolist()
        loss_1, loss_2 = masked_lm_loss(masked_lm, masked_tokens), mean(next_sentence, self.global_batch_size)
        rate = self.schedule.rate(step)
        if math.isfinite(loss_1 + loss_2) and math.isfinite(gradient_norm):
            self._update(rate, gradient_norm)
        else:
            self._skip_update(step, loss_1 + loss_2, gradient_norm)

        seconds = time.perf_counter() - started + data_seconds
        return StepFigures(
            step=step + 1,
            samples=(step + 1) * self.global_batch_size,
            loss=loss_1 + loss_2,
            masked_lm_loss=loss_1,
            next_sentence_loss=loss_2,
            masked_lm_accuracy=mean(masked_lm_correct, masked_tokens),
            next_sentence_accuracy=mean(next_sentence_correct, self.global_batch_size),
            learning_rate=rate,
            gradient_norm=gradient_norm,
            sequences_per_second=mean(self.global_batch_size, seconds),
            tokens_per_second=mean(tokens, seconds),
            seconds=seconds,
            data_seconds=data_seconds,
        )

    def _forward_backward(self, batch: RaggedBatch, dropout: StepDropout, masked_tokens: float) -> PretrainingSums:
        with self.precision.autocast():
            result = self._replica(batch, dropout)
        loss = result.masked_lm_loss / (masked_tokens + MASKED_LM_EPSILON)
        loss = loss + result.next_sentence_loss / self.global_batch_size
        (loss * self._loss_factor()).backward()
        return result

    def _loss_factor(self) -> float:
        """Return what this step's loss is multiplied by.

        `DistributedDataParallel` averages gradients over ranks, and the losses are normalised for their sum: hence the
        number of ranks. A loss scale takes its place, so that what overflows does not depend on that number.
        """
        return self.ranks.world_size if self.loss_scale is None else self.loss_scale.scale

    def _gradient_factor(self) -> float:
        """Return what this step's gradients, averaged over ranks, are multiplied by."""
        return self._loss_factor() / self.ranks.world_size

    def _update(self, rate: float, gradient_norm: float) -> None:
        set_rate(self.optimizer, rate)
        clip_gradients(self.optimizer, gradient_norm, self.max_gradient_norm, self._gradient_factor())
        self.optimizer.step()
        if self.loss_scale is not None:
            self.loss_scale = self.loss_scale.after_update()

    def _skip_update(self, step: int, loss: float, gradient_norm: float) -> None:
        """Halve the loss scale, so that the next step can do better; all ranks decide alike, from the same figures."""
        found = f"step {step + 1}: loss {loss}, gradient norm {gradient_norm}"
        if self.loss_scale is None:
            raise NonFiniteLossError(
                f"{found}; the update was not made. Start again from the last checkpoint with a lower --learning-rate "
                "or in fp32"
            )
        lowered = self.loss_scale.after_overflow()
        if lowered is None:
            raise NonFiniteLossError(
                f"{found}, though the loss scale is down to {self.loss_scale.scale:g} and may not fall below 1; the "
                "update was not made. Start again from an earlier checkpoint with a lower --learning-rate, or in bf16 "
                "or fp32"
            )
        self.loss_scale = lowered
        LOGGER.info("%s: update skipped, loss scale halved to %g", found, lowered.scale)

    def _zero_gradients(self) -> None:
        """Drop gradients, or clear them where `DistributedDataParallel` gathers them in buckets of its own."""
        self.optimizer.zero_grad(set_to_none=self._replica is self.model)

    def _communication(self, is_last: bool) -> contextlib.AbstractContextManager[object]:
        """Gradients are summed over ranks in the last micro-batch's backward pass only."""
        if is_last or not isinstance(self._replica, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._replica.no_sync()


def _as_row(result: PretrainingSums) -> torch.Tensor:
    values = (result.masked_lm_loss, result.masked_lm_correct, result.next_sentence_loss, result.next_sentence_correct)
    return torch.tensor([float(value.detach()) for value in values], dtype=torch.float64)
