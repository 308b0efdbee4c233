"""At least 100 MB of English prose from Debian's documentation packages, and Wikipedia articles as held-out text.

Usage: documentation_corpus.py WORK_DIR

Downloads and unpacks the packages (4 GB of disk, no root needed), takes the prose of every page, and makes two corpora
with `bert-large corpus`, which also removes near-duplicates:

    WORK_DIR/corpus/both/     text to train on
    WORK_DIR/held_out/both/   articles of English Wikipedia, from the tests of the package gensim
    WORK_DIR/sources.json     version, pages, characters and words of every source; a source in it is not made again

The same versions of the packages give the same bytes. Needs Debian 12, and the extras `bench` and `text`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

PACKAGES = (
    "apache2-doc", "cinder-doc", "cmake-doc", "debian-handbook", "debian-reference-en", "dict-gcide", "erlang-doc",
    "fp-docs-3.2.2", "freedombox-doc-en", "ghc-doc", "gimp-help-en", "git-doc", "gnucash-docs", "grass-doc",
    "installation-guide-amd64", "lazarus-doc-2.2", "libboost1.81-doc", "libreoffice-help-en-us", "libstdc++-12-doc",
    "linux-doc-6.1", "llvm-15-doc", "neutron-doc", "nova-doc", "octave-doc", "openjdk-17-doc", "perl-doc",
    "postgresql-doc-15", "python-django-doc", "python-pandas-doc", "python-scipy-doc", "python-sklearn-doc",
    "python3.11-doc", "qtbase5-doc-html", "racket-doc", "rust-doc", "sagemath-doc", "sqlite3-doc",
)  # fmt: skip
HELD_OUT_PACKAGE = "gensim==4.4.0"
HELD_OUT_FILE = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"

_NOT_TEXT = (
    "pre", "table", "nav", "header", "footer", "aside", "dt", "form", "button", "h1", "h2", "h3", "h4", "h5", "h6",
    ".highlight", ".toc", ".navheader", ".navfooter", ".sidebar",
    ".navigation", ".related", ".sphinxsidebar", ".footer", "#footer", ".breadcrumb", ".menu", "script", "style",
)  # fmt: skip
"""Elements that hold code, headings, navigation and tables of names."""
_OTHER_LANGUAGE = re.compile(
    r"[./_-](ar|ca|cs|da|de|el|es|fa|fi|fr|hr|hu|id|it|ja|ko|nb|nl|pl|pt|pt[-_]br|ro|ru|sv|tr|uk|vi|zh|zh[-_](cn|tw))"
    r"([-_][A-Z]{2})?([./]|$)",
    re.IGNORECASE,
)
_FEWEST_WORDS, _FEWEST_LETTERS, _FEWEST_CHARACTERS = 5, 0.75, 200
_COMMON = (
    "a", "an", "and", "are", "as", "at", "be", "by", "can", "for", "from", "has", "have", "if", "in", "is", "it",
    "its", "may", "not", "of", "on", "or", "that", "the", "this", "to", "was", "when", "which", "will", "with",
    "you", "your",
)  # fmt: skip
_SENTENCE_END = re.compile(r"[.!?][\"'”\u2019)\]]*$")
_DICTIONARY_PAGE_CHARACTERS = 3000


@dataclass(frozen=True)
class Page:
    """A page of documentation: the path inside of its package, and its paragraphs."""

    name: str
    paragraphs: list[str]


def is_prose(paragraph: str) -> bool:
    """Return whether a paragraph is English sentences, and not code, a name, a heading or a caption."""
    words = paragraph.split()
    letters = sum(character.isalpha() or character.isspace() for character in paragraph)
    return (
        len(words) >= _FEWEST_WORDS
        and letters >= _FEWEST_LETTERS * len(paragraph)
        and _SENTENCE_END.search(paragraph) is not None
        and sum(word.lower() in _COMMON for word in words) * 8 >= len(words)
    )


def html_paragraphs(content: bytes) -> list[str]:
    """Return the blocks of text of an HTML page without navigation, code, tables and headings."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    text = extract_plain_text(
        bytes_to_str(content, detect_encoding(content, html5_compatible=True) or "utf-8"),
        alt_texts=False,
        list_bullets=False,
        skip_elements=list(_NOT_TEXT),
    )
    return [" ".join(line.replace("¶", "").split()) for line in text.split("\n")]


def pod_paragraphs(content: bytes) -> list[str]:
    """Return the paragraphs of Perl's documentation (perlpod) without headings, code and formatting codes."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", content.decode("utf-8", "replace")):
        if not block.startswith(("=", " ", "\t")):
            text, count = " ".join(block.split()), 1
            while count:
                text, count = re.subn(r"[A-Z]<([^<>|]*)(?:\|[^<>]*)?>", r"\1", text)
            paragraphs.append(text)
    return paragraphs


def dictionary_pages(content: bytes) -> Iterator[Page]:
    """Yield pages of definitions of GCIDE (Webster 1913): headwords start a line, their definitions are indented."""
    page: list[str] = []
    for block in re.split(r"\n\s*\n", content.decode("utf-8", "replace")):
        text = " ".join(" ".join(line for line in block.split("\n") if line.startswith(" ")).split())
        text = re.sub(r"\[[^\]]*\]|[{}]|^\(?\w{1,2}[.)] ", "", text).strip()
        page.append(re.sub(r"\s*--[A-Z][\w.' ]*$", "", text))
        if sum(map(len, page)) >= _DICTIONARY_PAGE_CHARACTERS:
            yield Page("definitions", page)
            page = []
    yield Page("definitions", page)


def read_page(folder: Path, path: Path) -> Page:
    """Return the page of one file of a package."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    convert = pod_paragraphs if ".pod" in path.suffixes else html_paragraphs
    return Page(path.relative_to(folder).as_posix(), convert(content))


