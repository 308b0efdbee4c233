from __future__ import annotations

import bz2
import gzip
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import h5py
import pytest
from bert_large import __version__, cli
from bert_large.data.folders import list_shards
from bert_large.data.formats.tfrecord import iterate_payloads
from bert_large.prepare.settings import InstanceSettings
from bert_large.prepare.vocab import read_vocab
from bert_large.storage.integrity import facts_of
from bert_large.storage.lock import LOCK_FILE, FolderLock

from tests.support.raw_text import DOCS
from tests.support.runs import run_here


@pytest.fixture(autouse=True)
def pick_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "pick", ("bert_large.prepare.pick_command", "pick records"))


def prepare(text_dir: Path, vocab_file: Path, output_dir: Path, *options: str) -> int:
    folders = ["--input-dir", text_dir, "--vocab-file", vocab_file, "--output-dir", output_dir]
    return run_here("prepare", *map(str, folders), "--workers", "1", "--max-seq-length", "32", *options)


def names(folder: Path) -> list[str]:
    """Return the names of the record files."""
    return sorted(path.name for path in folder.iterdir() if path.name not in ("manifest.json", LOCK_FILE))


def stamps(folder: Path) -> dict[str, int]:
    """Return when each record file was made."""
    return {name: (folder / name).stat().st_mtime_ns for name in names(folder)}


