from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import bert_large
import numpy as np
import pytest
from bert_large.data.formats import tfrecord
from bert_large.data.formats.tfrecord import decode_record, iterate_payloads
from bert_large.data.record import RecordShape
from bert_large.errors import InputError, UserError
from bert_large.prepare.casing import Casing
from bert_large.prepare.settings import InstanceSettings
from bert_large.prepare.shards import ShardReport, ShardTask, write_shard, write_shards
from bert_large.prepare.vocab import Vocabulary
from bert_large.storage.lock import LOCK_FILE
from bert_large.worker_processes import worker_pool

SETTINGS = InstanceSettings(max_seq_length=32, max_predictions_per_seq=5, dupe_factor=2)
LOWERED = Casing(do_lower_case=True, strip_accents=True)


def make_shard(folder: Path, vocabulary: Vocabulary, text: str, settings: InstanceSettings = SETTINGS) -> ShardReport:
    (folder / "text").write_text(text, encoding="utf-8")
    task = ShardTask(folder / "text", folder / "out")
    return write_shard(task, vocabulary, settings, LOWERED)


def make_all(text_dir: Path, output_dir: Path, vocabulary: Vocabulary, workers: int) -> list[ShardReport]:
    output_dir.mkdir()
    tasks = [ShardTask(path, output_dir / path.name) for path in sorted(text_dir.iterdir())]
    return list(write_shards(tasks, vocabulary, SETTINGS, LOWERED, workers=workers))


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


def test_report_counts_the_records_and_tokens_of_the_file(tmp_path: Path, vocabulary: Vocabulary) -> None:
    report = make_shard(tmp_path, vocabulary, "alpha beta.\nGamma running!\n\ndelta\n\nun a b c\n")
    decoded = [decode_record(payload) for _, payload in iterate_payloads(tmp_path / "out")]
    assert {shape for _, shape in decoded} == {RecordShape(32, 5)}
    assert (report.documents, report.records) == (3, len(decoded))
    assert report.tokens == sum(len(record.input_ids) for record, _ in decoded)
    assert (report.text_tokens, report.unknown_tokens) == (12, 0)
    assert make_shard(tmp_path, vocabulary, "alpha % beta €\n\n%\n").unknown_tokens == 3


def test_record_of_known_text(tmp_path: Path, vocabulary: Vocabulary) -> None:
    """With one sentence there is no choice: A and B are the same two tokens, and one of them is masked."""
    once = InstanceSettings(max_seq_length=7, max_predictions_per_seq=1, dupe_factor=1, short_seq_prob=0.0)
    assert make_shard(tmp_path, vocabulary, "Alpha BETA\n", once).records == 1
    ((record, _),) = [decode_record(payload) for _, payload in iterate_payloads(tmp_path / "out")]
    original = record.input_ids.copy()
    original[record.masked_positions] = record.masked_ids
    expected = ["[CLS]", "alpha", "beta", "[SEP]", "alpha", "beta", "[SEP]"]
    assert [vocabulary.tokens[token] for token in original] == expected
    assert (len(record.masked_ids), record.next_sentence_label) == (1, 1)


