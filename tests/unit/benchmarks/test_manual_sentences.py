"""Labeled sentences of manuals: balanced classes, separate pages, no names of manuals."""

from __future__ import annotations

import csv
import json
import random
import sys
from pathlib import Path

import manual_sentences
import pytest

pytest.importorskip("sentencex", reason="needs the extra text")


def sentence(number: int) -> str:
    words = random.Random(number).choices(["file", "name", "value", "table", "row", "line", "sets", "reads"], k=9)
    return f"The {' '.join(words)} number {number}."


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two manuals of 40 pages with four sentences each, one of which has a manual's name and one all pages share."""
    monkeypatch.setattr(manual_sentences, "MANUALS", {"git-doc": "Git", "perl-doc": "Perl"})
    monkeypatch.setattr(manual_sentences, "SENTENCES", {"train": 30, "dev": 10})
    (tmp_path / "text").mkdir()
    for first, package in ((0, "git-doc"), (1000, "perl-doc")):
        pages = []
        for page in range(first, first + 40):
            own = f"{sentence(2 * page)} {sentence(2 * page + 1)}"
            named = f"This sentence is about PERL, and it is number {page} of them."
            pages.append(f"{own}\n{named} All pages of all manuals have this sentence of enough words.")
        lines = [json.dumps({"source": package, "text": text}) for text in pages]
        (tmp_path / "text" / f"{package}.jsonl").write_text("\n".join(lines))
    return tmp_path


def make(work: Path, monkeypatch: pytest.MonkeyPatch, name: str = "task") -> dict[str, list[dict[str, str]]]:
    monkeypatch.setattr(sys, "argv", ["manual_sentences.py", str(work), str(work / name)])
    manual_sentences.main()
    rows = {}
    for split in ("train", "dev"):
        with (work / name / f"{split}.tsv").open(encoding="utf-8", newline="") as file:
            rows[split] = list(csv.DictReader(file, delimiter="\t"))
    return rows


def test_classes_are_balanced_and_pages_separate(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make(work, monkeypatch)
    pages = {}
    for split, count in (("train", 30), ("dev", 10)):
        labels = [row["label"] for row in rows[split]]
        assert labels.count("git-doc") == labels.count("perl-doc") == count
        assert labels != sorted(labels)
        own = [row["sentence"] for row in rows[split] if "number" in row["sentence"]]
        pages[split] = {int(text.rstrip(".").split()[-1]) // 2 for text in own}
    assert not pages["train"] & pages["dev"]
    texts = [row["sentence"] for split in rows.values() for row in split]
    assert len(set(texts)) == len(texts) and not any("PERL" in text for text in texts)


def test_same_text_gives_the_same_files(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make(work, monkeypatch) == make(work, monkeypatch, "again")


def test_too_little_text(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manual_sentences, "SENTENCES", {"train": 300, "dev": 10})
    with pytest.raises(SystemExit, match=r"git-doc.*expected at least 300"):
        make(work, monkeypatch)
