"""Sequences packed full: every token once, in order, in parts that do not influence each other."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
from bert_large.data.record import NO_PAIR, Record
from bert_large.prepare.documents import Documents
from bert_large.prepare.instances import create_instances, make_record
from bert_large.prepare.packing import pack
from bert_large.prepare.settings import InstanceSettings
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.runs import run_here
from tests.unit.prepare.test_instances import VOCABULARY, make_documents

CLS, SEP = VOCABULARY.cls_id, VOCABULARY.sep_id


def ranges(lengths: list[int]) -> list[tuple[int, int]]:
    return list(pairwise(np.cumsum([0, *lengths]).tolist()))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(3, 200))
def test_every_token_is_in_one_place(lengths: list[int], slots: int) -> None:
    sequences = list(pack(ranges(lengths), slots))
    tokens = [token for made in sequences for start, stop in made.parts for token in range(start, stop)]
    assert tokens == list(range(sum(lengths)))
    starts = {start for start, _ in ranges(lengths)}
    for made in sequences:
        assert 0 < made.length <= slots and len(made.parts) <= 127
        assert all(start < stop for start, stop in made.parts)
        # Only the first part can continue a document: later ones begin where one begins.
        assert {start for start, _ in made.parts[1:]} <= starts
    # A sequence is left only when fewer than 8 tokens and the special ones fit, or at the limit of parts.
    for made in sequences[:-1]:
        assert slots - made.length < 2 + 8 or len(made.parts) == 127


def test_the_limit_of_parts() -> None:
    made = list(pack(ranges([1] * 200), 1000))
    assert [len(sequence.parts) for sequence in made] == [127, 73]


def test_a_document_is_not_cut_for_a_few_tokens() -> None:
    assert [made.parts for made in pack(ranges([20, 29]), 31)] == [((0, 20),), ((20, 49),)]
    assert [made.parts for made in pack(ranges([20, 29]), 32)] == [((0, 20), (20, 28)), ((28, 49),)]
    # A whole document may be shorter.
    assert [made.parts for made in pack(ranges([20, 3, 9]), 27)] == [((0, 20), (20, 23)), ((23, 32),)]


def made_records(documents: Documents, **changes: object) -> list[Record]:
    how = InstanceSettings(**{"max_seq_length": 64, "max_predictions_per_seq": 10, "sequences": "packed",
                              "dupe_factor": 3, **changes})  # type: ignore[arg-type]  # fmt: skip
    return [make_record(made, documents, VOCABULARY) for made in create_instances(documents, VOCABULARY, how)]


def random_documents() -> Documents:
    rng = Random(3)
    return make_documents([[rng.randint(1, 30) for _ in range(rng.randint(1, 6))] for _ in range(60)])


def test_records() -> None:
    """Parts are [CLS] … [SEP] of one document each; masks are BERT's, and every pass has other sequences."""
    documents = random_documents()
    document_of = {token: number for number, starts in enumerate(documents.boundaries)
                   for token in range(starts[0] + 10, starts[-1] + 10)}  # fmt: skip
    records = made_records(documents)
    seen: list[int] = []
    for record in records:
        ids = record.input_ids.copy()
        ids[record.masked_positions] = record.masked_ids
        assert record.next_sentence_label == NO_PAIR and not record.token_type_ids.any()
        assert len(record.masked_ids) == min(10, max(1, round(0.15 * len(ids))))
        bounds = [*record.part_starts, len(ids)]
        for start, stop in pairwise(bounds):
            part = ids[start:stop].tolist()
            assert (part[0], part[-1]) == (CLS, SEP) and {CLS, SEP}.isdisjoint(part[1:-1])
            assert len({document_of[token] for token in part[1:-1]}) == 1
            seen += part[1:-1]
        special = {place for start, stop in pairwise(bounds) for place in (start, stop - 1)}
        assert special.isdisjoint(record.masked_positions.tolist())
        assert record.longest_part == max(stop - start for start, stop in pairwise(bounds))
    assert sorted(seen) == sorted([*document_of] * 3)
    assert any(len(record.part_starts) > 1 for record in records)
    assert np.mean([len(record.input_ids) for record in records]) > 60
    texts = {tuple(np.where(np.isin(np.arange(len(record.input_ids)), record.masked_positions), 0, record.input_ids))
             for record in records}  # fmt: skip
    assert len(texts) > 0.9 * len(records)


def test_the_same_seed_gives_the_same_records() -> None:
    first, again, other = (made_records(random_documents(), random_seed=seed) for seed in (1, 1, 2))
    assert [record.input_ids.tolist() for record in first] == [record.input_ids.tolist() for record in again]
    assert [record.input_ids.tolist() for record in first] != [record.input_ids.tolist() for record in other]


def test_an_option_of_pairs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prepare", f"--input-dir={tmp_path}", f"--output-dir={tmp_path / 'out'}", f"--vocab-file={tmp_path}"]
    assert run_here(*words, "--sequences=packed", "--short-seq-prob=0.1") == 2
    assert "--short-seq-prob" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
