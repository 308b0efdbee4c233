"""`bert-large corpus`: raw text in any form to text files for both phases and evaluation."""

from __future__ import annotations

import bz2
import gzip
import json
import os
from pathlib import Path

import pytest
from backports import zstd
from bert_large.prepare import articles, duplicates, sentence_workers
from bert_large.prepare import corpus as corpus_module
from bert_large.storage.lock import LOCK_FILE, FolderLock

from tests.support.raw_text import LONG
from tests.support.runs import run_here


def article(number: int) -> str:
    return f"Article {number} begins. {LONG} It ends with {number}, i.e. here."


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A hundred articles in four folders, as WikiExtractor writes them."""
    for folder in range(4):
        (tmp_path / "raw" / f"A{folder}").mkdir(parents=True)
        docs = [
            f'<doc id="{n}" url="u" title="T{n}">\nT{n}\n\n{article(n)}\n</doc>\n'
            for n in range(25 * folder, 25 * (folder + 1))
        ]
        (tmp_path / "raw" / f"A{folder}" / "wiki_00").write_text("".join(docs), encoding="utf-8")
    return tmp_path / "raw"


def corpus(input_dir: Path, output_dir: Path, *options: str) -> int:
    return run_here("corpus", "--input-dir", str(input_dir), "--output-dir", str(output_dir), *options)


def read(folder: Path) -> dict[str, list[str]]:
    """Return the articles of each file."""
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8").removesuffix("\n").split("\n\n")
        for path in sorted(folder.rglob("part-*"))
    }


def test_wikiextractor_to_both_phases(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert corpus(raw, tmp_path / "new" / "out", "--shards", "10", "--eval-articles", "10") == 0
    out, err = capsys.readouterr()
    assert out.startswith("wrote 100 articles with 500 sentences (10 articles held out) to ")
    assert "input format: wikiextractor" in err
    found = read(tmp_path / "new" / "out")
    phase1 = [f"phase1/part-0000{i}-of-00010" for i in range(9)]
    assert list(found) == ["eval/part-00000-of-00001", *phase1, "phase2/part-00009-of-00010"]
    assert [len(articles) for articles in found.values()] == [10] + [9] * 10
    articles = sorted(article for articles in found.values() for article in articles)
    assert articles == sorted(
        f"Article {n} begins.\nThe cat sat down.\nIt was tired.\nThen it slept.\nIt ends with {n}, i.e. here."
        for n in range(100)
    )


def test_forms_give_the_same_corpus(tmp_path: Path, raw: Path) -> None:
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "a").write_text("".join(f"{article(n)}\n" for n in range(100)))
    (tmp_path / "sentences").mkdir()
    assert corpus(raw, tmp_path / "out", "--phase1-fraction", "1", "--shards", "1", "--eval-articles", "0") == 0
    sentences = tmp_path / "out" / "both" / "part-00000-of-00001"
    (tmp_path / "sentences" / "a").write_bytes(sentences.read_bytes())
    for name in ("lines", "sentences"):
        options = ("--phase1-fraction", "1", "--shards", "1", "--eval-articles", "0")
        assert corpus(tmp_path / name, tmp_path / f"out {name}", *options) == 0
        assert (tmp_path / f"out {name}" / "both" / sentences.name).read_bytes() == sentences.read_bytes()


def test_compressed_and_linked_files_give_the_same_corpus(tmp_path: Path, raw: Path) -> None:
    """JSON lines too, as `WikiExtractor --json` writes them."""
    options = ("--shards", "2", "--eval-articles", "7")
    assert corpus(raw, tmp_path / "out", *options) == 0
    wiki = (raw / "A1" / "wiki_00").read_bytes()
    (raw / "A1" / "wiki_00.bz2").write_bytes(bz2.compress(wiki))
    (raw / "A1" / "wiki_00").unlink()
    (raw / "A2").rename(tmp_path / "elsewhere")
    (raw / "A2").symlink_to(tmp_path / "elsewhere")
    assert corpus(raw, tmp_path / "again", *options) == 0
    assert read(tmp_path / "again") == read(tmp_path / "out")
    lines = [json.dumps({"title": f"T{n}", "text": f"T{n}\n\n{article(n)}"}) for n in range(100)]
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "wiki_00").write_bytes(gzip.compress("\n".join(lines).encode()))
    assert corpus(tmp_path / "json", tmp_path / "from json", *options) == 0
    assert read(tmp_path / "from json") == read(tmp_path / "out")


def test_a_readme_among_articles_is_refused(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An earlier corpus is kept, also with --overwrite."""
    assert corpus(raw, tmp_path / "out") == 0
    before = read(tmp_path / "out")
    (raw / "00README.txt").write_text("This was extracted.\nIt is free.\n\nHave fun.\n")
    assert corpus(raw, tmp_path / "out", "--overwrite") == 2
    assert f"{raw}/00README.txt: line 1" in (err := capsys.readouterr().err) and f"{raw}/A0/wiki_00" in err
    assert read(tmp_path / "out") == before


