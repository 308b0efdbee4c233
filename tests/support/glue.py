"""GLUE's nine tasks in miniature, with the layout, columns and irregularities of the official files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

# Unclosed quotes, a comma and letters beyond ASCII, all of which are text.
FIRST, SECOND = 'he said "no, never', "a café isn't"


def write_tsv(path: Path, header: Sequence[str] | None, rows: Sequence[Sequence[object]], start: str = "") -> Path:
    """Write a tab-separated file without any quoting; `start` is written first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(map(str, row)) for row in ([header] if header else []) + list(rows)]
    path.write_bytes((start + "\n".join(lines) + "\n").encode())
    return path


def write_single(folder: Path, name: str = "SST-2") -> None:
    """Write SST-2: a sentence and 0 or 1."""
    for split, count in (("train", 12), ("dev", 6)):
        rows = [(f"{FIRST} {number}", number % 2) for number in range(count)]
        write_tsv(folder / name / f"{split}.tsv", ("sentence", "label"), rows)
    write_tsv(folder / name / "test.tsv", ("index", "sentence"), [(number, FIRST) for number in range(4)])


def write_cola(folder: Path) -> None:
    """Write CoLA: labeled files without a header, source and original mark beside label and sentence."""
    for split, count in (("train", 12), ("dev", 6)):
        rows = [("gj04", number % 2, "" if number % 2 else "*", f"{FIRST} {number}") for number in range(count)]
        write_tsv(folder / "CoLA" / f"{split}.tsv", None, rows)
    write_tsv(folder / "CoLA" / "test.tsv", ("index", "sentence"), [(number, FIRST) for number in range(4)])


def write_pairs(
    folder: Path,
    name: str,
    labels: Sequence[object],
    *,
    before: Sequence[str] = ("index",),
    texts: tuple[str, str] = ("sentence1", "sentence2"),
    label: str = "label",
    test_before: Sequence[str] = ("index",),
    suffixes: Sequence[str] = ("",),
) -> None:
    """Write a task of pairs: `before` has the columns left of the texts; the label is the last column."""
    files = [("train", 12), *((f"dev{suffix}", 6) for suffix in suffixes)]
    for split, count in files:
        rows = [
            (*([number] * len(before)), f"{FIRST} {number}", SECOND, labels[number % len(labels)])
            for number in range(count)
        ]
        write_tsv(folder / name / f"{split}.tsv", (*before, *texts, label), rows)
    for suffix in suffixes:
        rows = [(*([number] * len(test_before)), FIRST, SECOND) for number in range(4)]
        write_tsv(folder / name / f"test{suffix}.tsv", (*test_before, *texts), rows)


MRPC_HEADER = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")


def write_mrpc_original(folder: Path) -> None:
    """Write MRPC in its authors' form, with a byte order mark, and GLUE's list of validation pairs."""
    rows = [(number % 2, 100 + number, 200 + number, f"{FIRST} {number}", SECOND) for number in range(6)]
    mark = "\N{ZERO WIDTH NO-BREAK SPACE}"
    write_tsv(folder / "msr_paraphrase_train.txt", MRPC_HEADER, rows, start=mark)
    write_tsv(folder / "msr_paraphrase_test.txt", MRPC_HEADER, rows[:3], start=mark)
    write_tsv(folder / "dev_ids.tsv", None, [(101, 201), (104, 204)])


def write_glue(folder: Path) -> Path:
    """Write all nine tasks and the diagnostic set; return the folder."""
    write_single(folder)
    write_cola(folder)
    write_pairs(
        folder, "MRPC", [1, 0], before=("#1 ID", "#2 ID"), texts=("#1 String", "#2 String"), label="Quality",
        test_before=("index", "#1 ID", "#2 ID"),
    )  # fmt: skip
    write_pairs(
        folder, "QQP", [0, 1], before=("id", "qid1", "qid2"), texts=("question1", "question2"), label="is_duplicate",
        test_before=("id",),
    )  # fmt: skip
    sources = ("index", "genre", "filename", "year", "old_index", "source1", "source2")
    write_pairs(folder, "STS-B", ["5.000", "0.000", "2.500"], before=sources, label="score", test_before=sources)
    parses = ("index", "promptID", "pairID", "genre", "sentence1_binary_parse", "sentence2_binary_parse",
              "sentence1_parse", "sentence2_parse")  # fmt: skip
    write_pairs(
        folder, "MNLI", ["neutral", "entailment", "contradiction"], before=parses, label="gold_label",
        test_before=parses, suffixes=("_matched", "_mismatched"),
    )  # fmt: skip
    write_tsv(folder / "diagnostic" / "diagnostic.tsv", ("index", "sentence1", "sentence2"), [(0, FIRST, SECOND)] * 2)
    both = ["entailment", "not_entailment"]
    write_pairs(folder, "QNLI", both, texts=("question", "sentence"))
    write_pairs(folder, "RTE", both)
    write_pairs(folder, "WNLI", [1, 0])
    return folder
