"""`bert-large plan`: data counted or estimated, a forecast of known numbers, and advice that fits the budget."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bert_large.config.training import DataConfig
from bert_large.plan.survey import DataSurvey, survey_records
from bert_large.plan.timing import flops_per_token
from bert_large.prepare.dataset import TextSettings, make_dataset
from bert_large.prepare.vocab import SPECIAL_TOKENS, write_vocab

from tests.support.models import tiny_config, write_config
from tests.support.records import make_records, write_folder
from tests.support.runs import options, run_here

SETTINGS: dict[str, Any] = {"phase": 1, "global_batch_size": 8, "max_steps": 40, "micro_batch_tokens": 200,
                            "save_every": 10, "eval_every_samples": 80, "learning_rate": 0.001}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    write_folder(folder / "data" / "seq_128", make_records(50, lengths=(5, 100)), shards=3)
    write_folder(folder / "data" / "eval", make_records(12, seed=1))
    write_config(folder / "config.json")
    return folder


def planned(place: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"dataset_dir": place / "data", "config_file": place / "config.json",
                             "output_dir": place / "out", "tokens_per_second": 1000}  # fmt: skip
    capsys.readouterr()
    assert run_here("plan", *options(**SETTINGS | given | changes), "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_a_described_machine_gives_the_arithmetic(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = make_records(50, lengths=(5, 100))
    mean = np.mean([len(record.input_ids) for record in records])
    plan = planned(place, capsys)
    assert plan["records"] == 50 and plan["steps"] == 40 and plan["sequences"] == 320
    assert plan["epochs"] == pytest.approx(6.4) and plan["tokens_per_step"] == pytest.approx(8 * mean, rel=0.01)
    assert plan["training_hours"] == pytest.approx(320 * mean / 1000 / 3600, rel=0.01)
    assert plan["evaluations"] == 4 and plan["checkpoints"] == 4
    eval_tokens = sum(len(record.input_ids) for record in make_records(12, seed=1))
    assert plan["evaluation_hours"] == pytest.approx(4 * eval_tokens / 3000 / 3600, rel=0.01)
    parts = ("preparation", "training", "evaluation", "checkpoint")
    assert plan["hours"] == pytest.approx(sum(plan[f"{part}_hours"] for part in parts))
    assert not (place / "out").exists()


@pytest.mark.parametrize("changes", [{"max_samples": 100}, {"max_steps": 13}])
def test_the_first_limit_ends_the_run(changes: dict[str, int], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(place, capsys, **changes)
    assert plan["steps"] == 13 and plan["evaluations"] == 2  # at 80 samples, and at the end


def test_hours_end_the_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training, evaluations and checkpoints take the hours; what is tried to fit a budget is a number of hours."""
    plan = planned(place, capsys, max_steps=None, max_hours=0.5, hours=0.25)
    step = plan["step_seconds"] / 3600
    taken = sum(plan[f"{part}_hours"] for part in ("training", "evaluation", "checkpoint"))
    assert 0.5 <= taken < 0.5 + 2 * step and plan["steps"] > 40
    assert any(line.startswith("--max-hours 0.2") for line in plan["advice"])
    assert not any(line.startswith("--max-steps") for line in plan["advice"])


