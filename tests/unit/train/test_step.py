"""One optimizer step: normalization over the global batch, clipping, the update, and its metrics."""

from __future__ import annotations

import dataclasses
import logging
import math

import pytest
import torch
from bert_large.config.hugging_face import BERT
from bert_large.config.training import OptimConfig
from bert_large.data.batch import RaggedBatch, make_batch
from bert_large.data.order import BatchSizes
from bert_large.distributed.collectives import Ranks
from bert_large.engines.precision import get_precision
from bert_large.observe.metrics import StepMetrics
from bert_large.optim.build import build_optimizer, build_schedule, get_moments
from bert_large.optim.lamb import Lamb
from bert_large.train.bad_steps import NonFiniteLossError, SkippedSteps
from bert_large.train.state import LossScale
from bert_large.train.step import StepRunner

from tests.support.models import randomize, tiny_model
from tests.support.records import make_records

RECORDS = make_records(12)
OPTIM = OptimConfig(learning_rate=0.05, total_steps=10, warmup_steps=2)


def make_runner(
    *,
    architecture: str = BERT,
    dropout: float = 0.1,
    max_gradient_norm: float = 1.0,
    precision: str = "fp32",
    loss_scale: LossScale | None = None,
    optimizer: str = "lamb",
    max_bad_steps: int = 5,
    skipped: SkippedSteps | None = None,
) -> StepRunner:
    optim = dataclasses.replace(OPTIM, optimizer=optimizer)
    model = tiny_model(architecture=architecture, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    randomize(model)
    return StepRunner(
        model=model, optimizer=build_optimizer(model, optim), schedule=build_schedule(OPTIM), ranks=Ranks(),
        precision=get_precision(precision), batch_sizes=BatchSizes(12), max_gradient_norm=max_gradient_norm, seed=42,
        loss_scale=loss_scale, max_bad_steps=max_bad_steps, skipped=skipped or SkippedSteps(),
    )  # fmt: skip


def cut(*sizes: int) -> list[RaggedBatch]:
    batches, start = [], 0
    for size in sizes:
        batches.append(make_batch(RECORDS[start : start + size], range(start, start + size)))
        start += size
    return batches


def run(runner: StepRunner, step: int, batches: list[RaggedBatch]) -> StepMetrics:
    return runner.run(step, batches, 0.5, lambda done: None)


def seen_by_the_first_update(runner: StepRunner) -> list[torch.Tensor]:
    """Return the gradients of the first update, computed from the first moments of an optimizer with beta_1 = 0.9."""
    return [runner.optimizer.state[parameter]["exp_avg"] / (1 - 0.9) for parameter in runner.model.parameters()]


def test_losses_and_gradients_do_not_depend_on_the_cut() -> None:
    """Three steps with dropout, in one micro-batch, in four uneven ones and in one per sequence, in float32."""
    cuts = [(12,), (1, 5, 2, 4), (1,) * 12]
    runs = []
    for sizes in cuts:
        runner = make_runner()
        runs.append(([run(runner, step, cut(*sizes)) for step in range(3)], runner.model))
    (whole, whole_model), *others = runs
    for metrics, model in others:
        for one, other in zip(whole, metrics, strict=True):
            for name in ("masked_lm_loss", "next_sentence_loss", "gradient_norm"):
                assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-5), name
            assert other.masked_lm_accuracy == one.masked_lm_accuracy
        for (name, parameter), expected in zip(model.named_parameters(), whole_model.parameters(), strict=True):
            # A key's bias shifts all scores of a query equally, so its gradient and its update are rounding errors.
            if not name.endswith("key.bias"):
                torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-5, msg=name)


def test_a_growing_batch_is_normalized_by_its_own_size() -> None:
    """The first step has 4 sequences, and the others 12: each has the metrics of a constant batch of its size."""
    growing = make_runner()
    growing.batch_sizes = BatchSizes(12, start=4, ramp_steps=1)
    constant = make_runner()
    constant.batch_sizes = BatchSizes(4)
    first, expected = (run(runner, 0, cut(3, 1)) for runner in (growing, constant))
    for name in ("loss", "masked_lm_loss", "next_sentence_loss", "next_sentence_accuracy", "gradient_norm", "samples"):
        assert getattr(first, name) == getattr(expected, name), name
    assert first.sequences_per_second * first.seconds == pytest.approx(4)
    constant.batch_sizes = BatchSizes(12)
    second, expected = (run(runner, 1, cut(5, 7)) for runner in (growing, constant))
    assert (second.loss, second.next_sentence_loss) == (expected.loss, expected.next_sentence_loss)
    assert (second.samples, expected.samples) == (16, 24)
    assert second.sequences_per_second * second.seconds == pytest.approx(12)


