"""`bert-large bench` on tiny models: consistent results, JSON on one line, and refusals of wrong options."""

from __future__ import annotations

import json
import math
import statistics
from typing import Any

import pytest
from bert_large.bench import hugging_face, train
from bert_large.bench.output import to_json
from bert_large.cli import main
from bert_large.errors import UserError

TINY = ("--hidden-size", "32", "--attention-heads", "2", "--layers", "1")
ALONE = ("--compare",)


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Return the results of a benchmark, which must be its only output."""
    assert main(["bench", *arguments, "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 1
    return json.loads(printed.out)


def check_ratio(result: dict[str, Any], numerator: dict[str, Any], denominator: dict[str, Any]) -> None:
    ratios = [a / b for a, b in zip(numerator["rounds"], denominator["rounds"], strict=True)]
    assert result["median"] == pytest.approx(statistics.median(ratios))


def check_ratios_to_gemm(results: dict[str, Any], label: str, name: str) -> None:
    seconds, gemm = results["seconds"], results["seconds"][f"gemm_{results['gemm_form']}"]
    check_ratio(results[f"{label}_over_gemm"], seconds[name], gemm)


def test_step(capsys: pytest.CaptureFixture[str]) -> None:
    results = bench(
        capsys, "step", *TINY, *ALONE, "--rounds", "3", "--seq-len", "16", "--batch-size", "4", "--engine", "eager"
    )
    assert results["engine"] == "eager" and results["dropout"] == 0.1
    assert set(results["seconds"]) == {"peak", "gemm_fused", "gemm_separate", "eager"}
    assert all(len(timing["rounds"]) == 3 for timing in results["seconds"].values())
    check_ratios_to_gemm(results, "step", "eager")
    gemm = min(results["seconds"][form]["median"] for form in ("gemm_fused", "gemm_separate"))
    flops = 64 * (4 * 32 * 32 + 2 * 32 * 128) * 3 * 2
    assert results["gemm_gflops_per_second"]["median"] == pytest.approx(flops / gemm / 1e9)
    assert results["peak_gflops_per_second"]["median"] > 1
    assert "hugging_face_over_gemm" not in results


def test_step_compares_engines(capsys: pytest.CaptureFixture[str]) -> None:
    results = bench(capsys, "step", *TINY, "--rounds", "1", "--engine", "eager", "--compare", "native")
    assert (results["engine"], results["compared"]) == ("eager", ["native"])
    check_ratios_to_gemm(results, "step", "eager")
    check_ratios_to_gemm(results, "native", "native")


def test_train_compares_engines(capsys: pytest.CaptureFixture[str]) -> None:
    results = bench(
        capsys, "train", *TINY, "--vocab-size", "50", "--global-batch-size", "4", "--rounds", "3", "--data-workers",
        "0", "--engine", "native", "--compare", "eager",
    )  # fmt: skip
    seconds = results["seconds"]
    assert list(seconds) == ["native", "eager"]
    check_ratio(results["over_eager"], seconds["eager"], seconds["native"])
    assert results["eager_sequences_per_second"]["median"] == pytest.approx(4 / seconds["eager"]["median"])
    assert not results["peak_memory_includes_hugging_face"]


@pytest.mark.parametrize("precision", ["bf16", "bf32", "fp16"])
def test_step_in_other_precisions(capsys: pytest.CaptureFixture[str], precision: str) -> None:
    results = bench(capsys, "step", *TINY, *ALONE, "--rounds", "1", "--seq-len", "8", "--precision", precision)
    assert results["precision"] == precision and math.isfinite(results["step_over_gemm"]["median"])


def test_train(capsys: pytest.CaptureFixture[str]) -> None:
    results = bench(
        capsys, "train", *TINY, *ALONE, "--vocab-size", "50", "--phase", "2", "--global-batch-size", "4",
        "--micro-batch-tokens", "600", "--steps", "2", "--rounds", "2", "--data-workers", "0",
    )  # fmt: skip
    assert (results["layers"], results["vocab_size"], results["global_batch_size"]) == (1, 50, 4)
    assert results["tokens_per_sequence"] == pytest.approx(results["distribution_tokens_per_sequence"], rel=0.05)
    timing = results["seconds"][results["engine"]]
    rates = [4 / seconds for seconds in timing["rounds"]]
    assert results["sequences_per_second"]["median"] == pytest.approx(statistics.median(rates))
    assert 0 < results["data_wait_share"] < 1
    assert results["peak_memory_bytes"] > 1 << 20 and not results["peak_memory_includes_hugging_face"]
    assert results["compared"] == [] and "over_hugging_face" not in results


@pytest.mark.slow  # transformers takes ten seconds to import
def test_hugging_face(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="needs Hugging Face's transformers to compare with")
    results = bench(capsys, "step", *TINY, "--rounds", "2", "--seq-len", "16", "--batch-size", "4")
    for name in ("hugging_face", "hugging_face_sdpa"):
        check_ratios_to_gemm(results, name, name)
    results = bench(
        capsys, "train", *TINY, "--vocab-size", "50", "--global-batch-size", "6", "--hugging-face-batch-size", "4",
        "--rounds", "2",
    )  # fmt: skip
    seconds = results["seconds"]
    check_ratio(results["over_hugging_face"], seconds["hugging_face"], seconds[results["engine"]])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("step", *TINY, *ALONE, "--seq-len", "8"), ("over GEMM", "gemm_fused", "GFLOP/s")),
        (("train", *TINY, *ALONE, "--vocab-size", "50", "--data-workers", "0"), ("sequences/s", "peak memory: ")),
    ],
)
def test_tables(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert main(["bench", *arguments, "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in expected)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["step", "--engine", "fast", *ALONE], ("--engine", "fast")),
        (["checkpoint", "--engine", "fast"], ("--engine", "fast")),
        (["train", "--compare", "fast"], ("--compare", "fast", "hugging-face-sdpa")),
        (["step", "--engine", "auto", "--compare", "eager", "native"], ("--compare", "native", "auto")),
        (["train", "--compare", "eager", "eager"], ("--compare", "eager")),
        (["step", "--attention-heads", "3"], ("1024", "3")),
    ],
)
def test_wrong_settings(arguments: list[str], named: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and all(text in message for text in named), message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "BENCHMARK"),
        (["speed"], "speed"),
        (["step", "--precision", "fp8"], "--precision is 'fp8'"),
        (["step", "--seq-len", "4"], "--seq-len is 4"),
        (["step", "--rounds", "0"], "--rounds is 0"),
        (["step", "--rounds", "9999999999999"], "--rounds is 9999999999999"),
        (["step", "--batch-size", "nan"], "--batch-size is 'nan'"),
        (["step", "--warmups", "-1"], "--warmups"),
        (["train", "--phase", "3"], "--phase is 3"),
        (["train", "--vocab-size", "1"], "--vocab-size is 1"),
        *((["checkpoint", f"--step-seconds={text}"], "--step-seconds is ") for text in ("0", "nan", "inf", "x")),
    ],
)
def test_wrong_usage(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *arguments])
    assert caught.value.code == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("benchmark", "compare"),
    [
        ("step", []),
        ("train", ["--compare", "hugging-face-ipex"]),
        ("step", ["--compare", "hugging-face-fast-bert"]),
    ],
)
def test_missing_packages(
    benchmark: str, compare: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without transformers; and with it, but without IPEX, whose own message is passed on."""
    monkeypatch.setattr(hugging_face.importlib.util, "find_spec", lambda name: "there" if compare else None)
    monkeypatch.setattr(hugging_face, "find_fault", lambda: "IPEX is missing here")
    assert main(["bench", benchmark, *TINY, *compare]) == 2
    assert ("IPEX is missing here" if compare else "transformers") in capsys.readouterr().err


def test_fast_bert_needs_an_old_transformers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hugging_face, "find_fault", lambda: None)
    monkeypatch.setattr(hugging_face, "version", lambda name: "4.52.0")
    assert main(["bench", "step", *TINY, "--compare", "hugging-face-fast-bert"]) == 2
    message = capsys.readouterr().err
    assert "4.51.3" in message and "4.52.0" in message


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 99 bytes")])
def test_a_model_that_does_not_fit(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(options: Any) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(train, "measure", measure)
    assert main(["bench", "train", *TINY]) == UserError.exit_code
    assert "memory" in capsys.readouterr().err


def test_json_has_no_nan() -> None:
    assert (
        to_json({"a": math.nan, "b": [math.inf, 1.5, {"c": -math.inf}]}) == '{"a": null, "b": [null, 1.5, {"c": null}]}'
    )
