"""`bert-large prepare`: its options, its output, and what it refuses."""

from __future__ import annotations

import bz2
import gzip
import json
import sys
from pathlib import Path

import h5py
import pytest
from bert_large import cli
from bert_large.data.folders import list_shards
from bert_large.data.formats.tfrecord import iterate_payloads
from bert_large.prepare.settings import InstanceSettings

from tests.support.raw_text import DOCS

from .preparing import Prepare, names


def test_prepare(prepare: Prepare, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "out"
    assert prepare("--output-suffix", "_32", output_dir=out) == 0
    assert names(out) == ["part-0_32", "part-1_32", "part-2_32"]
    counts = [len(list(iterate_payloads(out / name))) for name in names(out)]
    printed, logged = capsys.readouterr()
    assert printed.startswith(f"wrote {sum(counts)} records with ")
    assert " tokens to 3 files in " in printed
    lines = logged.splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["1/3 part-0_32", "2/3 part-1_32", "3/3 part-2_32"]
    assert "lowercased" in lines[0] and f": {counts[0]} records, " in lines[1]


def test_prepare_shows_a_bar_on_a_terminal(
    prepare: Prepare, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert prepare() == 0
    err = capsys.readouterr().err
    assert "text: " in err and "%|" in err
    assert "1/3" not in err


def test_casing_is_resolved_and_recorded(
    prepare: Prepare, out: Path, vocab_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def casing(*options: str) -> tuple[bool, bool]:
        assert prepare("--overwrite", *options) == 0
        settings = json.loads((out / "manifest.json").read_text())["settings"]
        return settings["do_lower_case"], settings["strip_accents"]

    assert casing() == (True, True)
    assert casing("--no-do-lower-case") == (False, False)
    assert casing("--no-strip-accents") == (True, False)
    vocab_file.write_text(f"{vocab_file.read_text()}Größe\n")
    capsys.readouterr()
    assert casing() == (False, False)
    assert "cased" in (err := capsys.readouterr().err) and "Größe" in err
    config = vocab_file.parent / "tokenizer_config.json"
    config.write_text('{"do_lower_case": true, "strip_accents": false}')
    assert casing() == (True, False)
    config.write_text("[]")
    assert prepare() == 2
    assert str(config) in capsys.readouterr().err
    assert casing("--do-lower-case") == (True, True)


def test_many_unknown_tokens_are_a_warning(
    prepare: Prepare, text_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def warnings() -> list[str]:
        assert prepare("--overwrite", "--dupe-factor", "1") == 0
        return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]

    for path in text_dir.iterdir():
        path.write_text("alpha beta gamma.\n\ndelta " * 10 + " %\n")
    assert warnings() == []
    for path in text_dir.iterdir():
        path.write_text("alpha beta gamma %\n\n" * 10)
    (warning,) = warnings()
    assert "25.0%" in warning and "[UNK]" in warning


def test_record_files_have_names_that_are_read(prepare: Prepare, out: Path, text_dir: Path) -> None:
    """A record file named like a note beside shards would be skipped."""
    (text_dir / "part-0").rename(text_dir / "a.txt")
    assert prepare() == 0
    assert [path.name for path in list_shards(out)] == ["a", "part-1", "part-2"]


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("_hello", "_hello", ()),
        ("_c.md", "_c", ()),
        ("a.hdf5", "a.hdf5", ()),
        ("a", "a.json", ("--output-suffix", ".json")),
        ("a", "a.hdf5", ("--output-suffix", ".hdf5")),
        ("a", "_a_0.hdf5", ("--format", "hdf5", "--output-name", "_a")),
        ("a", ".a_0.hdf5", ("--format", "hdf5", "--output-name", ".a")),
    ],
)
def test_names_that_would_not_be_read_are_refused(
    prepare: Prepare,
    out: Path,
    text_dir: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    name: str,
    options: tuple[str, ...],
) -> None:
    (text_dir / "part-0").rename(text_dir / text)
    assert prepare(*options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{text_dir / text} " in line and f" {name}," in line
    assert not out.exists()


@pytest.mark.parametrize("suffix", [".gz", ".txt.bz2"])
def test_compressed_text_gives_the_same_records(prepare: Prepare, text_dir: Path, tmp_path: Path, suffix: str) -> None:
    assert prepare(output_dir=tmp_path / "plain") == 0
    compress = gzip.compress if suffix == ".gz" else bz2.compress
    for path in list(text_dir.iterdir()):
        path.with_name(path.name + suffix).write_bytes(compress(path.read_bytes()))
        path.unlink()
    assert prepare(output_dir=tmp_path / "packed") == 0
    assert names(tmp_path / "packed") == names(tmp_path / "plain")
    for name in names(tmp_path / "plain"):
        assert (tmp_path / "packed" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


@pytest.mark.parametrize(
    ("command", "name", "content"),
    [("prepare", "wiki", DOCS.encode()), ("vocab", "wiki", DOCS.encode()), ("prepare", "part-1.gz", b"alpha.\n")],
)
def test_wrong_inputs_are_refused_before_anything_is_changed(
    prepare: Prepare,
    out: Path,
    text_dir: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    name: str,
    content: bytes,
) -> None:
    """Raw text in place of sentences, and two texts whose outputs would have the same name."""

    def run() -> int:
        if command == "prepare":
            return prepare("--overwrite")
        return cli.main(["vocab", "--input-dir", str(text_dir), "--output-file", str(out / "vocab.txt"), "--overwrite"])

    assert run() == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    (text_dir / name).write_bytes(content)
    assert run() == 2
    assert str(text_dir / name) in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_prepare_options_reach_the_records(prepare: Prepare, text_dir: Path, tmp_path: Path) -> None:
    """Every option of the algorithm and of the tokenizer changes the records."""
    changes = ("--max-seq-length=24", "--max-predictions-per-seq=3", "--dupe-factor=2", "--masked-lm-prob=0.3",
               "--short-seq-prob=0.9", "--random-seed=1", "--no-do-lower-case")  # fmt: skip
    with (text_dir / "part-0").open("a") as file:
        file.write("\n\nALPHA\n")
    for name in ("part-1", "part-2"):
        (text_dir / name).unlink()

    def records(folder: str, *options: str) -> list[int]:
        """Return what does not depend on the order of a record's fields, which is arbitrary."""
        assert prepare("--dupe-factor", "1", *options, output_dir=tmp_path / folder) == 0
        return [sum(payload) for _, payload in iterate_payloads(tmp_path / folder / "part-0")]

    same = records("same")
    assert records("again") == same
    for change in changes:
        assert records(change, change) != same, change


def test_prepare_defaults_are_those_of_phase_1() -> None:
    parsed = cli.build_parser("prepare").parse_args(
        ["prepare", "--input-dir", "a", "--vocab-file", "b", "--output-dir", "c"]
    )
    assert InstanceSettings() == InstanceSettings(
        max_seq_length=128, max_predictions_per_seq=20, dupe_factor=10, masked_lm_prob=0.15, short_seq_prob=0.1,
        random_seed=12345,
    )  # fmt: skip
    assert (parsed.max_seq_length, parsed.dupe_factor, parsed.do_lower_case) == (128, 10, None)
    assert parsed.workers >= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-seq-length", "4", "--max-predictions-per-seq", "1"), "--max-seq-length is 4, "),
        (("--max-predictions-per-seq", "30"), "--max-predictions-per-seq is 30, expected at most 29"),
        (("--dupe-factor", "0"), "--dupe-factor is 0"),
        (("--workers", "0"), "--workers is 0, "),
        (("--output-suffix", "/x"), "--output-suffix is '/x'"),
        (("--input-dir", "/nowhere"), "--input-dir /nowhere: found nothing"),
        (("--vocab-file", "/nowhere"), "--vocab-file /nowhere: "),
        (("--vocab-file", "/dev/null"), "--vocab-file /dev/null: 0 tokens without [PAD]"),
        (("--format", "hdf5", "--output-suffix", "_1"), "--output-suffix is '_1'"),
        (("--output-name", "a"), "--output-name is 'a'"),
        (("--format", "hdf5", "--output-name", "a/b"), "--output-name is 'a/b'"),
        (("--output-suffix", "_" * 250), "the output file name part-0_"),
    ],
)
def test_prepare_errors(
    prepare: Prepare, out: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert prepare(*options) == 2
    assert f"bert-large prepare: error: {message}" in capsys.readouterr().err
    assert not out.exists()


def test_prepare_never_overwrites_its_input(prepare: Prepare, text_dir: Path) -> None:
    before = {path: path.read_bytes() for path in text_dir.iterdir()}
    assert prepare("--overwrite", output_dir=text_dir) == 2
    assert {path: path.read_bytes() for path in text_dir.iterdir()} == before


def test_hdf5_files_are_named_as_nvidias(prepare: Prepare, out: Path, tmp_path: Path) -> None:
    assert prepare("--format", "hdf5") == 0
    assert names(out) == [f"corpus_training_{number}.hdf5" for number in range(3)]
    options = ("--format", "hdf5", "--output-name", "wikicorpus_en_test")
    assert prepare(*options, output_dir=tmp_path / "named") == 0
    assert names(tmp_path / "named") == [f"wikicorpus_en_test_{number}.hdf5" for number in range(3)]
    with h5py.File(tmp_path / "named" / "wikicorpus_en_test_0.hdf5") as file:
        assert file["input_ids"].shape[1] == 32


def test_prepare_warns_of_a_file_with_one_article(
    prepare: Prepare, text_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (text_dir / "part-1").write_text("alpha beta\ngamma delta\n")
    assert prepare() == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    assert "part-1" in warnings[0] and "single article" in warnings[0]
