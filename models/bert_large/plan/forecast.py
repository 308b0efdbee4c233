"""From the data of a run and the speed of a machine to its hours, memory and disk space, and advice for a budget."""

from __future__ import annotations

import bisect
import dataclasses
import math
import os
from dataclasses import dataclass

from bert_large.config.presets import CONFIGURATIONS
from bert_large.cpu import read_cpu_flags
from bert_large.distributed.launch import make_plan
from bert_large.distributed.topology import read_topology
from bert_large.engines import computes
from bert_large.plan.survey import DataSurvey
from bert_large.plan.timing import Speed, checkpoint_bytes, flops_per_token
from bert_large.storage.atomic import describe_bytes, free_bytes
from bert_large.tables import format_table
from bert_large.train.cadence import Cadence
from bert_large.train.checked import Run
from bert_large.train.memory import TIGHT_SHARE, MemoryNeed, predict_run_memory, read_available_bytes

_FORWARD_SHARE = 1 / 3
"""Share of the forward pass in forward and backward pass: one of three products of each weight."""
_INDEX_BYTES_PER_RECORD = 16
_MANY_EPOCHS = 40
"""Passes over the text in BERT's own pretraining (Devlin et al. 2018, appendix A.2)."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a run may take."""

    hours: float | None
    memory_bytes: int | None
    """Of one machine; None if it is not known."""

    @classmethod
    def of(cls, hours: float | None, memory_gib: float | None) -> Budget:
        """Return the budget of the options; without one, the memory is what is available here."""
        return cls(hours=hours, memory_bytes=read_available_bytes() if memory_gib is None else int(memory_gib * 2**30))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The forecast of a run; seconds are of the wall clock."""

    records: int
    data_origin: str
    epochs: float
    steps: int
    sequences: int
    tokens: int
    tokens_per_step: float
    step_seconds: float
    tokens_per_second: float
    speed_origin: str
    machines: int
    preparation_hours: float
    """Making records from text, and checking all records before the first step."""
    training_hours: float
    evaluation_hours: float
    evaluations: int
    checkpoint_hours: float
    checkpoints: int
    hours: float
    memory_bytes_per_machine: int | None
    """None where it is not predicted."""
    ranks_per_machine: int
    disk_bytes: int
    disk_free_bytes: int


def forecast(run: Run, data: DataSurvey, evaluation: DataSurvey | None, speed: Speed, machines: int) -> Plan:
    """Return the plan of a run that does not stop earlier at its target accuracy.

    Sums of gradients between machines are not included.
    """
    train, ranks = run.train, _ranks_per_machine()
    samples, size = Cadence(train).samples, checkpoint_bytes(run.model)
    per_token = speed.per_token / machines

    def seconds_of(steps: int) -> dict[str, float]:
        evaluated = _evaluations(run, steps, evaluation)[1]
        return {
            "training": samples(steps) * data.mean_tokens * per_token + steps * speed.per_update,
            "evaluation": evaluated * per_token * _FORWARD_SHARE,
            "checkpoint": -(-steps // train.save_every) * size * speed.per_checkpoint_byte,
        }

    steps = count_steps(run)
    if train.max_hours is not None:
        limit = 3600 * train.max_hours
        steps = max(1, bisect.bisect_left(range(steps), limit, key=lambda done: sum(seconds_of(done).values())))
    sequences = samples(steps)
    preparation = data.preparation_seconds + data.records * data.seconds_per_record
    seconds = {"preparation": preparation, **seconds_of(steps)}
    per_step, step_seconds = sequences * data.mean_tokens / steps, seconds["training"] / steps
    need = memory_need(run, ranks * machines)
    index_bytes = data.records * _INDEX_BYTES_PER_RECORD
    made_bytes = data.bytes + data.corpus_bytes if run.text is not None else 0
    return Plan(
        records=data.records,
        data_origin=data.origin,
        epochs=sequences / data.records,
        steps=steps,
        sequences=sequences,
        tokens=round(sequences * data.mean_tokens),
        tokens_per_step=per_step,
        step_seconds=step_seconds,
        tokens_per_second=per_step / step_seconds,
        speed_origin=speed.origin,
        machines=machines,
        **{f"{name}_hours": value / 3600 for name, value in seconds.items()},
        evaluations=_evaluations(run, steps, evaluation)[0],
        checkpoints=-(-steps // train.save_every),
        hours=sum(seconds.values()) / 3600,
        memory_bytes_per_machine=None if need is None else need.total * ranks,
        ranks_per_machine=ranks,
        # While a checkpoint is written, all that are kept are there; the model is a third of one, the weights alone.
        disk_bytes=(train.keep_checkpoints + 1) * size + size // 3 + index_bytes + made_bytes,
        disk_free_bytes=free_bytes(train.output_dir),
    )


def count_steps(run: Run) -> int:
    """Return the optimizer steps until the run's limits of steps and samples."""
    most = run.train.max_steps
    if run.train.max_samples is None:
        return most
    return bisect.bisect_left(range(most), run.train.max_samples, key=Cadence(run.train).samples)


def memory_need(run: Run, world_size: int) -> MemoryNeed | None:
    """Return the memory of a rank, None for engines whose memory is not predicted."""
    if not computes("native", run.train.precision) or run.train.engine not in ("auto", "native"):
        return None
    return predict_run_memory(run, world_size)