def pages_of(folder: Path, map_files: Callable[..., Iterable[Page]]) -> Iterator[Page]:
    """Yield the pages of an unpacked package in the order of their paths."""
    dictionary = folder / "usr/share/dictd/gcide.dict.dz"
    if dictionary.is_file():
        yield from dictionary_pages(gzip.decompress(dictionary.read_bytes()))
        return
    files = sorted(path for path in folder.rglob("*") if path.name.endswith((".html", ".html.gz", ".htm", ".pod")))
    files = [path for path in files if path.is_file() and not path.is_symlink()]
    names = {path: "/" + path.relative_to(folder).as_posix() for path in files}
    yield from map_files(
        partial(read_page, folder), [path for path in files if not _OTHER_LANGUAGE.search(names[path])]
    )


def write_source(package: str, folder: Path, target: Path, map_files: Callable[..., Iterable[Page]]) -> dict[str, int]:
    """Write the prose of a package to a file of JSON lines; return its numbers of pages, characters and words.

    A paragraph that an earlier page has is left out: it is a footer, a license or the description of the same function.
    """
    counts = {"pages": 0, "characters": 0, "words": 0}
    seen: set[str] = set()
    with target.open("w", encoding="utf-8") as file:
        for page in pages_of(folder, map_files):
            paragraphs = [text for text in dict.fromkeys(filter(is_prose, page.paragraphs)) if text not in seen]
            seen.update(paragraphs)
            text = "\n".join(paragraphs)
            if len(text) >= _FEWEST_CHARACTERS:
                file.write(json.dumps({"source": f"{package}/{page.name}", "text": text}, ensure_ascii=False) + "\n")
                counts = {
                    "pages": counts["pages"] + 1,
                    "characters": counts["characters"] + len(text),
                    "words": counts["words"] + len(text.split()),
                }
    return counts


def unpack(package: str, work: Path) -> tuple[Path, str]:
    """Download and unpack a Debian package; return its folder and version."""
    packages, folder = work / "packages", work / "unpacked" / package
    found = sorted(packages.glob(f"{package}_*.deb"))
    if not found:
        subprocess.run(["apt-get", "download", "--quiet", package], cwd=packages, check=True, stdout=subprocess.DEVNULL)
        found = sorted(packages.glob(f"{package}_*.deb"))
    if not folder.is_dir():
        partial_folder = folder.with_name(f".{package}")
        subprocess.run(["dpkg-deb", "--extract", found[0], partial_folder], check=True)
        partial_folder.rename(folder)
    version = subprocess.run(["dpkg-deb", "--field", found[0], "Version"], check=True, capture_output=True, text=True)
    return folder, version.stdout.strip()


def run(*command: object) -> None:
    """Run a command; its error ends this script."""
    subprocess.run([sys.executable, "-m", *map(str, command)], check=True)


def main() -> None:
    """Make both corpora."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_dir", type=Path)
    work = parser.parse_args().work_dir.resolve()
    for name in ("packages", "unpacked", "text", "wikipedia"):
        (work / name).mkdir(parents=True, exist_ok=True)
    record = work / "sources.json"
    sources: dict[str, dict[str, Any]] = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        for package in PACKAGES:
            folder, version = unpack(package, work)
            if sources.get(package, {}).get("version") != version:
                target = work / "text" / f"{package}.jsonl"
                counts = write_source(package, folder, target, partial(pool.map, chunksize=16))
                sources[package] = {"version": version, **counts}
                record.write_text(json.dumps(sources, indent=1) + "\n", encoding="utf-8")
            found = sources[package]
            print(f"{package} {version}: {found['pages']} pages, {found['characters'] / 1e6:.1f} million characters")
    run("pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", work / "gensim", HELD_OUT_PACKAGE)
    dump = work / "wikipedia" / "pages.xml.bz2"
    dump.write_bytes((work / "gensim" / HELD_OUT_FILE).read_bytes())
    total = sum(counts["characters"] for counts in sources.values())
    print(f"all: {total / 1e6:.1f} million characters, duplicates included", flush=True)
    options = ("--phase1-fraction", 1, "--eval-articles", 0, "--duplicates", "near", "--overwrite")
    run("bert_large", "corpus", "--input-dir", work / "text", "--output-dir", work / "corpus", *options)
    run("bert_large", "corpus", "--input-dir", work / "wikipedia", "--output-dir", work / "held_out", *options)


if __name__ == "__main__":
    main()
