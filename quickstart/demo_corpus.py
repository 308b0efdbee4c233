"""Write the demo's corpus: English prose of the Python installation, one sentence per line, articles apart.

Usage: demo_corpus.py TEXT_DIR

The articles are the topics of Python's language reference (`pydoc_data.topics`) and the docstrings of the standard
library's modules: more than a megabyte that every installation has.
"""

from __future__ import annotations

import ast
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

FILES = 4
MIN_SENTENCES = 3

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
_WORD = re.compile(r"[A-Za-z]{2,}")
_CODE = re.compile(r"^(>>>|\.\.\.|::=|[-*=~^+#|]{3,})|::=|^\S+ *= |[{};]")


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of the prose paragraphs; indented blocks, code, grammars and headings are skipped."""
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.strip("\n").split("\n")
        if any(_CODE.search(line) for line in lines) or lines[0].startswith("    "):
            continue
        joined = " ".join(" ".join(lines).split())
        if not joined.endswith((".", "!", "?", ":")):
            continue
        yield from (sentence for sentence in _SENTENCE_END.split(joined) if len(_WORD.findall(sentence)) >= 4)


def docstrings(source: str) -> Iterator[str]:
    """Yield every docstring in the source of a module, outermost first."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring


def articles() -> Iterator[list[str]]:
    """Yield articles as lists of sentences. Each sentence occurs once in the corpus; the order is always the same."""
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
        except (SyntaxError, UnicodeDecodeError):  # the standard library has a few broken files for its tests
            continue


def main() -> int:
    """Write the articles into a few files and print how many there are."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    corpus = [article for article in articles() if len(article) >= MIN_SENTENCES]
    for number in range(FILES):
        text = "\n".join("".join(f"{sentence}\n" for sentence in article) for article in corpus[number::FILES])
        (folder / f"part-{number:05d}-of-{FILES:05d}").write_text(text, encoding="utf-8")
    words = sum(len(sentence.split()) for article in corpus for sentence in article)
    print(f"corpus: {len(corpus)} articles, {words} words")
    return 0


if __name__ == "__main__":
    sys.exit(main())
