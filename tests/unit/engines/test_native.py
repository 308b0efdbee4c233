"""The native engine's operations against the eager engine's in double precision: results and all gradients."""

from __future__ import annotations

import dataclasses
import gc
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from bert_large.data.batch import RaggedBatch
from bert_large.engines.eager import EagerEngine
from bert_large.engines.native import NativeEngine
from bert_large.model.dropout import DropoutSite
from bert_large.model.operations import Operations
from bert_large.optim.lamb import LambArrays, LambSettings, update_parameter

from tests.support.operations import (
    PROJECTIONS,
    Case,
    Values,
    assert_close,
    assert_identical,
    batch_of,
    dense_values,
    draw,
    layer,
    norm_values,
    relative_error,
)

EAGER = EagerEngine()
SITE, OTHER_SITE = DropoutSite(0.1, 0x12345678), DropoutSite(0.3, 0xFEDCBA98)
DROPOUT = pytest.mark.parametrize("dropout", [False, True], ids=["", "dropout"])
# Relative to the largest value of a tensor.
TOLERANCE = 1e-5
RAGGED = [[1], [1, 1, 1], [5, 17, 128, 1], [63, 64, 65], [512, 1, 300, 33]]
LENGTHS = pytest.mark.parametrize("lengths", RAGGED, ids=str)


@pytest.fixture(scope="module")
def native() -> NativeEngine:
    return NativeEngine()


