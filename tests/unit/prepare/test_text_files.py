from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from bert_large.errors import InputError
from bert_large.prepare import text_files
from bert_large.prepare.text_files import check_outputs, decode_lines, list_files, read_lines

TEXT = "".join(f"Line {number} is text.\n" for number in range(5000)).encode()
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def listed(folder: Path, *, recursive: bool = True) -> tuple[list[str], list[str]]:
    """Return the names of the files found, and the lines that were logged."""
    lines: list[str] = []
    files = list_files(folder, recursive=recursive, log=lines.append)
    return [path.relative_to(folder).as_posix() for path in files], lines


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text")
    return folder


def test_files_of_inner_folders_are_sorted_and_hidden_ones_left_out(tmp_path: Path) -> None:
    write(tmp_path, "AB/wiki_00", "AA/wiki_01", "AA/wiki_00", "AA/.hidden", ".git/x", "top", "manifest.json", ".lock")
    found, lines = listed(tmp_path)
    assert found == ["AA/wiki_00", "AA/wiki_01", "AB/wiki_00", "top"]
    assert "2, such as" in lines[0]
    found, lines = listed(tmp_path, recursive=False)
    assert found == ["top"] and "3, such as" in lines[0]


def test_links_are_followed_and_every_folder_is_read_once(tmp_path: Path) -> None:
    write(tmp_path, "text/a", "text/in/b", "other/c")
    (tmp_path / "text" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "text" / "in" / "loop").symlink_to("../../text")
    (tmp_path / "other" / "up").symlink_to(tmp_path / "text" / "in")
    (tmp_path / "text" / "file").symlink_to("a")
    found, lines = listed(tmp_path / "text")
    assert found == ["a", "file", "in/b", "link/c"]
    assert len(lines) == 2 and "in/loop" in lines[0] and "link/up" in lines[1]


def test_unreadable_folders_and_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "text/secret/a", "text/b")
    iterdir = Path.iterdir

    def refuse(folder: Path) -> object:
        if folder.name == "secret":
            raise PermissionError(13, "Permission denied", str(folder))
        return iterdir(folder)

    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"text/secret .*Permission denied"):
        patch.setattr(Path, "iterdir", refuse)
        listed(tmp_path / "text")
    if os.geteuid():
        (tmp_path / "text" / "b").chmod(0)
        with pytest.raises(InputError, match=r"text/b .*Permission denied"):
            list(read_lines(tmp_path / "text" / "b"))
    (tmp_path / "text" / "gone").symlink_to("nowhere")
    with pytest.raises(InputError, match="text/gone"):
        listed(tmp_path / "text")
    (tmp_path / "text" / "gone").unlink()
    os.mkfifo(tmp_path / "text" / "pipe")
    with pytest.raises(InputError, match="text/pipe"):
        listed(tmp_path / "text")


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "file", "empty/.hidden")
    for name in ("none", "file", "empty"):
        with pytest.raises(InputError, match=rf"--input-dir .*/{name}: found "):
            listed(tmp_path / name)


def test_outputs_must_not_exist_unless_they_may_be_overwritten(tmp_path: Path) -> None:
    outputs = [tmp_path / "out" / "a", tmp_path / "out" / "b"]
    check_outputs(outputs, input_dir=tmp_path, overwrite=False)
    assert not (tmp_path / "out").exists()  # nothing is made
    write(tmp_path, "out/b")
    with pytest.raises(InputError, match=r"1 of 2 .*/out/b; .*--overwrite"):
        check_outputs(outputs, input_dir=tmp_path, overwrite=False)
    check_outputs(outputs, input_dir=tmp_path, overwrite=True)


@pytest.mark.parametrize("output", ["link/x", "file/x", "file/below/x", "", "out/" + 256 * "x", "out/" + 128 * "é"])
def test_outputs_that_cannot_be_written_are_refused(tmp_path: Path, output: str) -> None:
    write(tmp_path, "file")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError):
        check_outputs([tmp_path / output], input_dir=tmp_path, overwrite=True)
    check_outputs([tmp_path / "out" / ("é" * 127)], input_dir=tmp_path, overwrite=True)


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_files_are_read_as_others(tmp_path: Path, suffix: str) -> None:
    """Whatever their name, and with several streams, which parallel compressors and `cat` produce."""
    compress = COMPRESSORS[suffix]
    (tmp_path / "text.txt").write_bytes(compress(TEXT[:50_000]) + compress(TEXT[50_000:]))
    assert "".join(decode_lines(tmp_path / "text.txt")).encode() == TEXT
    (tmp_path / "empty").write_bytes(compress(b""))
    assert list(decode_lines(tmp_path / "empty")) == []


def test_xz_streams_may_be_padded(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(lzma.compress(TEXT) + bytes(4) + lzma.compress(b"end\n") + bytes(8))
    assert "".join(decode_lines(tmp_path / "text")).encode() == TEXT + b"end\n"


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_damaged_compressed_files_are_refused(tmp_path: Path, suffix: str) -> None:
    whole, path = COMPRESSORS[suffix](TEXT), tmp_path / "text.txt"
    middle = len(whole) // 2
    flipped = bytes([whole[middle] ^ 0xFF])
    for content in (
        whole[:middle],
        whole[:-1],
        whole[:middle] + flipped + whole[middle + 1 :],
        whole + b"BZh9" + 20 * b"x",
        whole + b"rest",
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=str(path)):
            list(decode_lines(path))


def test_only_line_feeds_end_lines_and_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("\ufeff a\r\nb\u2028c\x0bd\x85e\n\ufefff\n".encode())
    assert list(read_lines(tmp_path / "text")) == ["a", "b\u2028c\x0bd\x85e", "\ufefff"]


def test_text_may_begin_like_a_compressed_file(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("BZh9 is text.\n")
    assert list(read_lines(tmp_path / "text")) == ["BZh9 is text."]


def test_a_byte_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("naïve\n".encode() + b"ab\xe9 c\n")
    with pytest.raises(InputError, match=r"latin: line 2: byte 3 is 0xe9"):
        list(read_lines(tmp_path / "latin"))


def test_lines_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compressed file of a megabyte may hold a line of a gigabyte."""
    monkeypatch.setattr(text_files, "MAX_LINE_BYTES", 1 << 20)
    (tmp_path / "text").write_bytes(gzip.compress(b"a\n" + bytes(1 << 22)))
    with pytest.raises(InputError, match="text: line 2"):
        list(read_lines(tmp_path / "text"))
