"""Raw text in the forms that `corpus` reads."""

from __future__ import annotations

LONG = "The cat sat down. It was tired. Then it slept."

# WikiExtractor's output: an article with a title that needs escaping, an empty one, and one without a title.
DOCS = """<doc id="1" url="https://x/?curid=1" title="A &amp; B">
A &amp; B

First. Second.

Section.
Third.
</doc>

<doc id="2" url="https://x/?curid=2" title="Empty">
Empty

</doc>
<doc id="3" url="u">
No title.
</doc>
"""
