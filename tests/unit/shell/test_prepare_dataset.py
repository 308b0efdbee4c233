"""prepare_dataset.sh: the commands that it runs, from text to records."""

from __future__ import annotations

from pathlib import Path

import pytest

from .sandbox import Sandbox

PREPARE = "quickstart/prepare_dataset.sh"


@pytest.fixture
def preparing(sandbox: Sandbox) -> Sandbox:
    """The sandbox with what the script requires and a vocabulary, every path with a space in it."""
    sandbox.variables |= {
        "INPUT_DIR": sandbox.folder("some text"),
        "VOCAB_FILE": sandbox.file("vo cab.txt"),
        "DATASET_DIR": str(sandbox.directory / "data set"),
    }
    return sandbox


def test_it_goes_from_text_to_records(preparing: Sandbox) -> None:
    preparing.variables |= {"INPUT_FORMAT": "articles", "TEXT_LANGUAGE": "de", "SHARDS": "7", "PHASE1_FRACTION": "0.8",
                            "EVAL_ARTICLES": "50", "EVAL_RECORDS": "99", "DUPE_FACTOR": "3", "RANDOM_SEED": "5",
                            "WORKERS": "2"}  # fmt: skip
    dataset = preparing.variables["DATASET_DIR"]
    preparing.folder("data set/corpus/eval")  # as the command leaves it
    preparing.succeed(PREPARE, "--more")
    _, *calls = preparing.calls("python3")
    common = ["--vocab-file", preparing.variables["VOCAB_FILE"], "--max-seq-length"]
    long = [*common, "512", "--max-predictions-per-seq", "76", "--more"]
    environment = "--from-environment"
    assert [call.arguments[2:] for call in calls] == [
        ["corpus", environment, "--output-dir", f"{dataset}/corpus"],
        ["prepare", environment, "--input-dir", f"{dataset}/corpus/phase1", "--output-dir", f"{dataset}/seq_128",
         *common, "128", "--max-predictions-per-seq", "20", "--output-suffix", "_128", "--more"],
        ["prepare", environment, "--input-dir", f"{dataset}/corpus/phase2", "--output-dir", f"{dataset}/seq_512",
         *long],
        ["prepare", environment, "--input-dir", f"{dataset}/corpus/eval", "--output-dir", f"{dataset}/eval_all", *long],
        ["pick", environment, "--input-dir", f"{dataset}/eval_all", "--output-file", f"{dataset}/eval/eval_records",
         "--allow-fewer", "--overwrite"],
    ]  # fmt: skip
    corpus, prepare, pick = calls[0].parse(), calls[1].parse(drop="--more"), calls[-1].parse()
    assert (str(corpus.input_dir), corpus.input_format, corpus.language, corpus.shards) == (
        preparing.variables["INPUT_DIR"], "articles", "de", 7,
    )  # fmt: skip
    assert (corpus.phase1_fraction, corpus.eval_articles, pick.count) == (0.8, 50, 99)
    assert (prepare.dupe_factor, prepare.random_seed, prepare.workers) == (3, 5, 2)
    assert str(prepare.input_dir) == f"{dataset}/corpus/phase1"  # not INPUT_DIR
    assert (Path(dataset) / "vocab.txt").is_file()


def test_it_trains_a_vocabulary_if_none_is_given(preparing: Sandbox) -> None:
    del preparing.variables["VOCAB_FILE"]
    preparing.variables["VOCAB_SIZE"] = "1000"
    dataset = preparing.variables["DATASET_DIR"]
    preparing.folder("data set/corpus/both")
    vocab = ["vocab", "--from-environment", "--input-dir", f"{dataset}/corpus/both", "--output-file",
             f"{dataset}/vocab.txt", "--no-do-lower-case"]  # fmt: skip
    preparing.run(PREPARE, "--no-do-lower-case")  # it fails at its end, because the fake tool made no vocabulary
    _, corpus, *others = preparing.calls("python3")
    assert corpus.arguments[2] == "corpus" and "--no-do-lower-case" not in corpus.arguments
    assert [call.arguments[2] for call in others] == ["vocab", "prepare", "prepare"]
    assert others[0].arguments[2:] == vocab and others[0].parse().vocab_size == 1000
    for call in others[1:]:
        assert call.value("--vocab-file") == f"{dataset}/vocab.txt"
        assert call.value("--input-dir") == f"{dataset}/corpus/both"
        assert "--no-do-lower-case" in call.arguments
    preparing.file("data set/vocab.txt")
    preparing.log.unlink()
    preparing.succeed(PREPARE)
    assert [call.arguments[2] for call in preparing.calls()[1:]] == ["corpus", "prepare", "prepare"]
    preparing.log.unlink()
    preparing.succeed(PREPARE, "--overwrite")
    calls = preparing.calls()[1:]
    assert [call.arguments[2] for call in calls] == ["corpus", "vocab", "prepare", "prepare"]
    assert all("--overwrite" in call.arguments for call in calls)


def test_another_vocabulary_size_is_not_ignored(preparing: Sandbox) -> None:
    """Whether it was set before, is not set now, or the vocabulary was given before; `--overwrite` takes it."""
    vocab_file = preparing.variables["VOCAB_FILE"]
    preparing.variables["VOCAB_SIZE"] = "1000"
    assert "VOCAB_FILE" in (message := preparing.refuse(PREPARE)) and "VOCAB_SIZE" in message
    del preparing.variables["VOCAB_SIZE"]
    preparing.succeed(PREPARE)  # which copies the vocabulary
    del preparing.variables["VOCAB_FILE"]
    preparing.succeed(PREPARE)
    preparing.variables["VOCAB_SIZE"] = "1000"
    assert "VOCAB_SIZE=(not set), now 1000" in preparing.refuse(PREPARE)
    preparing.succeed(PREPARE, "--overwrite")
    preparing.succeed(PREPARE)
    preparing.variables["VOCAB_SIZE"] = "2000"
    assert "VOCAB_SIZE=1000, now 2000" in preparing.refuse(PREPARE)
    del preparing.variables["VOCAB_SIZE"]
    assert "VOCAB_SIZE=1000, now (not set)" in preparing.refuse(PREPARE)
    preparing.variables["VOCAB_FILE"] = vocab_file
    preparing.succeed(PREPARE)


def test_it_stops_at_the_first_failure(preparing: Sandbox) -> None:
    preparing.fake("python3", "sys.exit(0 if sys.argv[1] == '-c' else 44)")
    assert preparing.run(PREPARE).returncode == 44
    assert len(preparing.calls("python3")) == 2


def test_it_ends_with_its_command_on_a_signal(preparing: Sandbox) -> None:
    assert preparing.stop(PREPARE, "python3") == 43
    assert len(preparing.calls("python3")) == 2


def test_it_names_a_missing_input(preparing: Sandbox) -> None:
    preparing.variables["INPUT_DIR"] = "/not/there"
    assert "INPUT_DIR=/not/there" in preparing.refuse(PREPARE)
