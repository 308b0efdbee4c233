"""Products of packed bfloat16 matrices against float64: this CPU's, on AMX tiles (emulated without AMX), on AVX2."""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from bert_large.engines.native.build import load_kernels
from bert_large.engines.native.products import PackedWeights, add_weight_gradient

from tests.support.products import CompiledProducts, compile_products

TOKENS = [1, 2, 15, 16, 17, 31, 33, 100, 257]
# (outputs, inputs): multiples of 32 and others, and depths of one and several parts (of 1,024)
SIZES = [(96, 128), (320, 96), (64, 1056), (2080, 64), (1, 1), (33, 40), (100, 31), (1003, 47), (4127, 33)]
SHAPES = [(tokens, *SIZES[0]) for tokens in TOKENS] + [(33, *sizes) for sizes in SIZES[1:]] + [(257, 320, 1056)]
EACH_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture(scope="module", autouse=True)
def operators() -> None:
    load_kernels()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compile_products(tmp_path_factory.mktemp("products"))


@pytest.fixture(params=["this CPU", "emulated tiles", "AVX2"])
def kernels(request: pytest.FixtureRequest, library: ctypes.CDLL) -> Any:
    """Operators with the interface of `torch.ops.bert_large`."""
    if request.param == "this CPU":
        return torch.ops.bert_large
    return CompiledProducts(library, tiles=request.param == "emulated tiles")


