"""Rates of the matrix products of an encoder layer in bf16: the package's own products and PyTorch's.

    python benchmarks/products.py --tokens 2048 --hidden-size 1024 [--json]

Each product is measured on its own, with all ways to compute it in every round, and with the loop of multiply-adds in
registers that gives the peak. PyTorch's weight gradient is computed from a transposed view and from a transposed copy;
"added" is the copy's product with its addition to a float32 gradient, which the own product includes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from bert_large.bench.options import COUNT, parse_options, script_parser
from bert_large.bench.output import run_script, to_json
from bert_large.config.options import option
from bert_large.engines.native.build import load_kernels
from bert_large.engines.native.products import PackedWeights, add_weight_gradient
from bert_large.observe.machine import describe_software
from bert_large.observe.timing import Variant, alternate, as_dicts, format_spread, spread
from bert_large.tables import format_table

PEAK_ITERATIONS = 300_000
_kernels = torch.ops.bert_large
Ways = dict[str, Callable[[], object]]


@dataclass(frozen=True, kw_only=True)
class ProductOptions:
    """Options of this benchmark."""

    tokens: int = option(2048, "tokens of a micro-batch", within=COUNT)
    hidden_size: int = option(1024, "hidden size", within=COUNT)
    intermediate_size: int | None = option(
        None, "intermediate size", within=COUNT, default_text="four times the hidden size"
    )
    rounds: int = option(30, "timed rounds of each product", within=COUNT)
    warmups: int = option(2, "untimed rounds before them", within="[0, 1000000]")
    json: bool = option(False, "print one JSON object instead of a table")


def ways_of_layer(tokens: int, inputs: int, outputs: int) -> dict[str, Ways]:
    """Return the ways to compute each product of a linear layer, by name; "own" is the package's."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.bfloat16).normal_(0.0, 0.02, generator=generator)

    weight, x, y_gradient = draw(outputs, inputs), draw(tokens, inputs), draw(tokens, outputs)
    y, x_gradient, weight_gradient = draw(tokens, outputs), draw(tokens, inputs), draw(outputs, inputs)
    gradient, bias, activated = weight_gradient.float(), torch.zeros(outputs), torch.empty_like(y)
    packed = PackedWeights(weight.float())

    def multiply_copy() -> torch.Tensor:
        return torch.mm(y_gradient.t().contiguous(), x, out=weight_gradient)

    def multiply_and_gelu() -> None:
        torch.mm(x, weight.t(), out=y)
        _kernels.gelu(y, bias, "none", activated)

    return {
        "forward": {
            "own": lambda: packed.product(x, y),
            "torch": lambda: torch.mm(x, weight.t(), out=y),
        },
        "forward and GELU": {
            "own": lambda: packed.gelu(x, bias, "none", y, activated),
            "torch": multiply_and_gelu,
        },
        "input gradient": {
            "own": lambda: packed.input_gradient(y_gradient, x_gradient),
            "torch": lambda: torch.mm(y_gradient, weight, out=x_gradient),
        },
        "input gradient added": {
            "own": lambda: packed.input_gradient(y_gradient, x_gradient, add=True),
            "torch": lambda: x_gradient.addmm_(y_gradient, weight),
        },
        "weight gradient": {
            "own": lambda: add_weight_gradient(y_gradient, x, gradient),
            "torch": lambda: torch.mm(y_gradient.t(), x, out=weight_gradient),
            "torch, copy": multiply_copy,
            "torch, added": lambda: gradient.add_(multiply_copy()),
        },
    }  # fmt: skip


class _Peak:
    """Multiply-adds of bfloat16 pairs on operands in registers, on all threads."""

    operations = 0.0

    def run(self) -> None:
        self.operations = _kernels.multiply_registers(PEAK_ITERATIONS, True)


def measure_product(ways: Ways, flops: int, options: ProductOptions) -> dict[str, Any]:
    """Return the rate of each way, the own product's time over that of the others, and its share of the peak."""
    peak = _Peak()
    runs = {**ways, "peak": peak.run}
    variants = {name: Variant(functools.partial(_ignore_round, run)) for name, run in runs.items()}
    timings = alternate(variants, rounds=options.rounds, warmups=options.warmups, visible=False)
    at_peak = [flops / peak.operations * seconds for seconds in timings["peak"].seconds]
    return {
        "gflops_per_second": {name: spread(timings[name].rates(flops / 1e9)) for name in ways},
        "own_over": {name: spread(timings["own"].over(timings[name])) for name in ways if name != "own"},
        "share_of_peak": {
            name: spread([best / taken for best, taken in zip(at_peak, timings[name].seconds, strict=True)])
            for name in ways
        },
        "seconds": as_dicts(timings),
    }


def _ignore_round(run: Callable[[], object], round_: int) -> None:
    run()


def measure(options: ProductOptions) -> dict[str, Any]:
    """Measure the products of all linear layers of an encoder layer."""
    hidden, intermediate = options.hidden_size, options.intermediate_size or 4 * options.hidden_size
    load_kernels()
    layers = {
        "query, key, value": (hidden, 3 * hidden), "attention output": (hidden, hidden),
        "intermediate": (hidden, intermediate), "output": (intermediate, hidden),
    }  # fmt: skip
    products = {}
    for layer, (inputs, outputs) in layers.items():
        for product, ways in ways_of_layer(options.tokens, inputs, outputs).items():
            if product == "forward and GELU" and layer != "intermediate":
                continue
            flops = 2 * options.tokens * inputs * outputs
            products[f"{layer}: {product}"] = measure_product(ways, flops, options)
    return {
        "benchmark": "products", "tokens": options.tokens, "hidden_size": hidden, "intermediate_size": intermediate,
        "rounds": options.rounds, **describe_software(), "products": products,
    }  # fmt: skip


def render(results: Mapping[str, Any]) -> str:
    """Return the results as a table."""
    rows = [["", "own, GFLOP/s", "share of peak", "own time over"]]
    for name, product in results["products"].items():
        over = "; ".join(f"{way} {format_spread(ratio)}" for way, ratio in product["own_over"].items())
        rate = format_spread(product["gflops_per_second"]["own"])
        rows.append([name, rate, format_spread(product["share_of_peak"]["own"], "%", 0.01), over])
    return (
        f"{results['tokens']} tokens, hidden size {results['hidden_size']}, intermediate size "
        f"{results['intermediate_size']}, {results['rounds']} alternating rounds, {results['threads']} threads\n"
        f"{format_table(rows)}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = parse_options(
        ProductOptions, script_parser(ProductOptions, "time products in bf16 and PyTorch's").parse_args(argv)
    )
    results = measure(options)
    sys.stdout.write(f"{to_json(results) if options.json else render(results)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main))