@pytest.mark.parametrize("text", ["", "\n \n\n", "\u200b\n\x01\n"])
def test_text_without_sentences_is_refused(tmp_path: Path, vocabulary: Vocabulary, text: str) -> None:
    with pytest.raises(InputError, match=rf"text: found no sentences in {len(text.encode())} bytes"):
        make_shard(tmp_path, vocabulary, text)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_failure_while_writing_leaves_no_file(
    tmp_path: Path, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(*_: object) -> bytes:
        raise OSError("no space left")

    monkeypatch.setattr(tfrecord, "encode_record", fill_the_disk)
    with pytest.raises(OSError, match="no space left"):
        make_shard(tmp_path, vocabulary, "alpha\n\nbeta\n")
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_files_do_not_depend_on_workers(tmp_path: Path, text_dir: Path, vocabulary: Vocabulary) -> None:
    reports = {
        workers: make_all(text_dir, tmp_path / f"out{workers}", vocabulary, workers=workers) for workers in (1, 2)
    }
    for path in text_dir.iterdir():
        one, two = (tmp_path / f"out{workers}" / path.name for workers in (1, 2))
        assert one.read_bytes() == two.read_bytes()
    counts = [sorted((r.task.input_file.name, r.records, r.tokens) for r in reports[w]) for w in (1, 2)]
    assert counts[0] == counts[1]
    assert [name for name, _, _ in counts[0]] == ["part-0", "part-1", "part-2"]


def test_files_do_not_depend_on_each_other(tmp_path: Path, text_dir: Path, vocabulary: Vocabulary) -> None:
    """Every file starts from the seed: the same text gives the same records in any file."""
    (text_dir / "part-2").write_bytes((text_dir / "part-0").read_bytes())
    make_all(text_dir, tmp_path / "out", vocabulary, workers=1)
    decoded = [
        [decode_record(payload)[0] for _, payload in iterate_payloads(tmp_path / "out" / f"part-{i}")] for i in (0, 2)
    ]
    assert len(decoded[0]) == len(decoded[1]) > 0
    for first, second in zip(*decoded, strict=True):
        np.testing.assert_array_equal(first.input_ids, second.input_ids)


def test_error_of_a_worker_is_raised_and_leaves_no_part(tmp_path: Path, text_dir: Path, vocabulary: Vocabulary) -> None:
    (text_dir / "part-1").write_bytes(b"alpha\n\xff\n")
    with pytest.raises(InputError, match=r"part-1: line 2: .*0xff"):
        make_all(text_dir, tmp_path / "out", vocabulary, workers=1)
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"part-0", "part-2"}


def test_killed_worker_is_an_error(tmp_path: Path, text_dir: Path, vocabulary: Vocabulary) -> None:
    def kill_first_child() -> None:
        wait_until(lambda: bool(multiprocessing.active_children()))
        multiprocessing.active_children()[0].kill()

    killer = threading.Thread(target=kill_first_child)
    killer.start()
    with pytest.raises(UserError, match=r"killed.* 1 process.*--workers"):
        make_all(text_dir, tmp_path / "out", vocabulary, workers=1)
    killer.join()


def test_workers_end_with_a_killed_parent(tmp_path: Path, vocab_file: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "part").write_text("alpha beta\n\ngamma\n\n" * 2000)
    options = ["--input-dir", folder, "--vocab-file", vocab_file, "--output-dir", tmp_path / "out"]
    command = [sys.executable, "-m", "bert_large", "prepare", *map(str, options), "--dupe-factor", "10000"]
    environment = {**os.environ, "PYTHONPATH": str(Path(bert_large.__file__).parents[1])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        wait_until(lambda: any(map(_is_worker, children.read_text().split())))
        workers = [pid for pid in children.read_text().split() if _is_worker(pid)]
        parent.send_signal(signal.SIGKILL)
    try:
        wait_until(lambda: not any(map(_is_worker, workers)), seconds=10)
    finally:
        for pid in filter(_is_worker, workers):
            os.kill(int(pid), signal.SIGKILL)


def test_a_killed_run_continues_to_the_same_files(tmp_path: Path, text_dir: Path, vocab_file: Path) -> None:
    (text_dir / "part-2").write_text("alpha beta\ngamma\n\ndelta\n\n" * 400)  # long enough to be killed in it
    environment = {**os.environ, "PYTHONPATH": str(Path(bert_large.__file__).parents[1])}

    def command(output: str) -> list[str]:
        options = ["--input-dir", text_dir, "--vocab-file", vocab_file, "--output-dir", tmp_path / output]
        return [sys.executable, "-m", "bert_large", "prepare", *map(str, options), "--workers", "1"]

    with subprocess.Popen(command("out"), env=environment, stderr=subprocess.DEVNULL) as killed:
        wait_until(lambda: (tmp_path / "out" / "part-1").exists())
        killed.kill()
    assert not (tmp_path / "out" / "part-2").exists()
    for output in ("out", "whole"):
        subprocess.run(command(output), env=environment, check=True, capture_output=True)
    names = {path.name for path in (tmp_path / "whole").iterdir()} - {LOCK_FILE}
    assert names == {"part-0", "part-1", "part-2", "manifest.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, LOCK_FILE}
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def _is_worker(pid: str) -> bool:
    """Return whether a process is a living worker of a pool, not the helper that tracks their resources."""
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes() and "State:\tZ" not in _status(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False


def _status(pid: str) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def test_worker_uses_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    with worker_pool(1) as pool:
        assert pool.submit(os.getenv, "TOKENIZERS_PARALLELISM").result() == "false"
