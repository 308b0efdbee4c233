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
from bert_large.distributed.collectives import Ranks
from bert_large.distributed.gradients import GradientSum
from bert_large.distributed.sharding import ParameterShards
from bert_large.engines.precision import Precision
from bert_large.errors import UserError
from bert_large.log import LOGGER
from bert_large.model.bert import BertForPreTraining, PretrainingSums
from bert_large.model.dropout import StepDropout
from bert_large.observe.metrics import MASKED_LM_EPSILON, StepFigures, masked_lm_loss, mean, mean_or_none
from bert_large.observe.stages import stage_marker
from bert_large.optim.build import clip_gradients, set_rate
from bert_large.optim.schedule import Schedule
from bert_large.train.bad_steps import SkippedSteps
from bert_large.train.loss_scale import LossScale
from bert_large.train.stopping import StopRequest, WorkDropped


class NonFiniteLossError(UserError):
    """The loss or the gradient is not finite, for too many steps in a row or in fp16 at the smallest loss scale."""


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
    max_bad_steps: int = 5
    """Steps in a row without an update that end the run, where no loss scale does."""
    skipped: SkippedSteps = field(default_factory=SkippedSteps)
    """Steps without an update, up to now."""
    gradient_sum: GradientSum = field(default_factory=GradientSum)
    shards: ParameterShards | None = None
    """Whose parameters the optimizer holds; None: all of them, on every rank."""
    stop_request: StopRequest = field(default_factory=StopRequest)

    def __post_init__(self) -> None:
        if self.precision.scales_loss and self.loss_scale is None:
            self.loss_scale = LossScale()
        self._parameters = list(self.model.parameters())
        self._replica: nn.Module = self.model
        if self.ranks.world_size > 1:
            self._replica = self.gradient_sum.replicate(self.model, self.ranks)

    def run(
        self, step: int, micro_batches: list[RaggedBatch], data_seconds: float, on_sequences: Callable[[int], None]
    ) -> StepFigures:
        """Train on this rank's part of global batch `step` (from 0).

        Losses are normalised over the global batch, so they depend neither on the cut into micro-batches nor on the
        number of ranks. `on_sequences(done)` is called before each micro-batch with this rank's sequences done.
        A step whose loss or gradient is not finite makes no update, and says so in the log; its figures are told as
        they are. All ranks decide alike, from the same figures. Raises `NonFiniteLossError` where that cannot help, and
        `WorkDropped` when the step would not end by the deadline of a stop: nothing has changed then but gradients.
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
        gradient_norm /= self._loss_factor
        masked_lm, masked_lm_correct, next_sentence, next_sentence_correct = sums.tolist()
        loss_1, loss_2 = masked_lm_loss(masked_lm, masked_tokens), mean(next_sentence, self.global_batch_size)
        rate = self.schedule.rate(step)
        if math.isfinite(loss_1 + loss_2) and math.isfinite(gradient_norm):
            self._update(rate, gradient_norm)
        else:
            self._skip_update(step, loss_1 + loss_2, gradient_norm)

        next_sentences = self.model.next_sentence_predictions(self.global_batch_size)
        seconds = time.perf_counter() - started + data_seconds
        return StepFigures(
            step=step + 1,
            samples=(step + 1) * self.global_batch_size,
            loss=loss_1 + loss_2,
            masked_lm_loss=loss_1,
            next_sentence_loss=mean_or_none(next_sentence, next_sentences),
            masked_lm_accuracy=mean(masked_lm_correct, masked_tokens),
            next_sentence_accuracy=mean_or_none(next_sentence_correct, next_sentences),
            learning_rate=rate,
            gradient_norm=gradient_norm,
            sequences_per_second=mean(self.global_batch_size, seconds),
            tokens_per_second=mean(tokens, seconds),
            seconds=seconds,
            data_seconds=data_seconds,
            skipped_updates=self.skipped.total,
        )

    def _forward_backward(self, batch: RaggedBatch, dropout: StepDropout, masked_tokens: float) -> PretrainingSums:
        with self.precision.autocast():
            result = self._replica(batch, dropout)
        loss = result.masked_lm_loss / (masked_tokens + MASKED_LM_EPSILON)
        loss = (loss + result.next_sentence_loss / self.global_batch_size) * self._loss_factor
        # Outside autograd's nodes, the last micro-batch's backward pass waits for the sums of gradients over ranks.
        with stage_marker("communication" if self.ranks.world_size > 1 else "rest"):
            loss.backward()
        return result

    @property
    def _loss_factor(self) -> float:
        """What this step's loss is multiplied by, and so its gradients."""
        return 1.0 if self.loss_scale is None else self.loss_scale.scale

    def _update(self, rate: float, gradient_norm: float) -> None:
        set_rate(self.optimizer, rate)
        clip_gradients(self.optimizer, gradient_norm, self.max_gradient_norm, self._loss_factor)
        self.optimizer.step()
        self.skipped = self.skipped.after_update()
        if self.shards is not None:
            self.shards.share_weights()
        if self.loss_scale is not None:
            self.loss_scale = self.loss_scale.after_update()

    def _skip_update(self, step: int, loss: float, gradient_norm: float) -> None:
        """Count the step, and halve the loss scale if there is one, so that the next step can do better."""
        found = f"step {step + 1}: loss {loss}, gradient norm {gradient_norm}"
        self.skipped = self.skipped.after_skip()
        if self.loss_scale is None:
            if self.skipped.in_a_row >= self.max_bad_steps:
                raise NonFiniteLossError(
                    f"{found}; the update was not made, as in {self.skipped.in_a_row} steps in a row (--max-bad-steps)"
                )
            LOGGER.info("%s: update skipped, %d in a row", found, self.skipped.in_a_row)
            return
        lowered = self.loss_scale.after_overflow()
        if lowered is None:
            raise NonFiniteLossError(
                f"{found}, though the loss scale is down to {self.loss_scale.scale:g} and may not fall below 1; the "
                "update was not made. bf16 and fp32 need no loss scale"
            )
        self.loss_scale = lowered
        LOGGER.info("%s: update skipped, loss scale halved to %g", found, lowered.scale)

    def _zero_gradients(self) -> None:
        """Drop gradients, or clear them where `DistributedDataParallel` gathers them in buckets of its own."""
        self.model.zero_grad(set_to_none=self._replica is self.model)

    def _communication(self, is_last: bool) -> contextlib.AbstractContextManager[object]:
        """Gradients are summed over ranks in the last micro-batch's backward pass only."""
        if is_last:
            self.ranks.meet()
        if is_last or not isinstance(self._replica, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._replica.no_sync()


def _as_row(result: PretrainingSums) -> torch.Tensor:
    values = (result.masked_lm_loss, result.masked_lm_correct, result.next_sentence_loss, result.next_sentence_correct)
    return torch.tensor([float(value.detach()) for value in values], dtype=torch.float64)