@pytest.fixture
def use_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def draw(*shape: int, seed: int, spread: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul_(spread)


def draw_rows(tokens: int, columns: int, *, seed: int) -> torch.Tensor:
    """Return a bfloat16 matrix; the rows that follow it in memory are NaN, because no product may use them."""
    rows = torch.full((tokens + 40, columns), math.nan, dtype=torch.bfloat16)
    rows[:tokens] = draw(tokens, columns, seed=seed)
    return rows[:tokens]


def pack(kernels: Any, *weights: torch.Tensor) -> torch.Tensor:
    outputs, inputs = sum(map(len, weights)), weights[0].shape[1]
    packed = torch.full((-(-outputs // 32), -(-inputs // 32) * 16, 32, 2), math.nan, dtype=torch.bfloat16)
    kernels.pack_weights(list(weights), packed)
    return packed


def assert_rounded(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Check bfloat16 results: rounded once, from sums in float."""
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-6 * float(expected.abs().max()))


def assert_only(rows: torch.Tensor) -> None:
    """Check that what follows rows of `draw_rows` is NaN still."""
    assert rows.as_strided((len(rows) + 40, rows.shape[1]), rows.stride())[len(rows) :].isnan().all()


@EACH_SHAPE
def test_result(kernels: Any, shape: tuple[int, int, int]) -> None:
    tokens, outputs, inputs = shape
    weight = draw(outputs, inputs, seed=1)
    x, y = draw_rows(tokens, inputs, seed=2), draw_rows(tokens, outputs, seed=3)
    kernels.packed_product(x, pack(kernels, *weight.split(32)), y)
    assert_rounded(y, x.double() @ weight.bfloat16().double().T)
    assert_only(y)


@pytest.mark.parametrize("add", [False, True], ids=["", "add"])
@EACH_SHAPE
def test_input_gradient(kernels: Any, shape: tuple[int, int, int], add: bool) -> None:
    tokens, outputs, inputs = shape
    weight = draw(outputs, inputs, seed=1)
    y_gradient, gradient = draw_rows(tokens, outputs, seed=2), draw_rows(tokens, inputs, seed=3)
    expected = y_gradient.double() @ weight.bfloat16().double() + (gradient.double() if add else 0)
    kernels.packed_input_gradient(y_gradient, pack(kernels, weight), gradient, add)
    assert_rounded(gradient, expected)
    assert_only(gradient)


@pytest.mark.parametrize("add", [False, True], ids=["", "add"])
@EACH_SHAPE
def test_weight_gradient(kernels: Any, shape: tuple[int, int, int], add: bool) -> None:
    """In float32, without rounding to bfloat16."""
    tokens, outputs, inputs = shape
    x, y_gradient = draw_rows(tokens, inputs, seed=2), draw_rows(tokens, outputs, seed=3)
    gradient = draw(outputs, inputs, seed=4) if add else torch.full((outputs, inputs), math.nan)
    expected = y_gradient.double().T @ x.double() + (gradient.double() if add else 0)
    kernels.weight_gradient(y_gradient, x, gradient, add)
    torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_weight_gradient_of_no_tokens(kernels: Any) -> None:
    x, y_gradient = draw_rows(0, 96, seed=1), draw_rows(0, 64, seed=2)
    for add, expected in ((True, 2.0), (False, 0.0)):
        gradient = torch.full((64, 96), 2.0)
        kernels.weight_gradient(y_gradient, x, gradient, add)
        assert (gradient == expected).all()


def test_weight_gradient_of_many_tokens(kernels: Any) -> None:
    """Two parts of the depth, of unequal length."""
    x, y_gradient, gradient = draw_rows(1100, 96, seed=1), draw_rows(1100, 64, seed=2), torch.zeros(64, 96)
    kernels.weight_gradient(y_gradient, x, gradient, False)
    expected = y_gradient.double().T @ x.double()
    torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@EACH_SHAPE
def test_gelu(kernels: Any, shape: tuple[int, int, int]) -> None:
    tokens, outputs, inputs = shape
    weight, bias = draw(outputs, inputs, seed=1, spread=inputs**-0.5), draw(outputs, seed=5)
    x = draw_rows(tokens, inputs, seed=2)
    dense = (x.double() @ weight.bfloat16().double().T + bias.double()).requires_grad_()
    expected = torch.nn.functional.gelu(dense)
    expected.sum().backward()
    assert dense.grad is not None
    derivative, activated = draw_rows(tokens, outputs, seed=6), draw_rows(tokens, outputs, seed=7)
    kernels.packed_product_gelu(x, pack(kernels, weight), bias, "none", derivative, activated)
    assert_rounded(activated, expected.detach())
    assert_rounded(derivative, dense.grad)


@EACH_SHAPE
def test_gelu_gradient(kernels: Any, shape: tuple[int, int, int]) -> None:
    tokens, outputs, inputs = shape
    weight = draw(outputs, inputs, seed=1, spread=outputs**-0.5)
    y_gradient, derivative = draw_rows(tokens, outputs, seed=2), draw_rows(tokens, inputs, seed=3)
    gradient, bias_gradient = draw_rows(tokens, inputs, seed=4), draw(inputs, seed=5)
    expected = (y_gradient.double() @ weight.bfloat16().double()) * derivative.double()
    expected_sums = bias_gradient.double() + expected.sum(0)
    packed = pack(kernels, weight)
    kernels.packed_input_gradient_gelu(y_gradient, packed, derivative, gradient, bias_gradient)
    assert_rounded(gradient, expected)
    torch.testing.assert_close(bias_gradient.double(), expected_sums, rtol=1e-5, atol=1e-5 * tokens**0.5)


def test_gelu_tanh() -> None:
    weight, bias, x = draw(64, 96, seed=1, spread=0.1), draw(64, seed=2), draw_rows(17, 96, seed=3)
    dense = (x.double() @ weight.bfloat16().double().T + bias.double()).requires_grad_()
    expected = torch.nn.functional.gelu(dense, approximate="tanh")
    expected.sum().backward()
    assert dense.grad is not None
    derivative, activated = draw_rows(17, 64, seed=6), draw_rows(17, 64, seed=7)
    PackedWeights(weight).gelu(x, bias, "tanh", derivative, activated)
    assert_rounded(activated, expected.detach())
    assert_rounded(derivative, dense.grad)


@pytest.mark.parametrize("tokens", [1, 33, 600])
def test_bits_depend_on_no_number_of_threads(kernels: Any, use_threads: Callable[[int], None], tokens: int) -> None:
    """Also where all threads pack the left factor together, and where a thread has no block."""
    packed = pack(kernels, draw(96, 1056, seed=1))
    x, y_gradient = draw_rows(tokens, 1056, seed=2), draw_rows(tokens, 96, seed=3)
    results = []
    for threads in (1, 2, 2, 5):
        use_threads(threads)
        y, x_gradient, gradient = draw_rows(tokens, 96, seed=4), draw_rows(tokens, 1056, seed=5), draw(96, 1056, seed=6)
        kernels.packed_product(x, packed, y)
        kernels.packed_input_gradient(y_gradient, packed, x_gradient, True)
        kernels.weight_gradient(y_gradient, x, gradient, True)
        bias_gradient, factored = torch.zeros(1056), torch.empty_like(x_gradient)
        kernels.packed_input_gradient_gelu(y_gradient, packed, x, factored, bias_gradient)
        results.append((y, x_gradient, gradient, factored, bias_gradient))
    for result in results[1:]:
        assert all(torch.equal(found, first) for found, first in zip(result, results[0], strict=True))


@pytest.mark.parametrize("size", [(64, 96), (40, 40)], ids=str)
def test_packed_weights(size: tuple[int, int]) -> None:
    """Query, key and value as one weight, before and after an update."""
    weights = [draw(*size, seed=seed) for seed in range(3)]
    packed = PackedWeights(*weights)
    x, y_gradient = draw_rows(20, size[1], seed=4), draw_rows(20, 3 * size[0], seed=5)
    for _ in range(2):
        joined = torch.cat(weights).bfloat16().double()
        assert_rounded(packed.product(x, torch.empty_like(y_gradient)), x.double() @ joined.T)
        assert_rounded(packed.input_gradient(y_gradient, torch.empty_like(x)), y_gradient.double() @ joined)
        weights = [weight * 2 for weight in weights]
        packed.update(*weights)


@pytest.mark.parametrize("sizes", [[(3, 47)], [(64, 40), (33, 40)]], ids=str)
def test_a_change_of_a_sampled_element_is_noticed(sizes: list[tuple[int, int]]) -> None:
    """Of small weights, every element is."""
    weights = [draw(*size, seed=seed) for seed, size in enumerate(sizes)]
    packed = pack(torch.ops.bert_large, *weights)
    matches = functools.partial(torch.ops.bert_large.samples_match, weights, packed, 64 * 40)
    assert matches()
    for weight in weights:
        for element in weight.view(-1):
            element.neg_()
            assert not matches()
            element.neg_()
    assert matches()


def work_of(threads: int, rows: int, columns: int, packing: float) -> tuple[list[float], list[float]]:
    """Return the blocks and the packed panels of every thread, for numbers of elements."""
    work = torch.ops.bert_large.product_work(threads, -(-rows // 32), columns // 32, packing)
    return work[::2], work[1::2]


@pytest.mark.parametrize("packing", [0.4, 3.0], ids=["vectors", "tiles"])
@pytest.mark.parametrize("rows, columns", [(2048, 1024), (2048, 3072), (2048, 4096), (4096, 1024), (1, 64)])
def test_work_is_divided_among_threads(rows: int, columns: int, packing: float) -> None:
    """The busiest of up to 64 threads has at most a third more than an even share of a BERT-large product."""
    blocks = -(-rows // 32) * columns // 32
    for threads in range(1, 65):
        own, packed = work_of(threads, rows, columns, packing)
        assert len(own) <= threads and sum(own) == blocks
        if blocks > 64:
            busiest = max(own[i] + packing * packed[i] for i in range(len(own)))
            assert busiest < 4 / 3 * blocks / threads, (threads, busiest * threads / blocks)


def test_wrong_tensors_are_refused() -> None:
    weight = draw(64, 96, seed=1)
    packed, panels = PackedWeights(weight), torch.zeros(2, 48, 32, 2, dtype=torch.bfloat16)
    x, y = draw_rows(5, 96, seed=2), draw_rows(5, 64, seed=3)
    for call, message in (
        (lambda: packed.update(draw(64, 128, seed=1)), r"panels.*\[2, 64, 32, 2\]"),
        (lambda: packed.update(weight.double()), "Double.*Float"),
        (lambda: torch.ops.bert_large.pack_weights([draw(40, 96, seed=1), weight], panels), "begins at output 40"),
        (lambda: packed.product(y, y), "weight.*expected"),
        (lambda: packed.product(x, x), "weight.*expected"),
        (lambda: packed.product(x, draw_rows(6, 64, seed=3)), r"y.*\[5, 64\]"),
        (lambda: packed.product(x.float(), y), "x.*Float.*BFloat16"),
        (lambda: packed.product(x, y.t().contiguous().t()), "y is not contiguous"),
        (lambda: packed.input_gradient(x, y), "weight.*expected"),
        (lambda: packed.gelu(x, draw(63, seed=1), "none", y, y), r"bias.*\[64\]"),
        (lambda: packed.gelu(x, draw(64, seed=1), "other", y, y), "GELU's form is other"),
        (lambda: packed.gelu(x, draw(64, seed=1), "none", y[:4], y), r"derivative.*\[5, 64\]"),
        (lambda: packed.gelu_gradient(y, y, x, draw(96, seed=1)), r"derivative.*\[5, 96\]"),
        (lambda: packed.gelu_gradient(y, x, x, draw(64, seed=1)), r"bias_gradient.*\[96\]"),
        (lambda: add_weight_gradient(y, x, torch.zeros(64, 95)), r"gradient.*\[64, 96\]"),
        (lambda: add_weight_gradient(y, x[:4], torch.zeros(64, 96)), "dy.*expected"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()