def test_masked_lm_only() -> None:
    """The loss is that of masked tokens; next-sentence metrics are None, not 0."""
    metrics = run(make_runner(architecture="BertForMaskedLM"), 4, cut(5, 7))
    assert metrics.loss == metrics.masked_lm_loss > 0
    assert (metrics.next_sentence_loss, metrics.next_sentence_accuracy) == (None, None)


def test_metrics_are_those_of_the_global_batch() -> None:
    """Compared with the model's sums: masked-LM over (tokens + 1e-5), next sentence over sequences."""
    runner = make_runner(dropout=0.0)
    with torch.no_grad():
        sums = runner.model(make_batch(RECORDS, range(12)), None)
    masked = sum(len(record.masked_ids) for record in RECORDS)
    metrics = run(runner, 4, cut(5, 7))
    assert metrics.masked_lm_loss == pytest.approx(float(sums.masked_lm_loss) / (masked + 1e-5), rel=1e-6)
    assert metrics.next_sentence_loss == pytest.approx(float(sums.next_sentence_loss) / 12, rel=1e-6)
    assert metrics.next_sentence_loss is not None
    assert metrics.loss == metrics.masked_lm_loss + metrics.next_sentence_loss
    assert metrics.masked_lm_accuracy == int(sums.masked_lm_correct) / masked
    assert metrics.next_sentence_accuracy == int(sums.next_sentence_correct) / 12
    assert (metrics.step, metrics.samples) == (5, 60)
    assert metrics.learning_rate == pytest.approx(0.05 * (1 - 4 / 10))
    assert metrics.data_seconds == 0.5 and metrics.seconds > 0.5
    assert metrics.sequences_per_second * metrics.seconds == pytest.approx(12)
    tokens = sum(len(record.input_ids) for record in RECORDS)
    assert metrics.tokens_per_second * metrics.seconds == pytest.approx(tokens)


def test_the_gradient_is_that_of_the_normalized_loss_and_clipped() -> None:
    """Its norm before clipping is returned; the update scales it to the limit."""
    runner = make_runner(dropout=0.0, max_gradient_norm=0.01)
    metrics = run(runner, 0, cut(12))
    found = [parameter.grad.clone() for parameter in runner.model.parameters() if parameter.grad is not None]
    reference = make_runner(dropout=0.0)
    sums = reference.model(make_batch(RECORDS, range(12)), None)
    masked = sum(len(record.masked_ids) for record in RECORDS)
    (sums.masked_lm_loss / (masked + 1e-5) + sums.next_sentence_loss / 12).backward()
    gradients = [parameter.grad for parameter in reference.model.parameters() if parameter.grad is not None]
    norm = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
    assert metrics.gradient_norm == pytest.approx(norm, rel=1e-5)
    assert isinstance(runner.optimizer, Lamb)
    assert runner.optimizer.gradient_scale == pytest.approx(0.01 / norm, rel=1e-5)
    for ours, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-8)


def test_gradients_do_not_add_up_over_steps() -> None:
    """At rate 0 (the first step of warmup), running a step twice gives the same gradient."""
    runner = make_runner()
    first, second = (run(runner, 0, cut(6, 6)) for _ in range(2))
    assert first.learning_rate == 0.0
    assert second.gradient_norm == first.gradient_norm


def test_dropout_is_a_function_of_the_step() -> None:
    runner = make_runner()
    first, again, other = (run(runner, step, cut(12)).masked_lm_loss for step in (0, 0, 1))
    assert first == again != other


