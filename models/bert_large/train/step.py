"""One optimizer step: forward and backward passes of micro-batches, one all-reduce, clipping, update."""

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
from bert_large.data.order import BatchSizes
from bert_large.distributed.collectives import Ranks
from bert_large.distributed.gradients import GradientSum
from bert_large.distributed.sharding import ParameterShards
from bert_large.engines.precision import Precision
from bert_large.log import LOGGER
from bert_large.model.bert import BertForPreTraining, PretrainingSums
from bert_large.model.dropout import StepDropout
from bert_large.observe.metrics import StepMetrics, mean, mean_or_none
from bert_large.observe.stages import stage_marker
from bert_large.optim.build import clip_gradients, set_rate
from bert_large.optim.schedule import Schedule
from bert_large.train.bad_steps import NonFiniteLossError, SkippedSteps
from bert_large.train.loss import as_row, masked_lm_loss, micro_batch_loss
from bert_large.train.state import LossScale
from bert_large.train.stopping import StopRequest, WorkDropped


@dataclass
class StepRunner:
    """Carries out optimizer steps of one model on this rank."""

    model: BertForPreTraining
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    ranks: Ranks
    precision: Precision
    batch_sizes: BatchSizes
    max_gradient_norm: float
    seed: int
    loss_scale: LossScale | None = None
    """Loss scale of the next step. If None, the initial one, if the precision scales the loss."""
    max_bad_steps: int = 5
    """Number of steps in a row without an update that ends the run, if the precision does not scale the loss."""
    skipped: SkippedSteps = field(default_factory=SkippedSteps)
    """Counts of steps without an update so far."""
    gradient_sum: GradientSum = field(default_factory=GradientSum)
    shards: ParameterShards | None = None
    """The assignment of parameters to the ranks' optimizers. If None, every rank updates all parameters."""
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
    ) -> StepMetrics:
        """Train on this rank's part of global batch `step` (from 0).

        Losses are normalized over the global batch, so they depend neither on the cut into micro-batches nor on the
        number of ranks. `on_sequences(done)` is called before each micro-batch with this rank's sequences done.
        A step whose loss or gradient is not finite makes no update and is logged; its metrics are returned as they are,
        including the non-finite values. All ranks decide the same way, from the same values. Raises
        `NonFiniteLossError` if there were too many such steps, and `WorkDropped`, before anything but gradients has
        changed, if a stop is requested and the step would miss its deadline.
        """
        started = time.perf_counter()
        size = self.batch_sizes.size(step)
        counts = [sum(batch.masked_tokens for batch in micro_batches), sum(batch.tokens for batch in micro_batches)]
        masked_tokens, tokens = self.ranks.sum(torch.tensor(counts, dtype=torch.float64)).tolist()
        sums = self._accumulate_gradients(step, micro_batches, (masked_tokens, size), started, on_sequences)
        masked_lm, masked_lm_correct, next_sentence, next_sentence_correct = self.ranks.sum(sums).tolist()
        masked_lm_mean = masked_lm_loss(masked_lm, masked_tokens)
        loss = masked_lm_mean + mean(next_sentence, size)
        gradient_norm = self._gradient_norm()
        rate = self.schedule.rate(step)
        if math.isfinite(loss) and math.isfinite(gradient_norm):
            self._update(rate, gradient_norm)
        else:
            self._skip_update(step, loss, gradient_norm)

        next_sentences = self.model.next_sentence_predictions(size)
        seconds = time.perf_counter() - started + data_seconds
        return StepMetrics(
            step=step + 1,
            samples=self.batch_sizes.samples(step + 1),
            loss=loss,
            masked_lm_loss=masked_lm_mean,
            next_sentence_loss=mean_or_none(next_sentence, next_sentences),
            masked_lm_accuracy=mean(masked_lm_correct, masked_tokens),
            next_sentence_accuracy=mean_or_none(next_sentence_correct, next_sentences),
            learning_rate=rate,
            gradient_norm=gradient_norm,
            sequences_per_second=mean(size, seconds),
            tokens_per_second=mean(tokens, seconds),
            seconds=seconds,
            data_seconds=data_seconds,
            skipped_updates=self.skipped.total,
        )

    def _accumulate_gradients(
        self,
        step: int,
        micro_batches: list[RaggedBatch],
        counts: tuple[float, int],
        started: float,
        on_sequences: Callable[[int], None],
    ) -> torch.Tensor:
        """Compute the gradients of the global batch and return this rank's sums [4], in the order of `loss.as_row`.

        `counts` are the masked tokens and the sequences of the global batch.
        """
        # Free the gradients, or zero them in place if `DistributedDataParallel` keeps them in its own buckets.
        self.model.zero_grad(set_to_none=self._replica is self.model)
        sums = torch.zeros(4, dtype=torch.float64)
        dropout, done = StepDropout(self.seed, step), 0
        sequences = sum(batch.records for batch in micro_batches)
        for number, batch in enumerate(micro_batches):
            on_sequences(done)
            is_last = number == len(micro_batches) - 1
            drops = self.stop_request.drops_step(time.perf_counter() - started, done / sequences)
            # Every rank takes part in this exactly once: either before its last micro-batch, whose backward pass sums
            # gradients over ranks, or earlier, and then it leaves the step, as all ranks do.
            if (drops or is_last) and self.ranks.any(drops):
                raise WorkDropped
            with self._gradient_communication(is_last):
                sums += as_row(self._forward_backward(batch, dropout, counts))
            done += batch.records
        return sums

    def _forward_backward(self, batch: RaggedBatch, dropout: StepDropout, counts: tuple[float, int]) -> PretrainingSums:
        with self.precision.autocast():
            sums: PretrainingSums = self._replica(batch, dropout)
        loss = micro_batch_loss(sums, *counts) * self._loss_factor
        # Outside autograd's nodes, the last micro-batch's backward pass waits for the sums of gradients over ranks.
        with stage_marker("communication" if self.ranks.world_size > 1 else "rest"):
            loss.backward()
        return sums

    def _gradient_communication(self, is_last: bool) -> contextlib.AbstractContextManager[object]:
        """Return the context for a backward pass: only the last micro-batch sums gradients over ranks."""
        if is_last:
            self.ranks.meet()
        if is_last or not isinstance(self._replica, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._replica.no_sync()

    def _gradient_norm(self) -> float:
        """Return the global norm of the gradients without the loss scale."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        return self.model.engine.global_norm(gradients) / self._loss_factor

    @property
    def _loss_factor(self) -> float:
        """Factor of this step's loss, and therefore of its gradients."""
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
        """Count the step, and halve the loss scale if there is one, which may make the next step succeed."""
        found = f"step {step + 1}: loss {loss}, gradient norm {gradient_norm}"
        self.skipped = self.skipped.after_skip()
        if self.loss_scale is None:
            if self.skipped.in_a_row >= self.max_bad_steps:
                raise NonFiniteLossError(
                    f"{found}; the last {self.skipped.in_a_row} steps made no update (limit: --max-bad-steps)"
                )
            LOGGER.info("%s: update skipped, %d in a row", found, self.skipped.in_a_row)
            return
        lowered = self.loss_scale.after_overflow()
        if lowered is None:
            raise NonFiniteLossError(
                f"{found}; no update was made; the loss scale is already {self.loss_scale.scale:g} and cannot be "
                "lowered further. bf16 and fp32 need no loss scale"
            )
        self.loss_scale = lowered
        LOGGER.info("%s: update skipped, loss scale halved to %g", found, lowered.scale)