def _evaluations(run: Run, steps: int, evaluation: DataSurvey | None) -> tuple[int, float]:
    """Return the number of evaluations, and the tokens of all of them."""
    if evaluation is None:
        return 0, 0.0
    cadence, every = Cadence(run.train), run.train.eval_every_samples
    count = cadence.samples(steps) // every + run.train.eval_at_start
    if cadence.samples(steps) > every and cadence.samples(steps) // every == cadence.samples(steps - 1) // every:
        count += 1  # the one at the end of the run
    records = min(run.train.eval_samples or evaluation.records, evaluation.records)
    return count, count * records * evaluation.mean_tokens


def _ranks_per_machine() -> int:
    return len(make_plan(dict(os.environ), read_topology()).placements)


def advise(run: Run, plan: Plan, speed: Speed, budget: Budget) -> list[str]:
    """Return what to change for the budget, and what is unusual about the run."""
    advice = []
    if budget.hours is not None:
        advice += _advise_hours(run, plan, speed, budget.hours)
    need = memory_need(run, plan.ranks_per_machine * plan.machines)
    if need is not None and budget.memory_bytes is not None:
        advice += _advise_memory(need, plan.ranks_per_machine, budget.memory_bytes)
    if plan.disk_bytes > plan.disk_free_bytes:
        advice.append(
            f"the disk of OUTPUT_DIR has {describe_bytes(plan.disk_free_bytes)} free, the run needs "
            f"{describe_bytes(plan.disk_bytes)}: choose another folder, or lower --keep-checkpoints"
        )
    if plan.epochs > _MANY_EPOCHS:
        advice.append(
            f"every record is used {plan.epochs:.0f} times: more text, or "
            f"{_shortened(run, plan, _MANY_EPOCHS / plan.epochs)} for {_MANY_EPOCHS} times, as BERT's authors did"
        )
    return advice


def _shortened(run: Run, plan: Plan, share: float) -> str:
    """Return the option that ends the run after a share of it."""
    if run.train.max_hours is None:
        return f"--max-steps {max(1, int(plan.steps * share))}"
    return f"--max-hours {run.train.max_hours * share:.3g}"


def _advise_hours(run: Run, plan: Plan, speed: Speed, hours: float) -> list[str]:
    """Return the ways to fit the run into a number of hours, each alone."""
    if plan.hours <= hours:
        return [f"the run fits: {plan.hours:.3g} of {hours:g} hours"]
    fixed = plan.preparation_hours
    share = (hours - fixed) / (plan.hours - fixed)
    advice = [f"the run takes {plan.hours:.3g} hours, the budget is {hours:g}; each of these fits it:"]
    if share <= 0:
        return [*advice, f"no number of steps: reading and making the records alone takes {fixed:.3g} hours"]
    advice.append(
        f"{_shortened(run, plan, share)}: {share:.0%} of the steps, {plan.epochs * share:.2g} passes over the records"
    )
    if run.train.precision == "fp32" and read_cpu_flags() & {"amx_bf16", "avx512_bf16"}:
        advice.append("--precision bf16 may: this CPU has instructions for it; plan again with it")
    mean_tokens = plan.tokens_per_step / run.train.global_batch_size
    hours_per_flop = (plan.hours - fixed) / flops_per_token(run.model, run.data, mean_tokens)
    for name, model in CONFIGURATIONS.items():
        sized = dataclasses.replace(model, vocab_size=run.model.vocab_size)
        takes = fixed + hours_per_flop * flops_per_token(sized, run.data, mean_tokens)
        if takes <= hours and run.initial_weights is None:
            advice.append(f"--config-file {name}: about {takes:.2g} hours for the same sequences")
            break
    moving = plan.training_hours - plan.steps * speed.per_update / 3600 + plan.evaluation_hours
    rest = hours - (plan.hours - moving)
    if rest > 0:
        machines = math.ceil(plan.machines * moving / rest)
        advice.append(f"--machines {machines} like this one, without the time to sum gradients between them")
    return advice


def _advise_memory(need: MemoryNeed, ranks: int, available: int) -> list[str]:
    total = need.total * ranks
    if total <= TIGHT_SHARE * available:
        return []
    found = f"the run needs {describe_bytes(total)} of memory, {describe_bytes(available)} is there: "
    if (most := need.fitting_tokens(ranks, available)) is not None:
        return [f"{found}--micro-batch-tokens {most} fits, with the same results"]
    return [f"{found}no micro-batch is small enough: start fewer ranks (RANKS_PER_NODE), or train a smaller model"]


def render(plan: Plan, advice: list[str]) -> str:
    """Return the plan as a table, and the advice below."""
    memory = plan.memory_bytes_per_machine
    parts = {"records": plan.preparation_hours, "training": plan.training_hours, "evaluations": plan.evaluation_hours,
             "checkpoints": plan.checkpoint_hours}  # fmt: skip
    rows = [
        ("data", f"{plan.records} records, {plan.data_origin}"),
        ("steps", f"{plan.steps}, {plan.sequences} sequences, {plan.epochs:.3g} passes over the records"),
        ("tokens", f"{plan.tokens} in all, {plan.tokens_per_step:.0f} per step"),
        ("speed", f"{plan.step_seconds:.3g} s per step, {plan.tokens_per_second:.0f} tokens/s; {plan.speed_origin}"),
        ("hours", f"{plan.hours:.3g}: " + ", ".join(f"{name} {value:.3g}" for name, value in parts.items())),
        ("memory", "not predicted for this engine" if memory is None else
         f"{describe_bytes(memory)} per machine, {plan.ranks_per_machine} ranks"),
        ("disk", f"{describe_bytes(plan.disk_bytes)}; {describe_bytes(plan.disk_free_bytes)} free"),
    ]  # fmt: skip
    return "\n".join([format_table(rows, left=2), *(f"-> {line}" for line in advice)])