def state_of(runner: StepRunner) -> list[torch.Tensor]:
    """Return copies of all weights and moments, with values that are not finite replaced by comparable ones."""
    moments = get_moments(runner.model, runner.optimizer).values()
    return [tensor.detach().clone().nan_to_num(0.0, 1.0, 2.0) for tensor in (*runner.model.parameters(), *moments)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_skips_the_update(
    value: float, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Weights and moments do not change, the step is logged and counted, and the next good step updates."""
    runner = make_runner(precision=precision)
    run(runner, 1, cut(12))
    bias = runner.model.cls.predictions.bias
    good = float(bias[0].detach())
    with torch.no_grad():
        bias[0] = value
    before = state_of(runner)
    with caplog.at_level(logging.INFO, "bert_large"):
        metrics = [run(runner, step, cut(12)) for step in (2, 3)]
    assert all(map(torch.equal, before, state_of(runner)))
    assert [step.skipped_updates for step in metrics] == [1, 2] and not math.isfinite(metrics[0].loss)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and "step 4" in lines[1]
    with torch.no_grad():
        bias[0] = good
    assert run(runner, 4, cut(12)).skipped_updates == 2
    assert runner.skipped == SkippedSteps(2, 0)
    assert next(iter(runner.optimizer.state.values()))["step"] == 2
    assert not torch.equal(before[0], state_of(runner)[0])


def test_a_gradient_that_is_not_finite_skips_the_update_too() -> None:
    """Even if the loss is finite."""
    runner = make_runner()
    weight = runner.model.bert.embeddings.LayerNorm.weight
    hook = weight.register_hook(lambda gradient: gradient * float("inf"))
    before = state_of(runner)
    metrics = run(runner, 1, cut(12))
    assert math.isfinite(metrics.loss) and not math.isfinite(metrics.gradient_norm)
    assert metrics.skipped_updates == 1
    assert all(map(torch.equal, before, state_of(runner)))
    hook.remove()
    assert math.isfinite(run(runner, 2, cut(12)).gradient_norm) and runner.skipped == SkippedSteps(1, 0)


def test_too_many_bad_steps_in_a_row_end_the_run() -> None:
    """Those before a resume count, those before a good step do not."""
    runner = make_runner(max_bad_steps=3, skipped=SkippedSteps(7, 1))
    with torch.no_grad():
        runner.model.cls.predictions.bias[0] = float("nan")
    run(runner, 2, cut(12))
    with pytest.raises(NonFiniteLossError, match=r"step 4.*--max-bad-steps"):
        run(runner, 3, cut(12))
    assert runner.skipped == SkippedSteps(9, 3)
    assert NonFiniteLossError.exit_code == 1


def test_progress_within_a_step() -> None:
    """The number of sequences done is reported before each micro-batch."""
    reported: list[int] = []
    make_runner().run(0, cut(3, 4, 5), 0.0, reported.append)
    assert reported == [0, 3, 7]


@pytest.mark.parametrize("optimizer", ["lamb", "adamw"])
@pytest.mark.parametrize("max_gradient_norm", [0.01, 1e6])
def test_the_loss_scale_does_not_change_the_update(optimizer: str, max_gradient_norm: float) -> None:
    """With scales of 1 and 1024, clipped or not, norm and update agree to the precision of fp16.

    At scale 1, elements below 2^-14 lose bits. How many depends on the CPU: with fp16 instructions, products may be
    accumulated in another order than in emulation.
    """
    runners = [
        make_runner(
            dropout=0.0,
            max_gradient_norm=max_gradient_norm,
            precision="fp16",
            loss_scale=LossScale(scale),
            optimizer=optimizer,
        )
        for scale in (1.0, 1024.0)
    ]
    plain, scaled = (run(runner, 2, cut(5, 7)) for runner in runners)
    assert scaled.loss == plain.loss
    assert scaled.gradient_norm == pytest.approx(plain.gradient_norm, rel=1e-3)
    full = run(make_runner(dropout=0.0), 2, cut(5, 7))
    assert scaled.gradient_norm == pytest.approx(full.gradient_norm, rel=5e-3)
    ours, theirs = (torch.cat([seen.flatten() for seen in seen_by_the_first_update(runner)]) for runner in runners)
    assert float(ours.norm()) == pytest.approx(min(plain.gradient_norm, max_gradient_norm), rel=1e-4)
    assert float((ours - theirs).norm()) < 1e-3 * float(ours.norm())


def test_an_overflow_skips_the_update_and_halves_the_scale(caplog: pytest.LogCaptureFixture) -> None:
    """Until the gradients fit. Weights and moments change only then; every step's loss is returned."""
    runner = make_runner(precision="fp16", loss_scale=LossScale(2.0**24))
    before = [parameter.detach().clone() for parameter in runner.model.parameters()]
    skipped = 0
    with caplog.at_level(logging.INFO, "bert_large"):
        while not math.isfinite((metrics := run(runner, 2, cut(12))).gradient_norm):
            skipped += 1
            assert math.isfinite(metrics.loss)
            assert not runner.optimizer.state
            assert all(map(torch.equal, before, runner.model.parameters()))
    assert 0 < skipped < 20
    assert (runner.loss_scale, runner.skipped) == (LossScale(2.0 ** (24 - skipped), 1), SkippedSteps(skipped, 0))
    assert metrics.skipped_updates == skipped
    assert len(caplog.records) == skipped
    assert "step 3" in caplog.messages[0] and "8.38861e+06" in caplog.messages[0]
    assert next(iter(runner.optimizer.state.values()))["step"] == 1
    assert not all(map(torch.equal, before, runner.model.parameters()))


def test_a_scale_that_cannot_help_ends_the_run() -> None:
    """NaN in the weights: the scale is halved from 4 to 2 to 1, then the run ends, without an update."""
    runner = make_runner(precision="fp16", loss_scale=LossScale(4.0))
    with torch.no_grad():
        runner.model.cls.predictions.bias[0] = float("nan")
    for step in range(2):
        run(runner, step, cut(12))
    with pytest.raises(NonFiniteLossError, match=r"step 3.*loss scale"):
        run(runner, 2, cut(12))
    assert not runner.optimizer.state
