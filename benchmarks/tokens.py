"""Time per token of forward and backward passes in steps of different sizes.

python benchmarks/tokens.py --layers 2 --tokens 1024 4096 16384 [--json]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bert_large.bench.options import COUNT, BenchmarkOptions, parse_options, script_parser
from bert_large.bench.output import describe_run, measure_and_print, run_script
from bert_large.bench.synthetic import make_record
from bert_large.bench.training import SEED
from bert_large.config.options import setting
from bert_large.data.batch import RaggedBatch, make_batch
from bert_large.data.order import cut_by_tokens
from bert_large.engines import resolve_engine
from bert_large.engines.precision import Precision, apply_precision
from bert_large.errors import InputError
from bert_large.model.bert import BertForPreTraining
from bert_large.model.dropout import StepDropout
from bert_large.observe.timing import Timing, Variant, alternate, as_dicts, format_spread, spread
from bert_large.tables import format_table


@dataclass(frozen=True, kw_only=True)
class TokensOptions(BenchmarkOptions):
    """Options of this benchmark."""

    seq_len: int = setting(128, "tokens of every sequence", within="[5, 1000000]", variable="")
    micro_batch_tokens: int = setting(4096, "most tokens of a pass", within=COUNT, variable="")
    tokens: Sequence[int] = (1024, 2048, 4096, 8192, 16384)

    @property
    def longest_sequence(self) -> int:
        """Tokens of the longest sequence."""
        return self.seq_len


def _make_micro_batches(tokens: int, options: TokensOptions) -> list[RaggedBatch]:
    """Return `tokens` tokens in sequences of one length, cut into micro-batches as in a training step."""
    generator, length = np.random.default_rng(SEED), options.seq_len
    records = [
        make_record(generator, length, max_predictions=length, vocab_size=options.vocab_size)
        for _ in range(tokens // length)
    ]
    cuts = cut_by_tokens(np.full(len(records), length), options.micro_batch_tokens)
    return [make_batch(records[cut], range(cut.start, cut.stop)) for cut in cuts]


def _make_variant(model: BertForPreTraining, micro_batches: Sequence[RaggedBatch], precision: Precision) -> Variant:
    """Return the forward and backward passes of a step; clearing the gradients is not timed."""

    def run(round_: int) -> None:
        for batch in micro_batches:
            with precision.autocast():
                sums = model(batch, StepDropout(SEED, round_))
            (sums.masked_lm_loss + sums.next_sentence_loss).backward()

    return Variant(run, lambda round_: model.zero_grad(set_to_none=False))


def measure(options: TokensOptions) -> dict[str, Any]:
    """Measure steps of each number of tokens on full sequences of one length, with dropout."""
    wrong = [count for count in options.tokens if count <= 0 or count % options.seq_len]
    if wrong:
        raise InputError(f"--tokens is {wrong[0]}, expected a multiple of --seq-len {options.seq_len}")
    engine, _ = resolve_engine(options.engine, options.precision)
    precision = apply_precision(options.precision)
    trained = BertForPreTraining(options.model, engine)
    trained.initialize(SEED)
    variants = {
        str(count): _make_variant(trained, _make_micro_batches(count, options), precision) for count in options.tokens
    }
    # The first round allocates the gradients.
    timings = alternate(variants, rounds=options.rounds, warmups=max(1, options.warmups))
    return {
        **describe_run("tokens", options, engine.name),
        "sequence_length": options.seq_len,
        "micro_batch_tokens": options.micro_batch_tokens,
        **_linearity(timings),
        "seconds": as_dicts(timings),
    }


def _linearity(timings: Mapping[str, Timing]) -> dict[str, Any]:
    """Return the seconds per token of each size, and each size's distance from the round's mean, the largest apart.

    A distance is relative, and the median over the rounds.
    """
    costs = {name: [elapsed / int(name) for elapsed in timing.seconds] for name, timing in timings.items()}
    means = [sum(round_) / len(costs) for round_ in zip(*costs.values(), strict=True)]
    distances = {
        name: spread([cost / mean for cost, mean in zip(of_size, means, strict=True)])
        for name, of_size in costs.items()
    }
    return {
        "seconds_per_token": {name: spread(of_size) for name, of_size in costs.items()},
        "over_mean": distances,
        "nonlinearity": max(abs(distance["median"] - 1) for distance in distances.values()),
    }


def render(results: dict[str, Any]) -> str:
    """Return the results as a table."""
    rows = [["tokens per step", "seconds, median", "microseconds per token", "over the mean (quartiles)"]]
    for name, timing in results["seconds"].items():
        cost = results["seconds_per_token"][name]["median"] * 1e6
        rows.append([name, f"{timing['median']:.4f}", f"{cost:.2f}", format_spread(results["over_mean"][name])])
    return (
        f"forward and backward of {results['layers']} layers with both heads, {results['precision']}, engine "
        f"{results['engine']}, sequences of {results['sequence_length']} tokens, micro-batches of at most "
        f"{results['micro_batch_tokens']}, {results['rounds']} alternating rounds, {results['threads']} threads\n"
        f"{format_table(rows)}\n"
        f"largest distance from the mean time per token: {results['nonlinearity']:.1%}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = script_parser(TokensOptions, "time per token in steps of different sizes")
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=TokensOptions.tokens, help="tokens per step (default 1k to 16k)"
    )
    options = parse_options(TokensOptions, parser.parse_args(argv))
    return measure_and_print(options, measure, render)


if __name__ == "__main__":
    sys.exit(run_script(main))
