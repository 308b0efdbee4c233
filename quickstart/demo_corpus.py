"""Write the demo's corpus: English prose of the Python installation, with one sentence per line.

Usage: demo_corpus.py TEXT_DIR HELD_OUT_DIR

The articles are the topics of Python's language reference (`pydoc_data.topics`) and the docstrings of the standard
library's modules: more than a megabyte that every installation has. Every 20th article is held out.
"""

from __future__ import annotations

import ast
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

SHARDS = 4
HOLD_OUT_EVERY = 20
MIN_SENTENCES = 3

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
_WORD = re.compile(r"[A-Za-z]{2,}")
_CODE = re.compile(r"^(>>>|\.\.\.|::=|[-*=~^+#|]{3,})|::=|^\S+ *= |[{};]")


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a text's prose paragraphs, without indented blocks, code, grammars and headings."""
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.strip("\n").split("\n")
        if any(_CODE.search(line) for line in lines) or lines[0].startswith("    "):
            continue
        joined = " ".join(" ".join(lines).split())
        if not joined.endswith((".", "!", "?", ":")):
            continue
        yield from (sentence for sentence in _SENTENCE_END.split(joined) if len(_WORD.findall(sentence)) >= 4)


def docstrings(source: str) -> Iterator[str]:
    """Yield every docstring in a module's source, outermost first."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring


def articles() -> Iterator[list[str]]:
    """Yield articles as lists of sentences in a fixed order; every sentence of the corpus occurs once."""
    seen: set[str] = set()

    def unseen(texts: Iterator[str]) -> list[str]:
        found = [sentence for text in texts for sentence in sentences(text)]
        new = [sentence for sentence in dict.fromkeys(found) if sentence not in seen]
        seen.update(new)
        return new

    for name in sorted(topics):
        yield unseen(iter([topics[name]]))
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if {"site-packages", "dist-packages", "test", "tests", "pydoc_data", "idle_test"} & set(parts):
            continue
        try:
            yield unseen(docstrings(path.read_text(encoding="utf-8")))
        except (SyntaxError, UnicodeDecodeError):  # the library has invalid files for its own tests
            continue


def write(folder: Path, shards: list[list[list[str]]]) -> None:
    """Write shards of articles, with a blank line between articles."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, shard in enumerate(shards):
        text = "\n".join("".join(f"{sentence}\n" for sentence in article) for article in shard)
        (folder / f"part-{number:05d}-of-{len(shards):05d}").write_text(text, encoding="utf-8")


def main() -> int:
    """Write both folders and print a summary."""
    text_dir, held_out_dir = map(Path, sys.argv[1:3])
    chosen = [article for article in articles() if len(article) >= MIN_SENTENCES]
    held_out = chosen[::HOLD_OUT_EVERY]
    training = [article for number, article in enumerate(chosen) if number % HOLD_OUT_EVERY]
    write(text_dir, [training[shard::SHARDS] for shard in range(SHARDS)])
    write(held_out_dir, [held_out])
    words = sum(len(sentence.split()) for article in chosen for sentence in article)
    print(f"corpus: {len(training)} articles to train on, {len(held_out)} held out, {words} words")
    return 0


if __name__ == "__main__":
    sys.exit(main())