def test_held_out_articles_do_not_depend_on_files(tmp_path: Path, raw: Path) -> None:
    options = ("--shards", "2", "--eval-articles", "7")
    assert corpus(raw, tmp_path / "one", *options) == 0
    (raw / "A0" / "wiki_00").rename(raw / "A3" / "wiki_99")
    assert corpus(raw, tmp_path / "other", *options) == 0
    one, other = read(tmp_path / "one"), read(tmp_path / "other")
    assert one["eval/part-00000-of-00001"] == other["eval/part-00000-of-00001"]
    assert one != other


def test_a_small_corpus_is_not_held_out_by_default(
    tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("A1", "A2", "A3"):
        (raw / folder / "wiki_00").unlink()
    assert corpus(raw, tmp_path / "out") == 0
    found = read(tmp_path / "out")
    assert list(found) == ["phase1/part-00000-of-00002", "phase2/part-00001-of-00002"]
    assert sum(map(len, found.values())) == 25
    assert "warning: the text is too small" in capsys.readouterr().err


def test_a_complete_corpus_is_verified_and_kept(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert corpus(raw, out, "--shards", "4") == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["input_format"] == "wikiextractor"
    assert list(manifest["inputs"]) == [f"A{i}/wiki_00" for i in range(4)]
    assert sum(output["articles"] for output in manifest["outputs"].values()) == 100
    made = {path: path.stat().st_mtime_ns for path in out.rglob("part-*")}
    assert corpus(raw, out, "--shards", "4") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("part-*")} == made
    assert corpus(raw, out, "--shards", "5") == 2
    assert "shards was 4, now 5" in capsys.readouterr().err
    shard = out / "phase1" / "part-00001-of-00004"
    shard.write_text("changed")
    assert corpus(raw, out, "--shards", "4") == 2
    assert str(shard) in capsys.readouterr().err
    assert corpus(raw, out, "--shards", "3", "--overwrite") == 0
    assert sorted(path.name for path in out.rglob("part-*-of-00003")) == [f"part-0000{i}-of-00003" for i in range(3)]
    assert not list(out.rglob("part-*-of-00004"))
    with (raw / "A0" / "wiki_00").open("a") as file:
        file.write("\n")
    assert corpus(raw, out, "--shards", "3") == 2
    assert "the text A0/wiki_00 was " in capsys.readouterr().err


def test_files_of_others_are_never_removed(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    assert corpus(raw, out, "--overwrite") == 2
    assert f"{out} has files" in capsys.readouterr().err
    (out / "mine").unlink()
    assert corpus(raw, out) == 0  # an empty folder may be there
    (out / "phase1" / "mine").touch()
    assert corpus(raw, out, "--overwrite") == 2
    assert "phase1/mine" in capsys.readouterr().err
    assert (out / "phase1" / "mine").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--phase1-fraction", "0"), "--phase1-fraction is 0.0"),
        (("--shards", "1"), "--shards is 1, expected at least 2"),
        (("--eval-articles", "1"), "--eval-articles is 1"),
        (("--input-format", "wikiextractor", "--eval-articles", "99"), "100 articles are too few for 2 shards"),
        (("--shards", "80"), "too few for 80 shards"),
        (("--input-dir", "/nowhere"), "--input-dir /nowhere: found nothing"),
    ],
)
def test_impossible_settings_are_refused(
    tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert corpus(raw, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_wrong_text_leaves_nothing(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (raw / "A3" / "wiki_00").open("ab") as file:
        file.write(b'<doc id="9">\ncaf\xe9\n')
    assert corpus(raw, tmp_path / "out") == 2
    assert "A3/wiki_00: the <doc> of line 126" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


def test_the_folder_of_a_killed_run_is_cleared(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / ".out.partial" / "phase1").mkdir(parents=True)
    (tmp_path / ".out.partial" / "phase1" / "part-00000-of-00002").write_text("half\n")
    monkeypatch.chdir(tmp_path / "out")
    assert corpus(raw, Path()) == 0
    found = read(tmp_path / "out")
    assert sum(map(len, found.values())) == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "raw"]


def test_two_at_once_in_one_folder_are_refused(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second would delete the files that the first is writing."""
    unfinished = tmp_path / ".out.partial"
    (unfinished / "phase1").mkdir(parents=True)
    with FolderLock(unfinished, "folder", print):
        assert corpus(raw, tmp_path / "out") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"unfinished folder {unfinished} is in use by process {os.getpid()} on host " in error
        assert sorted(path.name for path in unfinished.iterdir()) == [LOCK_FILE, "phase1"]
    assert corpus(raw, tmp_path / "out") == 0
    assert not unfinished.exists() and not (tmp_path / "out" / LOCK_FILE).exists()


def test_one_document_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a").write_text(f"{LONG}\n")
    for options in ((), ("--phase1-fraction", "1")):
        assert corpus(tmp_path / "raw", tmp_path / "out", *options) == 2
        assert "1 articles are too few" in capsys.readouterr().err
    for text in ("\n \n\u200b\n", "\n\n", ""):
        (tmp_path / "raw" / "a").write_text(text)
        assert corpus(tmp_path / "raw", tmp_path / "out", "--input-format", "articles") == 2
        assert str(tmp_path / "raw") in capsys.readouterr().err


def test_folders_must_lie_apart(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for output in (raw, raw / "inside", tmp_path):
        assert corpus(raw, output) == 2
        assert str(output) in capsys.readouterr().err


def test_a_link_where_the_corpus_is_made_is_not_written_through(tmp_path: Path, raw: Path) -> None:
    """Other users may create one in a shared folder such as /tmp."""
    (tmp_path / "other").mkdir()
    (tmp_path / ".out.partial").symlink_to("other")
    assert corpus(raw, tmp_path / "out") == 0
    assert list((tmp_path / "other").iterdir()) == []
    assert not (tmp_path / "out").is_symlink()


def test_the_number_of_workers_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches per worker, an article that is divided, and duplicates across batches."""
    monkeypatch.setattr(corpus_module, "_FEWEST_BYTES_FOR_WORKERS", 0)
    (tmp_path / "raw").mkdir()
    for number in range(4):
        lines = [
            f"{article(n)} {'It is a long article. ' * (n % 400)}\n" for n in range(150 * number, 150 * number + 200)
        ]
        (tmp_path / "raw" / f"part-{number}.zst").write_bytes(zstd.compress("".join(lines).encode()))
    options = ("--shards", "3", "--eval-articles", "7", "--input-format", "articles")
    for workers in ("1", "3"):
        assert corpus(tmp_path / "raw", tmp_path / workers, *options, "--workers", workers) == 0
    found = read(tmp_path / "1")
    assert sum(map(len, found.values())) == 650
    assert read(tmp_path / "3") == found
    assert (tmp_path / "1" / "manifest.json").read_bytes() == (tmp_path / "3" / "manifest.json").read_bytes()


@pytest.mark.parametrize(("mode", "kept"), [("keep", 62), ("exact", 61), ("near", 60)])
def test_duplicates(tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str, kept: int) -> None:
    """Spacing does not matter for a copy; case, and a word among many, not for a near-duplicate."""
    words = [f"w{n}" for n in range(300)]
    texts = [" ".join(f"{word}x{n}" for word in words) for n in range(60)]
    copies = [texts[3].replace(" ", "  "), texts[7].upper().replace("W8X7", "another")]
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts + copies))
    assert corpus(tmp_path / "raw", tmp_path / "out", "--duplicates", mode, "--eval-articles", "0") == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"wrote {kept} articles")
    counts = {"keep": (0, 0), "exact": (1, 0), "near": (1, 1)}[mode]
    assert f"{counts[0]} copies, {counts[1]} near-duplicates" in err
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]["duplicates"].startswith(mode)