@pytest.mark.parametrize("limit", [{"max_steps": 40}, {"max_samples": 274}])
def test_the_batch_grows(limit: dict[str, int], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From 2 to 8 sequences over 16 steps."""
    plan = planned(place, capsys, start_batch_size=2, batch_ramp_steps=16, **limit)
    assert plan["steps"] == 40 and plan["sequences"] == 24 * 8 + sum(2 + 6 * step // 16 for step in range(16))
    assert plan["training_hours"] == pytest.approx(plan["tokens"] / 1000 / 3600, rel=0.01)


def test_machines_share_the_tokens(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, four = planned(place, capsys), planned(place, capsys, machines=4)
    assert four["training_hours"] == pytest.approx(one["training_hours"] / 4)


def test_products_of_another_machine(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow, fast = (planned(place, capsys, tokens_per_second=None, gflops=speed) for speed in (1, 10))
    assert slow["training_hours"] == pytest.approx(10 * fast["training_hours"])
    data = DataConfig(dataset_dir=place, max_seq_length=128)
    small, large = (flops_per_token(tiny_config(num_hidden_layers=layers), data, 50) for layers in (2, 4))
    assert large - small == pytest.approx(2 * (6 * (4 * 32**2 + 2 * 32 * 64) + 12 * 50 * 32))


def test_the_head_computes_the_tokens_that_are_masked(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many as --masking-rate says with --dynamic-masking."""
    config, hours, flops = tiny_config(), [], []
    write_vocab(tmp_path / "vocab.txt", [*SPECIAL_TOKENS, *map(str, range(config.vocab_size - len(SPECIAL_TOKENS)))])
    for rate in (0.2, 0.6):
        masking: dict[str, Any] = {"dynamic_masking": True, "masking_rate": rate}
        data = DataConfig(dataset_dir=place, max_seq_length=128, **masking)
        flops.append(flops_per_token(config, data, 50))
        given = {"vocab_file": tmp_path / "vocab.txt", "tokens_per_second": None, "gflops": 1}
        hours.append(planned(place, capsys, **masking, **given)["training_hours"])
    assert flops[1] - flops[0] == pytest.approx(0.4 * 6 * (32**2 + 2 * 32 * 64 + 32 * (32 + config.vocab_size)))
    assert hours[1] / hours[0] == pytest.approx(flops[1] / flops[0], rel=0.02)  # of other lengths


def test_records_that_are_all_bad(tmp_path: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "seq_128").mkdir()
    (tmp_path / "seq_128" / "part-0").touch()
    given: dict[str, Any] = {"dataset_dir": tmp_path, "config_file": place / "config.json", "output_dir": "out"}
    assert run_here("plan", *options(**SETTINGS | given)) == 2
    assert "seq_128" in capsys.readouterr().err


def test_advice_fits_the_hours(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The steps and machines that it names are tried."""
    whole = planned(place, capsys, tokens_per_second=10)
    budget = whole["hours"] / 2
    advice = planned(place, capsys, tokens_per_second=10, hours=budget)["advice"]
    found = {words[0]: int(words[1].rstrip(":")) for line in advice if (words := line.split())[0].startswith("--m")}
    assert set(found) == {"--max-steps", "--machines"}
    for changes in ({"max_steps": found["--max-steps"]}, {"machines": found["--machines"]}):
        fitted = planned(place, capsys, tokens_per_second=10, **changes)
        assert budget / 2 < fitted["hours"] <= budget * 1.02, changes
    assert not any(line.startswith("--") for line in planned(place, capsys, hours=whole["hours"] * 2)["advice"])


def test_ranks_that_share_the_optimizer_need_less(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, shared = (
        planned(place, capsys, config_file="bert-large", machines=4, zero1=zero1) for zero1 in (False, True)
    )
    assert shared["memory_bytes_per_machine"] < 0.7 * whole["memory_bytes_per_machine"]


def test_advice_fits_the_memory(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large: dict[str, Any] = {"config_file": "bert-large", "micro_batch_tokens": 16384, "global_batch_size": 128,
                             "max_steps": 2}  # fmt: skip
    needed = planned(place, capsys, **large)["memory_bytes_per_machine"]
    (line,) = planned(place, capsys, memory=needed / 2**30 * 0.5, **large)["advice"]
    tokens = int(line.partition("--micro-batch-tokens ")[2].split()[0])
    fitted = planned(place, capsys, memory=needed / 2**30 * 0.5, **large | {"micro_batch_tokens": tokens})
    assert fitted["advice"] == [] and 128 <= tokens < 16384
    (line,) = planned(place, capsys, memory=1, **large)["advice"]
    assert "--micro-batch-tokens" not in line


def test_this_machine_is_measured(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With fewer layers than the model has; more layers take longer."""
    seconds = [
        planned(place, capsys, tokens_per_second=None, config_file=write_config(place / f"{layers}.json", **size))
        for layers in (2, 24)
        if (size := {"num_hidden_layers": layers})
    ]
    assert 0 < seconds[0]["step_seconds"] < seconds[1]["step_seconds"]
    assert "3 of 24" in seconds[1]["speed_origin"] and seconds[0]["checkpoint_hours"] > 0


def sentences(seed: int, articles: int) -> str:
    generator = random.Random(seed)
    words = [generator.choice(["river", "bank", "tree", "falls", "slow", "green", "winter"]) for _ in range(40)]
    lines = [f"{' '.join(generator.sample(words, 9)).capitalize()}.\n" for _ in range(articles * 6)]
    return "".join(line + ("\n" if number % 6 == 5 else "") for number, line in enumerate(lines))


TEXT_SETTINGS: dict[str, Any] = {
    "max_seq_length": 128,
    "max_predictions_per_seq": 20,
    "dupe_factor": 2,
    "vocab_size": 200,
}


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_text_is_estimated_from_a_sample(
    compress: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bert_large.plan import survey

    suffix = {gzip.compress: ".gz", bz2.compress: ".bz2", lzma.compress: ".xz"}.get(compress, "")
    text = tmp_path / "text"
    text.mkdir()
    for number in range(6):
        (text / f"part-{number}.txt{suffix}").write_bytes(compress(sentences(number, 100 + 20 * number).encode()))
    settings = TextSettings(vocab_file=None, do_lower_case=None, **TEXT_SETTINGS)
    make_dataset(text, tmp_path / "records", settings, lambda line: None)
    expected = survey_records(tmp_path / "records" / "seq_128")
    monkeypatch.setattr(survey, "_TEXT_BYTES", 60_000)
    found, held_out = survey.survey_text(text, settings)
    assert "estimated" in found.origin and held_out is not None
    assert found.tokens == pytest.approx(expected.tokens, rel=0.15)
    assert found.records == pytest.approx(expected.records, rel=0.15)


def as_articles(text: str) -> list[str]:
    return [article for article in text.split("\n\n") if article]


def write_form(form: str, path: Path, text: str) -> None:
    """Write articles in a form that `corpus` reads."""
    articles = as_articles(text)
    if form == "parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
        pytest.importorskip("pyarrow.parquet")
        pyarrow.parquet.write_table(pyarrow.table({"text": articles}), path.with_suffix(".parquet"))
    elif form == "csv":
        with path.with_suffix(".csv").open("w", newline="") as file:
            csv.writer(file).writerows([("id", "text"), *enumerate(articles)])
    elif form == "json":
        path.with_suffix(".jsonl").write_text("".join(f"{json.dumps({'text': one})}\n" for one in articles))
    elif form == "articles":
        path.write_text("".join(f"{one.replace(chr(10), ' ')}\n" for one in articles))
    else:
        path.write_text("".join(f'<doc id="{n}" title="t">\n{one}\n</doc>\n' for n, one in enumerate(articles)))


@pytest.mark.parametrize("form", ["parquet", "csv", "json", "articles", "wikiextractor"])
def test_samples_end_with_whole_articles(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bert_large.plan import survey

    text = tmp_path / "text"
    text.mkdir()
    for number in range(4):
        write_form(form, text / f"part-{number}.txt", sentences(number, 100))
    settings = TextSettings(vocab_file=None, do_lower_case=None, **TEXT_SETTINGS)
    make_dataset(text, tmp_path / "records", settings, lambda line: None)
    expected = survey_records(tmp_path / "records" / "seq_128")
    monkeypatch.setattr(survey, "_TEXT_BYTES", 40_000)
    found, _ = survey.survey_text(text, settings)
    assert "estimated" in found.origin
    assert found.tokens == pytest.approx(expected.tokens, rel=0.15)


def test_many_records_are_estimated_from_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bert_large.plan import survey

    write_folder(tmp_path, make_records(600, lengths=(5, 100)), shards=12)
    exact = survey_records(tmp_path)
    monkeypatch.setattr(survey, "_RECORDS_PER_SHARD", 20)
    found: DataSurvey = survey_records(tmp_path)
    assert exact.records == 600 and len(found.sample) == 80
    assert found.records == pytest.approx(600, rel=0.1) and found.tokens == pytest.approx(exact.tokens, rel=0.15)


def test_a_large_file_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bert_large.plan import survey

    write_folder(tmp_path, make_records(600, lengths=(5, 100)), shards=1)
    assert survey_records(tmp_path).origin == "counted"
    monkeypatch.setattr(survey, "_RECORDS_PER_SHARD", 100)
    found = survey_records(tmp_path)
    assert found.origin != "counted" and found.records == pytest.approx(600, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"dataset_dir": "missing"}, "missing"), ({"hours": 0}, "--hours"), ({"memory": -1}, "--memory"),
     ({"machines": 0}, "--machines"), ({"max_steps": 0}, "--max-steps")],
)  # fmt: skip
def test_wrong_options(changes: dict[str, Any], named: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, Any] = {"dataset_dir": place / "data", "config_file": place / "config.json", "output_dir": "out"}
    assert run_here("plan", *options(**SETTINGS | given | changes)) == 2
    assert named in capsys.readouterr().err
