"""`bert-large prepare` into a folder that has shards: finished ones are kept, and others replaced or refused."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
from bert_large import __version__
from bert_large.data.folders import list_shards
from bert_large.data.formats.tfrecord import iterate_payloads
from bert_large.errors import InputError
from bert_large.storage.integrity import facts_of
from bert_large.storage.lock import FolderLock

from .preparing import Prepare, names, stamps


def test_prepare_refuses_existing_outputs(prepare: Prepare, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out.mkdir()
    (out / "part-1").write_bytes(b"precious")
    assert prepare() == 2
    assert str(out / "part-1") in capsys.readouterr().err
    assert names(out) == ["part-1"]
    assert prepare("--overwrite") == 0
    assert names(out) == ["part-0", "part-1", "part-2"]
    assert (out / "part-1").read_bytes() != b"precious"


def test_finished_shards_are_kept_and_others_made(
    prepare: Prepare, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare() == 0
    before, content = stamps(out), {name: (out / name).read_bytes() for name in names(out)}
    (out / "part-0").unlink()
    (out / "part-2").write_bytes(content["part-2"][:-1] + b"?")
    (out / ".part-1.77.partial").touch()  # of a run that was killed
    capsys.readouterr()
    assert prepare() == 0
    printed, logged = capsys.readouterr()
    assert "to 2 files" in printed and "(1 were finished before)" in printed
    assert "part-0 is damaged or missing" in logged and "part-2 is damaged or missing" in logged
    assert stamps(out)["part-1"] == before["part-1"]
    assert {name: (out / name).read_bytes() for name in names(out)} == content
    now = stamps(out)
    assert prepare() == 0
    assert "wrote 0 records" in capsys.readouterr().out
    assert stamps(out) == now


def test_a_failure_keeps_complete_shards(
    prepare: Prepare, out: Path, text_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (text_dir / "part-2").read_bytes()
    (text_dir / "part-2").write_bytes(b"\n\n")
    assert prepare() == 2
    assert f"{text_dir}/part-2: found no sentences" in capsys.readouterr().err
    assert names(out) == list(json.loads((out / "manifest.json").read_text())["outputs"]) == ["part-0", "part-1"]
    before = stamps(out)
    (text_dir / "part-2").write_bytes(good)
    assert prepare() == 0
    assert names(out) == ["part-0", "part-1", "part-2"]
    assert before.items() <= stamps(out).items()


def test_overwriting_keeps_earlier_files_until_the_new_ones_are_complete(
    prepare: Prepare, out: Path, text_dir: Path
) -> None:
    assert prepare() == 0
    good = (text_dir / "part-2").read_bytes()
    (text_dir / "part-2").write_text("\n")  # no sentences, which is found late
    assert prepare("--output-suffix", "_new", "--overwrite") == 2
    assert {"part-0", "part-1", "part-2"} <= set(names(out))
    (text_dir / "part-2").write_bytes(good)
    assert prepare("--output-suffix", "_new") == 0  # continues
    assert names(out) == ["part-0_new", "part-1_new", "part-2_new"]


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
    prepare: Prepare, out: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert prepare() == 0
    before = stamps(out)
    assert prepare(*options) == 2
    err = capsys.readouterr().err
    assert str(out) in err and message in err and "--overwrite" in err
    assert stamps(out) == before
    assert prepare(*options, "--overwrite") == 0
    assert len(names(out)) == 3  # none of the earlier task is left
    assert not set(stamps(out).items()) & set(before.items())


def test_changed_inputs_are_refused(
    prepare: Prepare, text_dir: Path, vocab_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare() == 0
    with (text_dir / "part-1").open("a") as file:
        file.write("more\n")
    assert prepare() == 2
    assert "the text part-1 of part-1 was " in capsys.readouterr().err
    (text_dir / "part-1").unlink()
    assert prepare() == 2
    assert " CRC-32C " in (err := capsys.readouterr().err) and "now absent" in err
    assert prepare("--overwrite") == 0
    with vocab_file.open("a") as file:
        file.write("another\n")
    assert prepare() == 2
    assert "vocabulary was" in capsys.readouterr().err


def test_an_added_text_adds_a_shard(prepare: Prepare, out: Path, text_dir: Path) -> None:
    assert prepare() == 0
    before = stamps(out)
    (text_dir / "part-3").write_text("alpha\n\nbeta\n")
    assert prepare() == 0
    assert {name: stamp for name, stamp in stamps(out).items() if name != "part-3"} == before


def test_another_order_of_texts_is_another_task(
    prepare: Prepare, text_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """HDF5 files are numbered: a text added in front shifts all numbers."""
    assert prepare("--format", "hdf5") == 0
    (text_dir / "a").write_text("alpha\n\nbeta\n")
    assert prepare("--format", "hdf5") == 2
    assert "the text a of corpus_training_0.hdf5 was absent" in capsys.readouterr().err


def test_manifest_records_inputs_settings_and_outputs(
    prepare: Prepare, out: Path, text_dir: Path, vocab_file: Path
) -> None:
    assert prepare() == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["tool"] == f"bert-large {__version__}"
    settings = manifest["settings"]
    assert (settings["max_seq_length"], settings["dupe_factor"], settings["do_lower_case"]) == (32, 10, True)
    assert settings["vocabulary"] == str(facts_of(vocab_file))
    assert list(manifest["inputs"]) == list(manifest["outputs"]) == ["part-0", "part-1", "part-2"]
    for name, facts in manifest["inputs"].items():
        assert facts == asdict(facts_of(text_dir / name))
    for name, facts in manifest["outputs"].items():
        assert asdict(facts_of(out / name)).items() <= facts.items()
        assert facts["records"] == len(list(iterate_payloads(out / name)))
        assert (facts["input"], facts["documents"]) == (name, 7)


def test_an_invalid_manifest_is_refused(prepare: Prepare, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out.mkdir()
    for content in ("{", "[]", '{"format": 1}'):
        (out / "manifest.json").write_text(content)
        assert prepare() == 2
        assert str(out / "manifest.json") in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../mine", "..", "/etc/hostname", "folder/../../mine", ""])
def test_a_manifest_cannot_name_files_elsewhere(
    prepare: Prepare, out: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise --overwrite would delete the files that it names, in a folder from elsewhere."""
    (tmp_path / "mine").write_text("keep")
    assert prepare() == 0
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["outputs"][name] = manifest["outputs"]["part-0"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    for options in ([], ["--overwrite"]):
        assert prepare(*options) == 2
        assert repr(name) in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "keep"


def test_two_at_once_in_one_folder_are_refused(prepare: Prepare, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both would write the same files."""
    out.mkdir()
    with FolderLock(out, "--output-dir", print):
        assert prepare() == 2
    assert f"error: --output-dir {out} is in use by process {os.getpid()} on host " in capsys.readouterr().err
    assert names(out) == []
    assert prepare() == 0


def test_an_incomplete_folder_is_not_trained_on(prepare: Prepare, out: Path, text_dir: Path) -> None:
    """Whether `prepare` has failed in the middle or a file was deleted; the repeated command completes the folder."""
    text = (text_dir / "part-1").read_bytes()
    (text_dir / "part-1").write_bytes(b"alpha\n\xff\n")
    assert prepare() == 2
    with pytest.raises(InputError, match=rf"{out} .*part-1.*{out}/manifest.json"):
        list_shards(out)
    (text_dir / "part-1").write_bytes(text)
    assert prepare() == 0
    assert [path.name for path in list_shards(out)] == ["part-0", "part-1", "part-2"]
    (out / "part-2").unlink()
    with pytest.raises(InputError, match=rf"{out} .*part-2.*{out}/manifest.json"):
        list_shards(out)
    (out / "manifest.json").unlink()
    assert [path.name for path in list_shards(out)] == ["part-0", "part-1"]
