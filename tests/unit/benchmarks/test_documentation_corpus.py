from __future__ import annotations

import gzip
import json
from pathlib import Path

import documentation_corpus as corpus
import pytest

PROSE = "The function returns the number of bytes that were written to the file, which may be fewer than requested."
WORDS = ["one", "two", "three", "four", "five", "six"]
HTML = f"""<html><head><title>T</title><script>var a = 1;</script></head><body><nav>Home. Index of all the pages.</nav>
<main><h1>A heading.</h1><p>{PROSE}</p><pre>int main() {{ return 0; }}</pre>
<ul><li>If it is <code>-1</code>, an error has occurred and the cause is in the variable errno.</li></ul>
<table><tr><td>The cells of a table are not read by this.</td></tr></table></main></body></html>"""


@pytest.mark.parametrize(
    ("paragraph", "expected"),
    [
        (PROSE, True),
        ("Table of Contents", False),
        ("Returns true.", False),
        ("static void java.lang.Object.wait(long timeout, int nanos) throws InterruptedException.", False),
        ("The following attributes are supported:", False),
        ("Cette fonction renvoie le nombre d'octets qui ont été écrits dans le fichier de sortie.", False),
        ("a = b + c; d[3] = { 1, 2, 3 }; for (i = 0; i < 10; i++) { x += 2; } is the loop.", False),
    ],
)
def test_only_sentences_are_prose(paragraph: str, expected: bool) -> None:
    assert corpus.is_prose(paragraph) is expected


def test_html_pages() -> None:
    found = list(filter(corpus.is_prose, corpus.html_paragraphs(HTML.encode())))
    assert found == [PROSE, "If it is -1, an error has occurred and the cause is in the variable errno."]


def test_pod_pages() -> None:
    text = "See L<the manual|perlfunc> and C<B<print>> for\nmore."
    pod = f"=head1 NAME\n\n{PROSE}\n\n    my $code = 1;\n\n{text}\n\n=cut\n"
    assert corpus.pod_paragraphs(pod.encode()) == [PROSE, "See the manual and print for more."]


def test_dictionary_pages() -> None:
    definition = "   1. An animal of the {family} Felidae,\n      kept by people. --Shak."
    entry = f"Cat \\Cat\\, n. [L. cattus]\n{definition}\n   [1913 Webster]\n"
    (page,) = corpus.dictionary_pages(entry.encode())
    assert page.paragraphs == ["An animal of the family Felidae, kept by people."]


def test_the_pages_of_a_package(tmp_path: Path) -> None:
    """In the order of their paths, without other languages, links, short pages and paragraphs of earlier pages."""
    folder = tmp_path / "package"
    own = [
        "".join(f"<p>This is paragraph {word} of page {n}, and it is long enough.</p>" for word in WORDS) for n in "abc"
    ]
    pages = {
        "b/index.html": own[1] + own[0],
        "a.html.gz": own[0],
        "c.html": own[0],
        "de/index.html": own[2],
        "index.fr.html": own[2],
        "short.html": f"<p>{PROSE}</p>",
    }
    for name, content in pages.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        data = content.encode()
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (folder / "link.html").symlink_to("b/index.html")
    counts = corpus.write_source("package", folder, tmp_path / "out.jsonl", map)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["source"] for line in lines] == ["package/a.html.gz", "package/b/index.html"]
    texts = [line["text"] for line in lines]
    assert [text.count("\n") + 1 for text in texts] == [len(WORDS), len(WORDS)]
    assert "page a" in texts[0] and "page a" not in texts[1]
    words = sum(len(text.split()) for text in texts)
    assert counts == {"pages": 2, "characters": sum(map(len, texts)), "words": words}