def test_prepare(tmp_path: Path, text_dir: Path, vocab_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(text_dir, vocab_file, tmp_path / "new" / "out", "--output-suffix", "_32") == 0
    output_dir = tmp_path / "new" / "out"
    assert names(output_dir) == ["part-0_32", "part-1_32", "part-2_32"]
    counts = [len(list(iterate_payloads(output_dir / name))) for name in names(output_dir)]
    out, err = capsys.readouterr()
    assert out.startswith(f"wrote {sum(counts)} records with ")
    assert " tokens to 3 files in " in out
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["1/3 part-0_32", "2/3 part-1_32", "3/3 part-2_32"]
    assert "lowercased" in lines[0] and f": {counts[0]} records, " in lines[1]


def test_prepare_shows_a_bar_on_a_terminal(
    tmp_path: Path,
    text_dir: Path,
    vocab_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert prepare(text_dir, vocab_file, tmp_path / "out") == 0
    err = capsys.readouterr().err
    assert "text: " in err and "%|" in err
    assert "1/3" not in err


def test_casing_is_resolved_and_recorded(
    tmp_path: Path, text_dir: Path, vocab_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def casing(*options: str) -> tuple[bool, bool]:
        assert prepare(text_dir, vocab_file, tmp_path / "out", "--overwrite", *options) == 0
        settings = json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]
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
    assert prepare(text_dir, vocab_file, tmp_path / "out") == 2
    assert str(config) in capsys.readouterr().err
    assert casing("--do-lower-case") == (True, True)


def test_many_unknown_tokens_are_a_warning(
    tmp_path: Path, text_dir: Path, vocab_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def warnings() -> list[str]:
        assert prepare(text_dir, vocab_file, tmp_path / "out", "--overwrite", "--dupe-factor", "1") == 0
        return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]

    for path in text_dir.iterdir():
        path.write_text("alpha beta gamma.\n\ndelta " * 10 + " %\n")
    assert warnings() == []
    for path in text_dir.iterdir():
        path.write_text("alpha beta gamma %\n\n" * 10)
    (warning,) = warnings()
    assert "25.0%" in warning and "[UNK]" in warning


def test_record_files_have_names_that_are_read(tmp_path: Path, vocab_file: Path) -> None:
    """A record file named like a note beside shards would be skipped."""
    source, records = tmp_path / "source", tmp_path / "records"
    source.mkdir()
    (source / "a.txt").write_text("one two\nthree\n\nfour five\nsix\n")
    assert run_here("prepare", f"--input-dir={source}", f"--vocab-file={vocab_file}", f"--output-dir={records}") == 0
    assert [path.name for path in list_shards(records) if path.name != "manifest.json"] == ["a"]


@pytest.mark.parametrize("suffix", [".gz", ".txt.bz2"])
def test_compressed_text_gives_the_same_records(tmp_path: Path, text_dir: Path, vocab_file: Path, suffix: str) -> None:
    assert prepare(text_dir, vocab_file, tmp_path / "plain") == 0
    compress = gzip.compress if suffix == ".gz" else bz2.compress
    for path in list(text_dir.iterdir()):
        path.with_name(path.name + suffix).write_bytes(compress(path.read_bytes()))
        path.unlink()
    assert prepare(text_dir, vocab_file, tmp_path / "packed") == 0
    assert names(tmp_path / "packed") == names(tmp_path / "plain")
    for name in names(tmp_path / "plain"):
        assert (tmp_path / "packed" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


@pytest.mark.parametrize(
    ("command", "name", "content"),
    [("prepare", "wiki", DOCS.encode()), ("vocab", "wiki", DOCS.encode()), ("prepare", "part-1.gz", b"alpha.\n")],
)
def test_wrong_inputs_are_refused_before_anything_is_changed(
    tmp_path: Path,
    text_dir: Path,
    vocab_file: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    name: str,
    content: bytes,
) -> None:
    """Raw text in place of sentences, and two texts whose outputs would have the same name."""
    out = tmp_path / "out"

    def run() -> int:
        if command == "prepare":
            return prepare(text_dir, vocab_file, out, "--overwrite")
        return cli.main(["vocab", "--input-dir", str(text_dir), "--output-file", str(out / "vocab.txt"), "--overwrite"])

    assert run() == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    (text_dir / name).write_bytes(content)
    assert run() == 2
    assert str(text_dir / name) in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_overwriting_keeps_earlier_files_until_the_new_ones_are_complete(
    tmp_path: Path, text_dir: Path, vocab_file: Path
) -> None:
    out = tmp_path / "out"
    assert prepare(text_dir, vocab_file, out) == 0
    good = (text_dir / "part-2").read_bytes()
    (text_dir / "part-2").write_text("\n")  # no sentences, which is found late
    assert prepare(text_dir, vocab_file, out, "--output-suffix", "_new", "--overwrite") == 2
    assert {"part-0", "part-1", "part-2"} <= set(names(out))
    (text_dir / "part-2").write_bytes(good)
    assert prepare(text_dir, vocab_file, out, "--output-suffix", "_new") == 0  # continues
    assert names(out) == ["part-0_new", "part-1_new", "part-2_new"]


def test_files_of_an_earlier_version_are_kept_or_overwritten(
    tmp_path: Path, text_dir: Path, vocab_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its manifest has SHA-256 checksums, which are not compared."""
    out = tmp_path / "out"
    assert prepare(text_dir, vocab_file, out) == 0
    content = json.loads((out / "manifest.json").read_text())
    content["format"] = 1
    for facts in [*content["inputs"].values(), *content["outputs"].values()]:
        facts["sha256"] = 8 * facts.pop("crc32c")
    content["outputs"]["stale"] = content["outputs"]["part-0"]
    (out / "stale").touch()
    (out / "manifest.json").write_text(json.dumps(content))
    before = stamps(out)
    assert prepare(text_dir, vocab_file, out) == 2
    assert str(out) in (err := capsys.readouterr().err) and "earlier version" in err and "--overwrite" in err
    assert stamps(out) == before
    assert prepare(text_dir, vocab_file, out, "--overwrite") == 0
    assert names(out) == ["part-0", "part-1", "part-2"]


def test_prepare_options_reach_the_records(tmp_path: Path, text_dir: Path, vocab_file: Path) -> None:
    """Every option of the algorithm and of the tokenizer changes the records."""
    changes = {
        "same": (),
        "max_seq_length": ("--max-seq-length", "24"),
        "max_predictions_per_seq": ("--max-predictions-per-seq", "3"),
        "dupe_factor": ("--dupe-factor", "2"),
        "masked_lm_prob": ("--masked-lm-prob", "0.3"),
        "short_seq_prob": ("--short-seq-prob", "0.9"),
        "random_seed": ("--random-seed", "1"),
        "do_lower_case": ("--no-do-lower-case",),
    }
    with (text_dir / "part-0").open("a") as file:
        file.write("\n\nALPHA\n")
    for name in ("part-1", "part-2"):
        (text_dir / name).unlink()
    records: dict[str, list[int]] = {}
    for name, options in changes.items():
        assert prepare(text_dir, vocab_file, tmp_path / name, "--dupe-factor", "1", *options) == 0
        # Payloads hold their fields in any order, so compare what does not depend on it.
        records[name] = [sum(payload) for _, payload in iterate_payloads(tmp_path / name / "part-0")]
    assert prepare(text_dir, vocab_file, tmp_path / "again", "--dupe-factor", "1") == 0
    assert [sum(payload) for _, payload in iterate_payloads(tmp_path / "again" / "part-0")] == records["same"]
    for name in changes:
        assert name == "same" or records[name] != records["same"], name


def test_prepare_defaults_are_those_of_phase_1() -> None:
    parsed = cli.build_parser("prepare").parse_args(
        ["prepare", "--input-dir", "a", "--vocab-file", "b", "--output-dir", "c"]
    )
    assert InstanceSettings() == InstanceSettings(
        max_seq_length=128,
        max_predictions_per_seq=20,
        dupe_factor=10,
        masked_lm_prob=0.15,
        short_seq_prob=0.1,
        random_seed=12345,
    )
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
    tmp_path: Path,
    text_dir: Path,
    vocab_file: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    assert prepare(text_dir, vocab_file, tmp_path / "out", *options) == 2
    assert f"bert-large prepare: error: {message}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_prepare_refuses_existing_outputs(
    tmp_path: Path, text_dir: Path, vocab_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output_dir = tmp_path / "out"
    output_dir.mkdir()
    (output_dir / "part-1").write_bytes(b"precious")
    assert prepare(text_dir, vocab_file, output_dir) == 2
    assert str(output_dir / "part-1") in capsys.readouterr().err
    assert names(output_dir) == ["part-1"]
    assert prepare(text_dir, vocab_file, output_dir, "--overwrite") == 0
    assert names(output_dir) == ["part-0", "part-1", "part-2"]
    assert (output_dir / "part-1").read_bytes() != b"precious"


def test_prepare_never_overwrites_its_input(text_dir: Path, vocab_file: Path) -> None:
    before = {path: path.read_bytes() for path in text_dir.iterdir()}
    assert prepare(text_dir, vocab_file, text_dir, "--overwrite") == 2
    assert {path: path.read_bytes() for path in text_dir.iterdir()} == before


def test_two_at_once_in_one_folder_are_refused(
    tmp_path: Path, text_dir: Path, vocab_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both would write the same files."""
    folder = tmp_path / "out"
    folder.mkdir()
    with FolderLock(folder, "--output-dir", print):
        assert prepare(text_dir, vocab_file, folder) == 2
    assert f"error: --output-dir {folder} is in use by process {os.getpid()} on host " in capsys.readouterr().err
    assert names(folder) == []
    assert prepare(text_dir, vocab_file, folder) == 0


def test_manifest_records_inputs_settings_and_outputs(tmp_path: Path, text_dir: Path, vocab_file: Path) -> None:
    output_dir = tmp_path / "out"
    assert prepare(text_dir, vocab_file, output_dir) == 0
    manifest = json.loads((output_dir / "manifest.json").read_text())
    assert manifest["tool"] == f"bert-large {__version__}"
    settings = manifest["settings"]
    assert (settings["max_seq_length"], settings["dupe_factor"], settings["do_lower_case"]) == (32, 10, True)
    assert settings["vocabulary"] == str(facts_of(vocab_file))
    assert list(manifest["inputs"]) == list(manifest["outputs"]) == ["part-0", "part-1", "part-2"]
    for name, facts in manifest["inputs"].items():
        assert facts == asdict(facts_of(text_dir / name))
    for name, facts in manifest["outputs"].items():
        assert asdict(facts_of(output_dir / name)).items() <= facts.items()
        assert facts["records"] == len(list(iterate_payloads(output_dir / name)))
        assert (facts["input"], facts["documents"]) == (name, 7)


def test_finished_shards_are_kept_and_others_made(
    tmp_path: Path, text_dir: Path, vocab_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output_dir = tmp_path / "out"
    assert prepare(text_dir, vocab_file, output_dir) == 0
    before, content = stamps(output_dir), {name: (output_dir / name).read_bytes() for name in names(output_dir)}
    (output_dir / "part-0").unlink()
    (output_dir / "part-2").write_bytes(content["part-2"][:-1] + b"?")
    (output_dir / ".part-1.77.partial").touch()  # of a run that was killed
    capsys.readouterr()
    assert prepare(text_dir, vocab_file, output_dir) == 0
    out, err = capsys.readouterr()
    assert "to 2 files" in out and "(1 were finished before)" in out
    assert "part-0 is damaged or missing" in err and "part-2 is damaged or missing" in err
    assert stamps(output_dir)["part-1"] == before["part-1"]
    assert {name: (output_dir / name).read_bytes() for name in names(output_dir)} == content
    now = stamps(output_dir)
    assert prepare(text_dir, vocab_file, output_dir) == 0
    assert "wrote 0 records" in capsys.readouterr().out
    assert stamps(output_dir) == now


def test_a_failure_keeps_complete_shards(tmp_path: Path, text_dir: Path, vocab_file: Path) -> None:
    output_dir, good = tmp_path / "out", (text_dir / "part-2").read_bytes()
    (text_dir / "part-2").write_bytes(b"\n")
    assert prepare(text_dir, vocab_file, output_dir) == 2
    assert names(output_dir) == ["part-0", "part-1"]
    assert list(json.loads((output_dir / "manifest.json").read_text())["outputs"]) == ["part-0", "part-1"]
    before = stamps(output_dir)
    (text_dir / "part-2").write_bytes(good)
    assert prepare(text_dir, vocab_file, output_dir) == 0
    assert names(output_dir) == ["part-0", "part-1", "part-2"]
    assert before.items() <= stamps(output_dir).items()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-seq-length", "24"), "max_seq_length was 32, now 24"),
        (("--random-seed", "1"), "random_seed was 12345, now 1"),
        (("--no-do-lower-case",), "do_lower_case was True, now False"),
        (("--output-suffix", "_32"), "the text part-0 of part-0 was "),
        (("--format", "hdf5"), "format was tfrecord, now hdf5"),
    ],
)
def test_another_task_is_refused_unless_it_may_overwrite(
    tmp_path: Path,
    text_dir: Path,
    vocab_file: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    output_dir = tmp_path / "out"
    assert prepare(text_dir, vocab_file, output_dir) == 0
    before = stamps(output_dir)
    assert prepare(text_dir, vocab_file, output_dir, *options) == 2
    err = capsys.readouterr().err
    assert str(output_dir) in err and message in err and "--overwrite" in err
    assert stamps(output_dir) == before
    assert prepare(text_dir, vocab_file, output_dir, *options, "--overwrite") == 0
    assert len(names(output_dir)) == 3  # none of the earlier task is left
    assert not set(stamps(output_dir).items()) & set(before.items())


def test_changed_inputs_are_refused(
    tmp_path: Path, text_dir: Path, vocab_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output_dir = tmp_path / "out"
    assert prepare(text_dir, vocab_file, output_dir) == 0
    with (text_dir / "part-1").open("a") as file:
        file.write("more\n")
    assert prepare(text_dir, vocab_file, output_dir) == 2
    assert "the text part-1 of part-1 was " in capsys.readouterr().err
    (text_dir / "part-1").unlink()
    assert prepare(text_dir, vocab_file, output_dir) == 2
    assert " CRC-32C " in (err := capsys.readouterr().err) and "now absent" in err
    assert prepare(text_dir, vocab_file, output_dir, "--overwrite") == 0
    with vocab_file.open("a") as file:
        file.write("another\n")
    assert prepare(text_dir, vocab_file, output_dir) == 2
    assert "vocabulary was" in capsys.readouterr().err


def test_an_added_text_adds_a_shard(tmp_path: Path, text_dir: Path, vocab_file: Path) -> None:
    assert prepare(text_dir, vocab_file, tmp_path / "out") == 0
    before = stamps(tmp_path / "out")
    (text_dir / "part-3").write_text("alpha\n\nbeta\n")
    assert prepare(text_dir, vocab_file, tmp_path / "out") == 0
    assert {name: stamp for name, stamp in stamps(tmp_path / "out").items() if name != "part-3"} == before


def test_another_order_of_texts_is_another_task(
    tmp_path: Path, text_dir: Path, vocab_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """HDF5 files are numbered: a text added in front shifts all numbers."""
    assert prepare(text_dir, vocab_file, tmp_path / "out", "--format", "hdf5") == 0
    (text_dir / "a").write_text("alpha\n\nbeta\n")
    assert prepare(text_dir, vocab_file, tmp_path / "out", "--format", "hdf5") == 2
    assert "the text a of corpus_training_0.hdf5 was absent" in capsys.readouterr().err


def test_an_invalid_manifest_is_refused(
    tmp_path: Path, text_dir: Path, vocab_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    for content in ("{", "[]", '{"format": 99}'):
        (tmp_path / "out" / "manifest.json").write_text(content)
        assert prepare(text_dir, vocab_file, tmp_path / "out") == 2
        assert str(tmp_path / "out" / "manifest.json") in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../mine", "..", "/etc/hostname", "folder/../../mine", ""])
def test_a_manifest_cannot_name_files_elsewhere(
    tmp_path: Path, text_dir: Path, vocab_file: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise --overwrite would delete the files that it names, in a folder from elsewhere."""
    (tmp_path / "mine").write_text("keep")
    assert prepare(text_dir, vocab_file, tmp_path / "out") == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    manifest["outputs"][name] = manifest["outputs"]["part-0"]
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    for options in ([], ["--overwrite"]):
        assert prepare(text_dir, vocab_file, tmp_path / "out", *options) == 2
        assert repr(name) in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "keep"


def test_hdf5_files_are_named_as_nvidias(tmp_path: Path, text_dir: Path, vocab_file: Path) -> None:
    assert prepare(text_dir, vocab_file, tmp_path / "out", "--format", "hdf5") == 0
    assert names(tmp_path / "out") == [f"corpus_training_{number}.hdf5" for number in range(3)]
    options = ("--format", "hdf5", "--output-name", "wikicorpus_en_test")
    assert prepare(text_dir, vocab_file, tmp_path / "named", *options) == 0
    assert names(tmp_path / "named") == [f"wikicorpus_en_test_{number}.hdf5" for number in range(3)]
    with h5py.File(tmp_path / "named" / "wikicorpus_en_test_0.hdf5") as file:
        assert file["input_ids"].shape[1] == 32


def test_prepare_names_the_file_that_is_wrong(
    tmp_path: Path, text_dir: Path, vocab_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (text_dir / "part-1").write_bytes(b"\n\n")
    assert prepare(text_dir, vocab_file, tmp_path / "out") == 2
    assert f"{text_dir}/part-1: found no sentences" in capsys.readouterr().err
    assert "part-1" not in names(tmp_path / "out")


def test_prepare_warns_of_a_file_with_one_article(
    tmp_path: Path, text_dir: Path, vocab_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (text_dir / "part-1").write_text("alpha beta\ngamma delta\n")
    assert prepare(text_dir, vocab_file, tmp_path / "out") == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    assert "part-1" in warnings[0] and "single article" in warnings[0]


def test_vocab(tmp_path: Path, text_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "vocab.txt"
    command = ["vocab", "--input-dir", str(text_dir), "--output-file", str(output), "--vocab-size", "60"]
    assert cli.main(command) == 0
    tokens = read_vocab(output).tokens
    assert "alpha" in tokens
    assert f"wrote {len(tokens)} of at most 60 tokens to {output}" in capsys.readouterr().out
    assert cli.main(command) == 2
    assert str(output) in capsys.readouterr().err
    assert cli.main([*command, "--overwrite", "--min-frequency", "100000"]) == 0
    assert len(read_vocab(output).tokens) < len(tokens)
    assert cli.main([*command, "--overwrite", "--vocab-size", "9"]) == 2
    assert "--vocab-size is 9" in capsys.readouterr().err


def test_vocab_keeps_case_if_requested(tmp_path: Path, text_dir: Path) -> None:
    (text_dir / "part-0").write_text("ALPHA")
    output = tmp_path / "vocab.txt"
    options = ["--output-file", str(output), "--no-do-lower-case"]
    assert cli.main(["vocab", "--input-dir", str(text_dir), *options]) == 0
    assert "##A" in read_vocab(output).tokens


def test_pick(tmp_path: Path, text_dir: Path, vocab_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(text_dir, vocab_file, tmp_path / "out") == 0
    records = [p for name in names(tmp_path / "out") for _, p in iterate_payloads(tmp_path / "out" / name)]
    output = tmp_path / "eval" / "eval_5"
    command = ["pick", "--input-dir", str(tmp_path / "out"), "--output-file", str(output)]
    assert cli.main([*command, "--count", "5"]) == 0
    assert f"wrote 5 of {len(records)} records" in capsys.readouterr().out
    assert [payload for _, payload in iterate_payloads(output)] == [
        records[int(i * (len(records) / 5))] for i in range(5)
    ]
    assert cli.main([*command, "--count", "5"]) == 2
    assert cli.main([*command, "--overwrite"]) == 2
    assert f"--count is 10000, but the 3 files of {tmp_path}/out have" in capsys.readouterr().err


def test_pick_takes_all_records_if_fewer_are_allowed(
    tmp_path: Path, text_dir: Path, vocab_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(text_dir, vocab_file, tmp_path / "out", "--dupe-factor", "1") == 0
    capsys.readouterr()
    command = ["pick", "--input-dir", str(tmp_path / "out"), "--output-file", str(tmp_path / "eval")]
    assert cli.main(command) == 2
    assert cli.main([*command, "--allow-fewer"]) == 0
    count = len(list(iterate_payloads(tmp_path / "eval")))
    assert f"wrote {count} of {count} records" in capsys.readouterr().out
