from __future__ import annotations

import random
from pathlib import Path

import pytest
from bert_large.prepare import split
from bert_large.prepare.split import Dealer, HoldOut, Shard, plan_shards

ARTICLES = [f"article {number}\n".encode() * (number % 7 + 1) for number in range(200)]


def hold_out(articles: list[bytes], count: int, share: float = 1.0) -> tuple[list[bytes], list[bytes]]:
    """Return the articles held out, and the others."""
    holder = HoldOut(count, share)
    others = [kept for article in articles if (kept := holder.offer(article)) is not None]
    return holder.taken(), others


def test_held_out_articles_do_not_depend_on_the_order() -> None:
    taken, others = hold_out(ARTICLES, 20)
    assert len(taken) == 20
    assert sorted(taken + others) == sorted(ARTICLES)
    for seed in range(3):
        shuffled = ARTICLES.copy()
        random.Random(seed).shuffle(shuffled)
        assert hold_out(shuffled, 20)[0] == taken
    assert hold_out(ARTICLES, 10)[0] == taken[:10]  # fewer are the first of more


def test_held_out_articles_are_pinned() -> None:
    """Evaluation results of the same corpus can be compared between versions."""
    assert [article.split(b"\n")[0] for article in hold_out(ARTICLES, 3)[0]] == [
        b"article 147",
        b"article 62",
        b"article 185",
    ]


def test_share_bounds_what_is_held_out() -> None:
    many = [str(number).encode() for number in range(5000)]
    taken, others = hold_out(many, 10_000, 0.02)
    assert 60 < len(taken) < 140
    assert len(taken) + len(others) == 5000
    assert hold_out(many, 5, 0.02)[0] == taken[:5]
    assert hold_out(many, 0) == ([], many)


def test_copies_of_held_out_articles_are_not_trained_on() -> None:
    taken, _ = hold_out(ARTICLES, 20)
    holder = HoldOut(20)
    others = [kept for article in ARTICLES + ARTICLES if (kept := holder.offer(article)) is not None]
    assert holder.taken() == taken
    assert holder.duplicates == 20
    assert not set(others) & set(taken)


@pytest.mark.parametrize("buffer_bytes", [1, 100, 1 << 20])
def test_shards_are_even_and_hold_every_article(
    tmp_path: Path, buffer_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "BUFFER_BYTES", buffer_bytes)
    shards = [Shard(tmp_path / str(number), 0.25) for number in range(4)]
    dealer = Dealer(shards)
    for article in ARTICLES:
        dealer.add(article)
    dealer.flush()
    texts = [shard.path.read_bytes() for shard in shards]
    found = [article + b"\n" for text in texts for article in text.removesuffix(b"\n").split(b"\n\n")]
    assert sorted(found) == sorted(ARTICLES)
    assert max(map(len, texts)) - min(map(len, texts)) <= max(map(len, ARTICLES)) + 1
    for shard, text in zip(shards, texts, strict=True):
        assert shard.bytes == len(text)
        assert shard.articles == text.count(b"\n\n") + 1
        assert shard.sentences == text.count(b"\n") - shard.articles + 1


def test_phases_share_the_text_by_the_fraction(tmp_path: Path) -> None:
    shards = plan_shards(tmp_path, 7, 0.9)
    names = [shard.path.relative_to(tmp_path).as_posix() for shard in shards]
    assert names == [f"phase1/part-0000{i}-of-00007" for i in range(6)] + ["phase2/part-00006-of-00007"]
    for folder in ("phase1", "phase2"):
        (tmp_path / folder).mkdir()
    dealer = Dealer(shards)
    for article in ARTICLES:
        dealer.add(article)
    total = sum(shard.bytes for shard in shards)
    assert shards[-1].bytes == pytest.approx(0.1 * total, rel=0.1)


@pytest.mark.parametrize(
    ("count", "fraction", "phase1"), [(2, 0.9, 1), (10, 0.9, 9), (500, 0.9, 450), (3, 0.01, 1), (3, 0.99, 2)]
)
def test_each_phase_has_shards(tmp_path: Path, count: int, fraction: float, phase1: int) -> None:
    shards = plan_shards(tmp_path, count, fraction)
    assert sum(shard.path.parent.name == "phase1" for shard in shards) == phase1
    assert len(shards) == count
    assert sum(shard.weight for shard in shards) == pytest.approx(1)


def test_both_phases_can_have_all(tmp_path: Path) -> None:
    assert [shard.path for shard in plan_shards(tmp_path, 1, 1.0)] == [tmp_path / "both" / "part-00000-of-00001"]