def test_long_articles_are_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether lines are read one by one or an article is one cell of a table; nothing is lost."""
    for module in (articles, sentence_workers):
        monkeypatch.setattr(module, "LONGEST_ARTICLE_BYTES", 1000)
    sentences = [f"Sentence {n} of a long article." for n in range(200)]
    inputs = {
        "sentences": "\n".join(sentences) + "\n\nAnother one.\n",
        "csv": f"id,text\n1,{' '.join(sentences)}\n2,Another one.\n",
    }
    for form, text in inputs.items():
        (tmp_path / form).mkdir()
        (tmp_path / form / "text").write_text(text)
        options = ("--shards", "1", "--phase1-fraction", "1", "--eval-articles", "0", "--input-format", form)
        assert corpus(tmp_path / form, tmp_path / f"{form} out", *options) == 0
        parts = read(tmp_path / f"{form} out")["both/part-00000-of-00001"]
        assert [line for part in parts for line in part.split("\n")] == [*sentences, "Another one."]
        assert len(parts) >= 7 and max(map(len, parts)) < 1100 and min(map(len, parts[:-2])) > 500


def test_memory_for_duplicates_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table grows; when it is full, it forgets no article and records no more."""
    monkeypatch.setattr(duplicates, "_FIRST_SLOTS", 8)
    table = duplicates.Duplicates(most_bytes=1 << 10)
    found = [duplicates.fingerprints_of(b"%d" % n, "exact") for n in range(200)]
    assert [table.contains(fingerprints) for fingerprints in found] == [False] * 200
    assert (table.unrecorded, len(table._table)) == (200 - 96, 128)
    assert [table.contains(fingerprints) for fingerprints in found] == [True] * 96 + [False] * 104


def test_near_duplicates_are_found_by_similarity() -> None:
    """The share of pairs found agrees with the formula of MinHash with bands, for pairs of known Jaccard similarity."""
    words = [f"word{n}" for n in range(1000)]
    shares = {}
    for changed in (5, 62):
        pairs = 0
        for seed in range(40):
            text = [f"{word}v{seed}" for word in words]
            other = [word + "x" if n % (1000 // changed) == 7 else word for n, word in enumerate(text)]
            one, two = (duplicates.fingerprints_of(" ".join(words).encode(), "near")[1:] for words in (text, other))
            pairs += bool(set(one) & set(two))
        shares[changed] = pairs / 40
    assert shares[5] > 0.9  # Jaccard similarity 0.95: expected 1 - 3e-7
    assert shares[62] < 0.5  # 0.52: expected 0.07
