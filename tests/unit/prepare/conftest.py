"""A tiny vocabulary and corpus."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from bert_large.prepare.vocab import Vocabulary, read_vocab

from tests.support.runs import run_here

from .preparing import Prepare
from .reference_tokenizer import TOKENS


@pytest.fixture
def vocab_file(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in TOKENS), encoding="utf-8")
    return path


@pytest.fixture
def vocabulary(vocab_file: Path) -> Vocabulary:
    return read_vocab(vocab_file)


@pytest.fixture
def text_dir(tmp_path: Path) -> Path:
    """Three files of several articles, one of a single sentence."""
    folder = tmp_path / "text"
    folder.mkdir()
    rng = random.Random(7)
    for number in range(3):
        articles = ["\n".join(_sentence(rng) for _ in range(rng.randint(3, 9))) for _ in range(6)] + ["alpha beta."]
        (folder / f"part-{number}").write_text("\n\n".join(articles) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def prepare(text_dir: Path, vocab_file: Path, out: Path) -> Prepare:
    def run(*options: str, output_dir: Path | None = None) -> int:
        folders = [f"--input-dir={text_dir}", f"--vocab-file={vocab_file}", f"--output-dir={output_dir or out}"]
        return run_here("prepare", *folders, "--workers", "1", "--max-seq-length", "32", *options)

    return run


def _sentence(rng: random.Random) -> str:
    return " ".join(
        rng.choice(("alpha", "beta", "gamma", "delta", "running", "unrun")) for _ in range(rng.randint(2, 12))
    )
