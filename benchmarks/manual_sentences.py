"""Labeled sentences of manuals: which manual is a sentence from?

Usage: manual_sentences.py WORK_DIR OUTPUT_DIR

Takes the text that `documentation_corpus.py` has made in WORK_DIR, and writes train.tsv and dev.tsv for
`bert-large finetune --task classification`. All classes have the same number of sentences, so guessing is right one
time in `len(MANUALS)`. Sentences of one page are all in one file. Sentences that name the subject of a manual are left
out, as are repeated ones: they would give the answer away. The same text gives the same files.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from bert_large.prepare.sentences import clean, split_sentences

MANUALS = {
    "apache2-doc": "Apache", "cmake-doc": "CMake", "dict-gcide": "dictionary", "erlang-doc": "Erlang",
    "ghc-doc": "Haskell GHC", "gimp-help-en": "GIMP", "git-doc": "Git", "grass-doc": "GRASS GIS",
    "lazarus-doc-2.2": "Lazarus", "libboost1.81-doc": "Boost", "libreoffice-help-en-us": "LibreOffice",
    "linux-doc-6.1": "Linux kernel", "llvm-15-doc": "LLVM Clang", "neutron-doc": "Neutron OpenStack",
    "octave-doc": "Octave", "openjdk-17-doc": "Java", "perl-doc": "Perl", "postgresql-doc-15": "PostgreSQL Postgres",
    "python-django-doc": "Django", "python-scipy-doc": "SciPy NumPy", "python-sklearn-doc": "scikit sklearn",
    "python3.11-doc": "Python", "qtbase5-doc-html": "Qt", "racket-doc": "Racket", "rust-doc": "Rust",
    "sagemath-doc": "Sage SageMath", "sqlite3-doc": "SQLite",
}  # fmt: skip
"""Names of the manuals' subjects, by package. A sentence with one of these words is left out."""
SENTENCES = {"train": 400, "dev": 100}
"""Sentences of each manual."""
_DEV_SHARE = 0.2
_WORDS = range(8, 41)
_NAMES = re.compile(rf"({'|'.join(map(re.escape, ' '.join(MANUALS.values()).split()))})", re.IGNORECASE)


def read_sentences(pages: Iterable[str]) -> Iterator[str]:
    """Yield the sentences of some pages that have 8 to 40 words and name no manual's subject."""
    for page in pages:
        for paragraph in page.split("\n"):
            for sentence in split_sentences(clean(paragraph)):
                if len(sentence.split()) in _WORDS and not _NAMES.search(sentence):
                    yield sentence


def pick_sentences(file: Path, taken: set[str], draw: random.Random) -> dict[str, list[str]]:
    """Return sentences of one manual for both files, none of which is in `taken` (in lower case), and add them to it.

    Raises `SystemExit` if the manual has too few.
    """
    pages = [json.loads(line)["text"] for line in file.read_text(encoding="utf-8").splitlines()]
    draw.shuffle(pages)
    first = round(len(pages) * _DEV_SHARE)
    picked = {}
    for split, part in (("dev", pages[:first]), ("train", pages[first:])):
        new: dict[str, str] = {}
        for sentence in read_sentences(part):
            if sentence.lower() not in taken:
                new.setdefault(sentence.lower(), sentence)
        if len(new) < SENTENCES[split]:
            raise SystemExit(f"{file} has {len(new)} sentences for {split}, expected at least {SENTENCES[split]}")
        taken.update(new)
        picked[split] = draw.sample(list(new.values()), SENTENCES[split])
    return picked


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("output_dir", type=Path)
    arguments = parser.parse_args()
    draw, taken = random.Random(1), set[str]()
    rows: dict[str, list[tuple[str, str]]] = {split: [] for split in SENTENCES}
    for package in MANUALS:
        picked = pick_sentences(arguments.work_dir / "text" / f"{package}.jsonl", taken, draw)
        for split, sentences in picked.items():
            rows[split] += [(sentence, package) for sentence in sentences]
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for split, labeled in rows.items():
        draw.shuffle(labeled)
        with (arguments.output_dir / f"{split}.tsv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t").writerows([("sentence", "label"), *labeled])
        print(f"{split}.tsv: {len(labeled)} sentences of {len(MANUALS)} manuals")


if __name__ == "__main__":
    main()