def embedding_case(lengths: list[int], hidden: int = 40, dropout: bool = True) -> Case:
    batch = batch_of(lengths)
    values = {
        "words": draw(100, hidden, seed=1), "positions": draw(512, hidden, seed=2), "types": draw(2, hidden, seed=3),
        **norm_values("norm", hidden, 4),
    }  # fmt: skip

    def apply(engine: Operations, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        tables = given["words"], given["positions"], given["types"]
        return engine.embed_norm_dropout(batch, *tables, layer(given, "norm"), SITE if dropout else None)

    return Case(values, apply)


def attention_case(
    lengths: list[int], hidden: int = 40, heads: int = 5, dropout: bool = True, batch: RaggedBatch | None = None
) -> Case:
    batch = batch_of(lengths) if batch is None else batch
    values = {"hidden": draw(batch.tokens, hidden, seed=1), **norm_values("norm", hidden, 6)}
    for seed, name in enumerate(("query", "key", "value", "output"), start=2):
        values |= dense_values(name, hidden, hidden, seed)
    probabilities, output = (SITE, OTHER_SITE) if dropout else (None, None)

    def apply(engine: Operations, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        query, key, value = (layer(given, name) for name in PROJECTIONS)
        return engine.attention_block(
            batch, given["hidden"], query, key, value, heads, probabilities,
            layer(given, "output"), layer(given, "norm"), output,
        )  # fmt: skip

    return Case(values, apply)


def feed_forward_case(
    lengths: list[int], hidden: int = 40, wide: int = 72, activation: str = "gelu", dropout: bool = True
) -> Case:
    batch = batch_of(lengths)
    values = {
        "hidden": draw(batch.tokens, hidden, seed=1), **dense_values("intermediate", hidden, wide, 2),
        **dense_values("output", wide, hidden, 3), **norm_values("norm", hidden, 4),
    }  # fmt: skip

    def apply(engine: Operations, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return engine.feed_forward_block(
            batch, given["hidden"], layer(given, "intermediate"), activation, layer(given, "output"),
            layer(given, "norm"), OTHER_SITE if dropout else None,
        )  # fmt: skip

    return Case(values, apply)


def head_case(masked: int, vocab_size: int = 100, hidden: int = 40, activation: str = "gelu", tokens: int = 64) -> Case:
    """Masked positions at random, so some more than once."""
    generator = torch.Generator().manual_seed(5)
    batch = dataclasses.replace(
        batch_of([tokens]),
        masked_positions=torch.randint(0, tokens, (masked,), generator=generator),
        masked_labels=torch.randint(0, vocab_size, (masked,), generator=generator),
    )
    values = {
        "hidden": draw(tokens, hidden, seed=1), **dense_values("transform", hidden, hidden, 2),
        **norm_values("norm", hidden, 3), "words": draw(vocab_size, hidden, seed=5, spread=0.3),
        "bias": draw(vocab_size, seed=6),
    }  # fmt: skip

    def apply(engine: Operations, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        loss, correct = engine.masked_head(
            batch, given["hidden"], layer(given, "transform"), activation, layer(given, "norm"), given["words"],
            given["bias"],
        )  # fmt: skip
        assert not correct.requires_grad and correct.dtype == torch.int64
        return loss

    return Case(values, apply)


CASES: dict[str, Callable[[], Case]] = {
    "embedding": lambda: embedding_case([5, 17, 40, 1]),
    "attention": lambda: attention_case([5, 17, 40, 1]),
    "feed forward": lambda: feed_forward_case([5, 17, 40, 1]),
    "masked head": lambda: head_case(23),
}
every_case = pytest.mark.parametrize("case", [make() for make in CASES.values()], ids=list(CASES))


def check(native: NativeEngine, case: Case, **options: Any) -> None:
    found = case.results(native, torch.float32, **options)
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert_close(found, case.results(EAGER, torch.float64, **options), TOLERANCE)


@LENGTHS
@DROPOUT
def test_embedding(native: NativeEngine, lengths: list[int], dropout: bool) -> None:
    """Tokens, positions and types that share a table's row add up there; rows that none has get 0."""
    check(native, embedding_case(lengths, dropout=dropout))


@LENGTHS
@DROPOUT
def test_attention(native: NativeEngine, lengths: list[int], dropout: bool) -> None:
    check(native, attention_case(lengths, dropout=dropout))


@pytest.mark.parametrize("head_size", [8, 16, 24, 64, 80, 128, 3])
@DROPOUT
def test_head_sizes(native: NativeEngine, head_size: int, dropout: bool) -> None:
    check(native, attention_case([33, 2, 70], hidden=3 * head_size, heads=3, dropout=dropout))


@pytest.mark.parametrize("length", [*range(1, 20), 31, 32, 33, 47, 48, 49, 95, 96, 97, 127, 129, 191, 193, 511])
def test_attention_at_every_edge(native: NativeEngine, length: int) -> None:
    """Lengths about the width of vectors, tiles, panels and query blocks."""
    check(native, attention_case([length], hidden=32, heads=2))


@LENGTHS
@DROPOUT
@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh"])
def test_feed_forward(native: NativeEngine, lengths: list[int], dropout: bool, activation: str) -> None:
    check(native, feed_forward_case(lengths, activation=activation, dropout=dropout))


@pytest.mark.parametrize("hidden", [3, 7, 15, 17, 100])
def test_odd_hidden_sizes(native: NativeEngine, hidden: int) -> None:
    """Intermediate sizes and vocabularies odd too."""
    check(native, embedding_case([9, 4], hidden=hidden))
    check(native, attention_case([9, 4], hidden=hidden, heads=1))
    check(native, feed_forward_case([9, 4], hidden=hidden, wide=2 * hidden + 1))
    check(native, head_case(11, hidden=hidden, vocab_size=2 * hidden + 1))


def test_sizes_of_bert_large(native: NativeEngine) -> None:
    """1024 hidden, 16 heads, 4096 intermediate, few tokens; and its vocabulary."""
    check(native, embedding_case([3, 9], hidden=1024))
    check(native, attention_case([3, 9], hidden=1024, heads=16))
    check(native, feed_forward_case([3, 9], hidden=1024, wide=4096))
    check(native, head_case(5, hidden=64, vocab_size=30522))


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("vocab_size", [1, 15, 16, 17, 1003])
def test_masked_head(native: NativeEngine, vocab_size: int, activation: str) -> None:
    check(native, head_case(23, vocab_size=vocab_size, activation=activation))


@pytest.mark.parametrize("masked", [0, 1, 511, 512, 513, 1100])
def test_blocks_of_masked_tokens(native: NativeEngine, masked: int) -> None:
    """None at all, and more than logits are held of at once."""
    check(native, head_case(masked))


def test_right_predictions(native: NativeEngine) -> None:
    """As many as eager counts, where some are right and some are not; of equal logits the first is the prediction."""
    batch = dataclasses.replace(batch_of([64]), masked_positions=torch.arange(60), masked_labels=torch.arange(60) % 3)
    leaves = head_case(1, vocab_size=3).leaves(torch.float32)
    for tie in (False, True):
        if tie:
            leaves["words"], leaves["bias"] = torch.zeros(3, 40), torch.zeros(3)
        parts = (leaves["hidden"], layer(leaves, "transform"), "gelu", layer(leaves, "norm"))
        counts = [int(engine.masked_head(batch, *parts, leaves["words"], leaves["bias"])[1])
                  for engine in (native, EAGER)]  # fmt: skip
        assert counts[0] == counts[1] and 0 < counts[0] < 60
    assert counts[0] == 20


def test_the_head_in_evaluation(native: NativeEngine) -> None:
    """Without gradients to make, the same loss."""
    case = head_case(700)
    with torch.no_grad():
        found = case.apply(native, case.leaves(torch.float32))
        expected = case.apply(EAGER, case.leaves(torch.float64))
    assert not found.requires_grad
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_samples_beyond_32_bits(native: NativeEngine) -> None:
    """Both halves of a sample's number key the mask."""
    batch = dataclasses.replace(batch_of([20, 20]), samples=torch.tensor([5, 5 + (3 << 32)]))
    check(native, attention_case([], batch=batch))


def test_large_scores(native: NativeEngine) -> None:
    """Softmax where only the largest score matters, and scores far below exp's range."""
    case = attention_case([33, 64])
    case.values["query.weight"] *= 100
    found, expected = case.results(native, torch.float32), case.results(EAGER, torch.float64)
    for values in (found, expected):  # the scores' rounding, times 100, is in these
        del values["query.weight"], values["key.weight"], values["query.bias"], values["key.bias"], values["hidden"]
    assert_close(found, expected, 1e-3)


@every_case
@pytest.mark.parametrize("scale", [0.0, 1e-4, -3.0])
def test_scale_of_the_gradient(native: NativeEngine, case: Case, scale: float) -> None:
    check(native, case, scale=scale)


@every_case
def test_gradients_add_up(native: NativeEngine, case: Case) -> None:
    """Over two backward passes: into no gradient, into what a first pass left, and into tensors of the caller's."""
    leaves, reference = case.leaves(torch.float32), case.leaves(torch.float64)
    separate = case.leaves(torch.float32)
    for leaf in separate.values():
        leaf.grad = torch.zeros_like(leaf)
    mine = {name: leaf.grad for name, leaf in separate.items()}
    for scale in (1.0, 0.5):
        case.backward(case.forward(native, leaves, torch.float32), scale)
        case.backward(case.forward(native, separate, torch.float32), scale)
        case.backward(case.forward(EAGER, reference, torch.float64), scale)
    expected = {name: leaf.grad for name, leaf in reference.items() if leaf.grad is not None}
    for found in (leaves, separate):
        assert_close({name: leaf.grad for name, leaf in found.items() if leaf.grad is not None}, expected, TOLERANCE)
    for name, leaf in separate.items():
        assert leaf.grad is mine[name], name


def test_fresh_gradients_do_not_share(native: NativeEngine) -> None:
    """Those of query, key and value lie in one tensor; each is changed alone."""
    leaves = attention_case([9]).leaves(torch.float32)
    case = attention_case([9])
    case.backward(case.forward(native, leaves, torch.float32))
    query, key, value = (leaves[f"{name}.weight"].grad for name in ("query", "key", "value"))
    assert query is not None and key is not None and value is not None
    kept = query.clone(), value.clone()
    key.zero_()
    assert torch.equal(query, kept[0]) and torch.equal(value, kept[1])


@pytest.mark.parametrize(
    ("name", "frozen"),
    [(name, (value,)) for name, make in CASES.items() for value in make().values],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_frozen_parameters(native: NativeEngine, name: str, frozen: tuple[str, ...]) -> None:
    """Each alone: it gets no gradient, all others get theirs."""
    check(native, CASES[name](), frozen=frozen)


@every_case
def test_a_second_backward_pass_is_refused(native: NativeEngine, case: Case) -> None:
    """Kernels work in place on what the forward pass left, so results would be wrong."""
    out = case.forward(native, case.leaves(torch.float32), torch.float32)
    out.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second time"):
        out.sum().backward()


@every_case
def test_repeated_runs_are_identical(native: NativeEngine, case: Case) -> None:
    torch.set_num_threads(2)
    first = case.results(native, torch.float32)
    for _ in range(3):
        assert_identical(case.results(native, torch.float32), first)


def attention_kernel(threads: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return what the attention kernels alone give, forward and backward."""
    torch.set_num_threads(threads)
    batch, hidden, heads = batch_of([70, 3, 1, 130, 64, 9]), 48, 3
    qkv, bias = draw(batch.tokens, 3 * hidden, seed=1).to(dtype), draw(3 * hidden, seed=2).float()
    context, log_sums = torch.empty(batch.tokens, hidden, dtype=dtype), torch.empty(heads, batch.tokens)
    places = (qkv, bias, batch.cu_seqlens, batch.samples, heads, SITE.probability, SITE.key)
    torch.ops.bert_large.attention(*places, context, log_sums)
    qkv_gradient, bias_gradient = torch.empty_like(qkv), torch.zeros_like(bias)
    gradient = draw(*context.shape, seed=3).to(dtype)
    torch.ops.bert_large.attention_gradient(*places, context, log_sums, gradient, qkv_gradient, bias_gradient)
    return [context, log_sums, qkv_gradient, bias_gradient]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [2, 3])
def test_attention_is_the_same_for_any_number_of_threads(
    native: NativeEngine, dtype: torch.dtype, threads: int
) -> None:
    for one, several in zip(attention_kernel(1, dtype), attention_kernel(threads, dtype), strict=True):
        assert torch.equal(one, several)


# --- bfloat16


@pytest.mark.parametrize(
    "case",
    [
        *(make() for make in CASES.values()),
        attention_case([512, 1, 300, 33]),
        attention_case([33, 2, 70], hidden=72, heads=3),
        attention_case([65, 1], hidden=128, heads=2),
        attention_case([31, 32], hidden=240, heads=3, dropout=False),
        feed_forward_case([3, 9], hidden=1024, wide=4096, activation="gelu_pytorch_tanh"),
        head_case(600, vocab_size=1003),
        head_case(0),
    ],
    ids=lambda case: f"{len(case.values)}-{next(iter(case.values.values())).shape[0]}",
)
def test_bf16(native: NativeEngine, case: Case) -> None:
    """Inside autocast, as near to double as eager comes there; gradients of parameters are float32.

    A rounding to bfloat16 is off by up to 2^-9 = 0.2%, and some follow one another.
    """
    expected = case.results(EAGER, torch.float64)
    ours, theirs = (case.results(engine, torch.bfloat16) for engine in (native, EAGER))
    for name, value in ours.items():
        is_activation = name == "hidden" or (name == "out" and value.dim() > 0)
        assert value.dtype == (torch.bfloat16 if is_activation else torch.float32), name
    for name, value in expected.items():
        if name == "key.bias":  # 0 in truth
            assert float(ours[name].abs().max()) < 2e-2 * float(expected["query.bias"].abs().max())
        elif value.any():
            error = relative_error(ours[name], value)
            assert error < 4e-2 and error < 1.5 * relative_error(theirs[name], value) + 4e-3, f"{name}: {error:.1e}"
        else:
            assert not ours[name].any(), name


@every_case
def test_bf16_gradients_add_up(native: NativeEngine, case: Case) -> None:
    """In float32 over eight passes: what a single pass rounds is not rounded again."""
    leaves = case.leaves(torch.bfloat16)
    once = case.results(native, torch.bfloat16)
    for _ in range(8):
        case.backward(case.forward(native, leaves, torch.bfloat16))
    for name in set(once) - {"out", "hidden"}:
        gradient = leaves[name].grad
        assert gradient is not None and relative_error(gradient, 8 * once[name].double()) < 1e-6, name


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (15, 17), (31, 33), (64, 32), (100, 257)], ids=str)
@pytest.mark.parametrize("threads", [1, 3])
def test_transposed(native: NativeEngine, shape: tuple[int, int], threads: int) -> None:
    torch.set_num_threads(threads)
    matrix = draw(*shape, seed=1).to(torch.bfloat16)
    found = torch.ops.bert_large.transposed(matrix)
    assert found.is_contiguous() and torch.equal(found, matrix.t())


@pytest.mark.parametrize("size", [1, 15, 16, 17, 1000, 65537])
def test_add_bfloat16(native: NativeEngine, size: int) -> None:
    target, source = draw(size, seed=1).float(), draw(size, seed=2).to(torch.bfloat16)
    expected = target + source.float()
    torch.ops.bert_large.add_bfloat16(target, source)
    assert torch.equal(target, expected)
    with pytest.raises(RuntimeError, match="source has shape"):
        torch.ops.bert_large.add_bfloat16(target, source.view(1, -1))


@pytest.mark.parametrize("changed", ["query.weight", "key.weight", "value.weight", "output.weight"])
def test_copies_of_weights_are_renewed(native: NativeEngine, changed: str) -> None:
    """In both precisions, after a change in place, of any of the weights that are copied as one."""
    case = attention_case([9, 4])
    for dtype in (torch.float32, torch.bfloat16):
        leaves = case.leaves(dtype)
        before = case.forward(native, leaves, dtype)
        assert torch.equal(case.forward(native, leaves, dtype), before)
        with torch.no_grad():
            leaves[changed].neg_()
        fresh = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        after = case.forward(native, leaves, dtype)
        assert torch.equal(after, case.forward(NativeEngine(), fresh, dtype))
        assert not torch.equal(after, before)


def test_copies_of_weights_are_renewed_after_a_step(native: NativeEngine) -> None:
    """LAMB's kernel writes to weights, which autograd does not see."""
    case = feed_forward_case([9, 4])
    leaves = case.leaves(torch.bfloat16)
    out = case.forward(native, leaves, torch.bfloat16)
    case.backward(out)
    native.lamb([arrays_of(leaf) for name, leaf in leaves.items() if name != "hidden"], settings(1, rate=0.5))
    fresh = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    after = case.forward(native, leaves, torch.bfloat16)
    assert torch.equal(after, case.forward(NativeEngine(), fresh, torch.bfloat16))
    assert not torch.equal(after, out)


def test_both_precisions_of_one_model(native: NativeEngine) -> None:
    """In turns, as evaluation in another precision would."""
    case = attention_case([9, 4])
    expected = {dtype: case.results(native, dtype) for dtype in (torch.float32, torch.bfloat16)}
    leaves = case.leaves(torch.float32)
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        given = leaves | {"hidden": leaves["hidden"].to(dtype)}
        assert torch.equal(case.forward(native, given, dtype), expected[dtype]["out"])


# --- LAMB and the norm


def arrays_of(weight: torch.Tensor) -> LambArrays:
    gradient = weight.grad if weight.grad is not None else torch.zeros_like(weight)
    return LambArrays(weight, gradient, torch.zeros_like(weight), torch.zeros_like(weight))


def settings(step: int, *, rate: float = 0.01, scale: float = 1.0, adapt: bool = True) -> LambSettings:
    return LambSettings(
        rate=rate, beta_1=0.9, beta_2=0.999, epsilon=1e-6, weight_decay=0.01, gradient_scale=scale, step=step,
        adapt=adapt,
    )  # fmt: skip


SIZES = [1, 15, 16, 17, 1000, 65536, 65537]


@pytest.mark.parametrize("adapt", [False, True])
def test_lamb(native: NativeEngine, adapt: bool) -> None:
    """Twenty steps over parameters of all sizes, and one that starts at 0, with clipping in some steps."""
    weights = [draw(size, seed=size, spread=0.02) for size in SIZES] + [torch.zeros(40, dtype=torch.float64)]
    single, double = ([LambArrays(weight.to(dtype, copy=True), *torch.zeros(3, len(weight), dtype=dtype))
                       for weight in weights] for dtype in (torch.float32, torch.float64))  # fmt: skip
    for step in range(1, 21):
        step_settings = settings(step, rate=0.01 / step, scale=1.0 if step % 3 else 0.3, adapt=adapt)
        for number, (ours, theirs) in enumerate(zip(single, double, strict=True)):
            theirs.gradient.copy_(draw(len(theirs.weight), seed=100 * step + number, spread=10.0 ** (number - 4)))
            ours.gradient.copy_(theirs.gradient)
        native.lamb(single, step_settings)
        for theirs in double:
            update_parameter(theirs, step_settings)
    for before, ours, theirs in zip(weights, single, double, strict=True):
        assert not torch.equal(theirs.weight, before)
        for name, tolerance in (("weight", 1e-5), ("mean", 1e-5), ("mean_square", 1e-5)):
            found, expected = getattr(ours, name).double(), getattr(theirs, name)
            difference = float((found - expected).abs().max() / expected.abs().max())
            assert difference < tolerance, (len(before), name, difference)


def lamb_results(native: NativeEngine, threads: int) -> tuple[list[torch.Tensor], float]:
    torch.set_num_threads(threads)
    arrays = []
    for size in (*SIZES, 200_001):
        weight = draw(size, seed=size).float()
        weight.grad = draw(size, seed=size + 1).float()
        arrays.append(arrays_of(weight))
    for step in (1, 2):
        native.lamb(arrays, settings(step))
    return [entry.weight for entry in arrays], native.global_norm([entry.gradient for entry in arrays])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_lamb_is_the_same_for_any_number_of_threads(native: NativeEngine, threads: int) -> None:
    """The update and the norm, bit for bit."""
    (expected, expected_norm), (found, norm) = lamb_results(native, 1), lamb_results(native, threads)
    assert norm == expected_norm
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_lamb_without_a_gradient(native: NativeEngine) -> None:
    """A gradient of 0 and no weight decay: the ratio is 1, not 0/0."""
    weight = draw(33, seed=1).float()
    before = weight.clone()
    native.lamb([arrays_of(weight)], dataclasses.replace(settings(1), weight_decay=0.0))
    assert torch.equal(weight, before)


def test_global_norm(native: NativeEngine) -> None:
    """Of tensors of any shape, in double; squares far beyond and below float32's range; of none it is 0."""
    tensors = [draw(size, seed=size).float() for size in SIZES] + [draw(3, 5, 7, seed=1).float()]
    squares = torch.cat([tensor.flatten() for tensor in tensors]).double().square()
    assert native.global_norm(tensors) == pytest.approx(math.sqrt(math.fsum(squares.tolist())), rel=1e-14)
    assert native.global_norm([torch.full((100,), 1e30)]) == pytest.approx(1e31, rel=1e-6)
    assert native.global_norm([torch.full((100,), 1e-30)]) == pytest.approx(1e-29, rel=1e-6)
    assert native.global_norm([]) == 0.0


# --- what must not pass unseen


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["words", "bias"])
def test_a_loss_that_is_not_finite_is_seen(native: NativeEngine, name: str, value: float) -> None:
    """One element of one word that no label is: the loss of every token is not a number, as eager says."""
    case = head_case(5, vocab_size=100)
    case.values[name][50] = value
    assert not bool(torch.isfinite(case.apply(EAGER, case.leaves(torch.float64))))
    assert not bool(torch.isfinite(case.apply(native, case.leaves(torch.float32))))


@pytest.mark.parametrize("place", ["query.weight", "key.weight", "value.weight", "hidden"])
def test_attention_hides_nothing(native: NativeEngine, place: str) -> None:
    """What is not a number makes the same results not numbers as on eager."""
    case = attention_case([5, 20])
    case.values[place][3] = float("nan")
    found, expected = (case.apply(engine, case.leaves(dtype)) for engine, dtype in
                       ((native, torch.float32), (EAGER, torch.float64)))  # fmt: skip
    assert torch.equal(found.isnan(), expected.isnan()) and bool(found.isnan().any())


def refusals() -> Iterator[Any]:
    """Each a case, a value's name, its wrong form, and the message."""
    attention, feed_forward, embedding, head = (make() for make in (CASES[name] for name in (
        "attention", "feed forward", "embedding", "masked head")))  # fmt: skip
    yield attention, "hidden", lambda value: value.double(), "expected"
    yield attention, "query.bias", lambda value: value.double(), "bias is of type Double, expected Float"
    yield attention, "value.bias", lambda value: value[:-1], r"bias has shape \[119\], expected \[120\]"
    yield attention, "norm.weight", lambda value: value[:-1], r"weight has shape \[39\], expected \[40\]"
    yield feed_forward, "intermediate.bias", lambda value: value[:-1], r"bias has shape \[71\], expected \[72\]"
    yield feed_forward, "output.bias", lambda value: value.half(), "dense_bias is of type Half, expected Float"
    yield embedding, "types", lambda value: value[:, :-1], r"token_types .*expected"
    yield embedding, "words", lambda value: value.t().contiguous().t(), "words is not contiguous"
    yield embedding, "words", lambda value: value[:10], r"token id \d+ at \d+ is outside of its table of 10"
    yield embedding, "positions", lambda value: value[:10], "position 10 at 15 is outside of its table of 10"
    yield embedding, "types", lambda value: value[:1], r"token type 1 at \d+ is outside of its table of 1"
    yield head, "bias", lambda value: value[:-1], r"bias\w* has shape \[99\], expected \[100\]"


@pytest.mark.parametrize("wrong", list(refusals()), ids=lambda wrong: f"{wrong[1]}: {wrong[3]}")
def test_wrong_inputs_are_refused(native: NativeEngine, wrong: tuple[Case, str, Any, str]) -> None:
    case, name, change, message = wrong
    leaves: Values = case.leaves(torch.float32)
    leaves[name] = change(leaves[name].detach())
    with pytest.raises((RuntimeError, IndexError), match=message):
        case.forward(native, leaves, torch.float32)


def test_labels_outside_of_the_vocabulary_are_refused(native: NativeEngine) -> None:
    batch = dataclasses.replace(batch_of([64]), masked_positions=torch.arange(2), masked_labels=torch.tensor([7, 100]))
    leaves = head_case(1).leaves(torch.float32)
    parts = (leaves["hidden"], layer(leaves, "transform"), "gelu", layer(leaves, "norm"))
    with pytest.raises(IndexError, match="label 100 is outside of the vocabulary of 100"):
        native.masked_head(batch, *parts, leaves["words"], leaves["bias"])


@pytest.mark.parametrize(
    "changes",
    [
        {"cu_seqlens": torch.tensor([0, 4, 13], dtype=torch.int32)},
        {"cu_seqlens": torch.tensor([0, 4], dtype=torch.int32)},
        {"cu_seqlens": torch.tensor([0, 9, 4], dtype=torch.int32)},
        {"cu_seqlens": torch.tensor([0, 4, 9])},
        {"samples": torch.tensor([1])},
        {"sequence_ids": torch.tensor([0] * 8)},
        {"sequence_ids": torch.tensor([0] * 8 + [2])},
    ],
    ids=str,
)
def test_batches_that_do_not_fit_are_refused(native: NativeEngine, changes: dict[str, Any]) -> None:
    """Rather than read beyond memory's end."""
    batch = dataclasses.replace(batch_of([4, 5]), **changes)
    case = attention_case([4, 5], batch=batch)
    with pytest.raises((RuntimeError, IndexError), match=r"cu_seqlens|samples|sequence"):
        case.forward(native, case.leaves(torch.float32), torch.float32)


def test_lamb_refuses_wrong_arrays(native: NativeEngine) -> None:
    weight = torch.zeros(4)
    for wrong, message in (
        (torch.zeros(5), r"shape \[5\], expected \[4\]"),
        (torch.zeros(4).double(), "Double, expected Float"),
        (torch.zeros(8)[::2], "not contiguous"),
    ):
        with pytest.raises(RuntimeError, match=message):
            native.lamb([LambArrays(weight, wrong, torch.zeros(4), torch.zeros(4))], settings(1))


def test_smaller_batches_take_the_same_blocks() -> None:
    """Activations are made for as many rows as the largest batch had, so memory does not grow with every new size."""
    native = NativeEngine()
    kept = []
    for length in (512, 300, 411, 77):
        case = feed_forward_case([length], hidden=64, wide=8192)
        case.forward(native, case.leaves(torch.float32), torch.float32)
        gc.collect()
        kept.append(sum(torch.ops.bert_large.memory()))
    assert max(kept) - kept[0] < 12 << 20  # matrices of each size would add 30 MB


def test_activations_are_freed_by_the_backward_pass() -> None:
    """While the loss still lives: the next micro-batch's forward pass must find the memory."""
    native = NativeEngine()
    case = feed_forward_case([512], hidden=64, wide=2048)
    leaves = case.leaves(torch.float32)
    before = torch.ops.bert_large.memory()[0]
    out = case.forward(native, leaves, torch.float32)
    assert torch.ops.bert_large.memory()[0] - before == 2 * 512 * 2048 * 4
    case.backward(out)
    assert torch.ops.bert_large.memory()[0] == before  # gradients here are smaller than what counts
