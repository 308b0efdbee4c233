"""`bert-large bench` on tiny models: its figures fit each other, its output is one object, wrong options are told."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from bert_large.bench import hugging_face, optimizer
from bert_large.cli import main

TINY = ("--hidden-size", "32", "--attention-heads", "2", "--layers", "1")
ALONE = ("--compare",)


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Return the figures of a benchmark; they are all that it prints."""
    assert main(["bench", *arguments, "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 1
    return json.loads(printed.out)


@pytest.fixture(autouse=True)
def small_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy a megabyte, not a quarter of a gigabyte."""
    monkeypatch.setattr(optimizer, "COPY_BYTES", 1 << 20)


def check_ratios_to_gemm(figures: dict[str, Any], label: str, name: str) -> None:
    seconds, gemm = figures["seconds"], figures["seconds"][f"gemm_{figures['gemm_form']}"]
    assert figures[f"{label}_over_gemm"] == pytest.approx(seconds[name]["minimum"] / gemm["minimum"])
    assert figures[f"{label}_over_gemm_median"] == pytest.approx(seconds[name]["median"] / gemm["median"])


def test_step(capsys: pytest.CaptureFixture[str]) -> None:
    figures = bench(
        capsys, "step", *TINY, *ALONE, "--rounds", "3", "--seq-len", "16", "--batch-size", "4", "--engine", "eager"
    )
    assert figures["engine"] == "eager" and figures["dropout"] == 0.1
    assert set(figures["seconds"]) == {"gemm_fused", "gemm_separate", "eager"}
    assert all(len(its["rounds"]) == 3 for its in figures["seconds"].values())
    check_ratios_to_gemm(figures, "step", "eager")
    gemm = min(figures["seconds"][form]["minimum"] for form in ("gemm_fused", "gemm_separate"))
    flops = 64 * (4 * 32 * 32 + 2 * 32 * 128) * 3 * 2
    assert figures["gemm_gflops_per_second"] == pytest.approx(flops / gemm / 1e9)
    assert "hugging_face_over_gemm" not in figures


def test_step_compares_engines(capsys: pytest.CaptureFixture[str]) -> None:
    figures = bench(capsys, "step", *TINY, "--rounds", "1", "--engine", "eager", "--compare", "native")
    assert (figures["engine"], figures["compared"]) == ("eager", ["native"])
    check_ratios_to_gemm(figures, "step", "eager")
    check_ratios_to_gemm(figures, "native", "native")


def test_train_compares_engines(capsys: pytest.CaptureFixture[str]) -> None:
    """They take turns with one model; the order of the turns is not that of the steps."""
    figures = bench(
        capsys, "train", *TINY, "--vocab-size", "50", "--global-batch-size", "4", "--rounds", "3", "--data-workers",
        "0", "--engine", "native", "--compare", "eager",
    )  # fmt: skip
    seconds = figures["seconds"]
    assert list(seconds) == ["native", "eager"]
    assert figures["over_eager"] == pytest.approx(seconds["eager"]["minimum"] / seconds["native"]["minimum"])
    assert figures["eager_sequences_per_second_median"] == pytest.approx(4 / seconds["eager"]["median"])
    assert not figures["peak_memory_includes_hugging_face"]


@pytest.mark.parametrize("precision", ["bf16", "bf32", "fp16"])
def test_step_in_other_precisions(capsys: pytest.CaptureFixture[str], precision: str) -> None:
    figures = bench(capsys, "step", *TINY, *ALONE, "--rounds", "1", "--seq-len", "8", "--precision", precision)
    assert figures["precision"] == precision and math.isfinite(figures["step_over_gemm"])


def test_train(capsys: pytest.CaptureFixture[str]) -> None:
    figures = bench(
        capsys, "train", *TINY, *ALONE, "--vocab-size", "50", "--phase", "2", "--global-batch-size", "4",
        "--micro-batch-tokens", "600", "--steps", "2", "--rounds", "2", "--data-workers", "0",
    )  # fmt: skip
    assert (figures["layers"], figures["vocab_size"], figures["global_batch_size"]) == (1, 50, 4)
    assert figures["tokens_per_sequence"] == pytest.approx(figures["distribution_tokens_per_sequence"], rel=0.02)
    its = figures["seconds"][figures["engine"]]
    assert figures["sequences_per_second"] == pytest.approx(4 / its["minimum"])
    assert figures["sequences_per_second_median"] == pytest.approx(4 / its["median"])
    assert 0 < figures["data_wait_share"] < 1
    assert figures["peak_memory_bytes"] > 1 << 20 and not figures["peak_memory_includes_hugging_face"]
    assert figures["optimizer_over_bound"] > 0
    assert figures["compared"] == [] and "over_hugging_face" not in figures


def test_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    figures = bench(
        capsys, "tokens", *TINY, "--vocab-size", "50", "--seq-len", "16", "--tokens", "32", "64", "128",
        "--micro-batch-tokens", "64", "--rounds", "2",
    )  # fmt: skip
    costs = figures["seconds_per_token"]
    assert {name: cost * int(name) for name, cost in costs.items()} == pytest.approx(
        {name: its["minimum"] for name, its in figures["seconds"].items()}
    )
    mean = sum(costs.values()) / 3
    assert figures["nonlinearity"] == pytest.approx(max(abs(cost - mean) for cost in costs.values()) / mean)


@pytest.mark.slow  # transformers takes ten seconds to import
def test_hugging_face(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="needs Hugging Face's transformers to compare with")
    figures = bench(capsys, "step", *TINY, "--rounds", "2", "--seq-len", "16", "--batch-size", "4")
    for name in ("hugging_face", "hugging_face_sdpa"):
        check_ratios_to_gemm(figures, name, name)
    figures = bench(
        capsys, "train", *TINY, "--vocab-size", "50", "--global-batch-size", "6", "--hugging-face-batch-size", "4",
        "--rounds", "2",
    )  # fmt: skip
    seconds = figures["seconds"]
    assert figures["hugging_face_sequences_per_second"] == pytest.approx(6 / seconds["hugging_face"]["minimum"])
    theirs, ours = seconds["hugging_face"], seconds[figures["engine"]]
    assert figures["over_hugging_face"] == pytest.approx(theirs["minimum"] / ours["minimum"])
    assert figures["over_hugging_face_median"] == pytest.approx(theirs["median"] / ours["median"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("step", *TINY, *ALONE, "--seq-len", "8"), ("over GEMM, min", "gemm_fused", "GFLOP/s")),
        (("train", *TINY, *ALONE, "--vocab-size", "50", "--data-workers", "0"), ("sequences/s", "peak memory: ")),
        (("tokens", *TINY, "--vocab-size", "50", "--tokens", "128"), ("tokens a step", "furthest from the mean")),
    ],
)
def test_tables(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert main(["bench", *arguments, "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["step", "--engine", "fast", *ALONE], "--engine is 'fast'"),
        (
            ["train", "--compare", "fast"],
            "--compare names 'fast', expected of eager, native, ipex, hugging-face, hugging-f",
        ),
        (
            ["step", "--engine", "auto", "--compare", "eager", "native"],
            "--compare names native, which is measured already",
        ),
        (["train", "--compare", "eager", "eager"], "--compare names eager, which is measured already"),
        (["step", "--precision", "fp8"], "PRECISION (--precision) is 'fp8'"),
        (["step", "--seq-len", "4"], "--seq-len is 4, expected 5 tokens at least"),
        (["step", "--attention-heads", "3"], "hidden_size is 1024"),
        (["train", "--vocab-size", "1"], "--vocab-size is 1, expected 2 at least"),
        (["tokens", "--tokens", "100"], "--tokens is 100, expected a multiple of --seq-len 128"),
        (["record", "--precision", "fp8"], "PRECISION (--precision) is 'fp8'"),
    ],
)
def test_wrong_settings_are_told(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: BENCHMARK"),
        (["speed"], "invalid choice: 'speed'"),
        (["step", "--rounds", "0"], "argument --rounds: '0', expected an integer > 0"),
        (["step", "--warmups", "-1"], "--warmups"),
        (["train", "--phase", "3"], "invalid choice: 3"),
        (["record", "--layers", "2"], "unrecognized arguments: --layers"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("benchmark", ["step", "train"])
def test_without_transformers(
    benchmark: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hugging_face.importlib.util, "find_spec", lambda name: None)
    assert main(["bench", benchmark, *TINY]) == 2
    assert "transformers, which to compare with, is not installed" in capsys.readouterr().err


def test_without_ipex(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(hugging_face.importlib.util, "find_spec", lambda name: "there")
    monkeypatch.setattr(hugging_face, "find_fault", lambda: "IPEX is not installed; install it")
    assert main(["bench", "train", *TINY, "--compare", "hugging-face-ipex"]) == 2
    assert "--compare names hugging-face-ipex: IPEX is not installed; install it" in capsys.readouterr().err
