"""Dropout's hash: equal to its definition, unbiased, and a function of an element's place alone."""

from __future__ import annotations

import itertools

import pytest
import torch
from bert_large.data.hashing import splitmix64
from bert_large.model.dropout import (
    DropoutSite,
    Site,
    StepDropout,
    attention_keep_mask,
    hash32_,
    site_dropout,
    token_keep_mask,
)

MASK_32 = 2**32 - 1


def lowbias32(value: int) -> int:
    """Chris Wellons' mixer in plain integers."""
    value ^= value >> 16
    value = value * 0x7FEB352D & MASK_32
    value ^= value >> 15
    value = value * 0x846CA68B & MASK_32
    return value ^ value >> 16


def kept(site: DropoutSite, sample: int, row: int, column: int) -> bool:
    """Return whether an element is kept, in plain integers: the definition for all engines."""
    sample_key = lowbias32(lowbias32(sample & MASK_32 ^ site.key) ^ sample >> 32)
    row_key = lowbias32((sample_key + row) & MASK_32)
    bits = lowbias32((row_key + column * 0x9E3779B9) & MASK_32)
    return bits ^ 0x80000000 >= round(site.probability * 2**32)


def site(probability: float = 0.1, *, seed: int = 42, step: int = 3, layer: int = 1, where: int = 2) -> DropoutSite:
    made = site_dropout(StepDropout(seed, step), probability, layer, Site(where))
    assert made is not None
    return made


def token_mask(where: DropoutSite, sample: int, rows: int, columns: int) -> torch.Tensor:
    return token_keep_mask(where, torch.full((rows,), sample), torch.arange(rows), columns)


def test_hash_is_lowbias32() -> None:
    """Wrapping int32 arithmetic equals the unsigned definition, including sign bits."""
    values = [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFF, 0xDEADBEEF, 123456789]
    signed = torch.tensor([value - 2**32 if value >= 2**31 else value for value in values], dtype=torch.int32)
    assert [value & MASK_32 for value in hash32_(signed).tolist()] == [lowbias32(value) for value in values]
    assert [lowbias32(value) for value in (0, 1)] == [0, 1753845952]


def test_key_is_a_chain_of_splitmix() -> None:
    key = splitmix64(splitmix64(splitmix64(splitmix64(42) ^ 7) ^ 23) ^ 3)
    assert site_dropout(StepDropout(42, 7), 0.25, 23, Site.FEED_FORWARD_OUTPUT) == DropoutSite(0.25, key & MASK_32)


@pytest.mark.parametrize("sample", [0, 1, 2**31, 2**32 - 1, 2**32, 156_726_829 * 41 + 5])
@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_token_mask_is_its_definition(sample: int, probability: float) -> None:
    """Also for sample numbers beyond 32 bits, so long runs do not repeat masks."""
    where = site(probability)
    expected = [[kept(where, sample, row, column) for column in range(33)] for row in range(5)]
    assert token_mask(where, sample, 5, 33).tolist() == expected


def test_attention_mask_is_its_definition() -> None:
    """A row is (head, query position), 2^16 rows apart for each head."""
    where, samples = site(0.3), [9, 2**33]
    mask = attention_keep_mask(where, torch.tensor(samples), heads=3, length=6)
    assert mask.shape == (2, 3, 6, 6)
    for index, head, query, key in itertools.product(range(2), range(3), range(6), range(6)):
        assert mask[index, head, query, key] == kept(where, samples[index], (head << 16) + query, key)


def test_mask_does_not_depend_on_what_it_is_computed_with() -> None:
    """Rows of several samples in any order, longer sequences beside: the same elements give the same mask."""
    where = site()
    samples, positions = torch.tensor([5, 2, 5, 9, 2]), torch.tensor([0, 3, 7, 1, 0])
    together = token_keep_mask(where, samples, positions, 64)
    for row, (sample, position) in enumerate(zip(samples.tolist(), positions.tolist(), strict=True)):
        assert torch.equal(together[row], token_mask(where, sample, position + 1, 64)[position])
    long, short = (attention_keep_mask(where, torch.tensor(ids), 2, n) for ids, n in (([8, 5], 9), ([5], 4)))
    assert torch.equal(long[1:, :, :4, :4], short)


def test_a_large_mask_equals_its_rows() -> None:
    """For BERT-large's sizes, with more elements than are hashed at once."""
    samples, positions = torch.arange(300) // 100, torch.arange(300) % 100
    mask = token_keep_mask(site(), samples, positions, 1024)
    for row in (0, 63, 64, 65, 127, 128, 299):
        alone = token_keep_mask(site(), samples[row : row + 1], positions[row : row + 1], 1024)
        assert torch.equal(mask[row : row + 1], alone), row


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.001])
def test_keep_rate(probability: float) -> None:
    """For a million elements, within four standard deviations."""
    mask = torch.cat([token_mask(site(probability), sample, 50, 1000) for sample in range(20)])
    allowed = 4 * (probability * (1 - probability) / mask.numel()) ** 0.5
    assert float(mask.double().mean()) == pytest.approx(1 - probability, abs=allowed)


def test_every_row_and_column_is_unbiased() -> None:
    """The worst of a thousand columns, and of a thousand rows, within five standard deviations."""
    mask = torch.cat([token_mask(site(0.1), sample, 50, 1000) for sample in range(20)]).double()
    for rates in (mask.mean(dim=0), mask.mean(dim=1)):
        assert float((rates - 0.9).abs().max()) < 5 * (0.1 * 0.9 / 1000) ** 0.5


def test_places_are_independent() -> None:
    """Masks of another seed, step, layer, site, sample, row or column agree only by chance."""
    rows, columns = 64, 512
    masks = {
        "base": token_mask(site(0.5), 3, rows, columns),
        "seed": token_mask(site(0.5, seed=43), 3, rows, columns),
        "step": token_mask(site(0.5, step=4), 3, rows, columns),
        "layer": token_mask(site(0.5, layer=2), 3, rows, columns),
        "site": token_mask(site(0.5, where=3), 3, rows, columns),
        "sample": token_mask(site(0.5), 4, rows, columns),
        "row": token_mask(site(0.5), 3, rows + 1, columns)[1:],
        "column": token_mask(site(0.5), 3, rows, columns + 1)[:, 1:],
    }
    for (one, first), (other, second) in itertools.combinations(masks.items(), 2):
        agreement = float((first == second).double().mean())
        assert abs(agreement - 0.5) < 5 * 0.5 / (rows * columns) ** 0.5, (one, other)


def test_nothing_to_drop() -> None:
    """In evaluation, and with probability 0, there is no mask."""
    assert site_dropout(None, 0.1, 0, Site.EMBEDDING) is None
    assert site_dropout(StepDropout(1, 1), 0.0, 0, Site.EMBEDDING) is None


def test_a_probability_that_rounds_to_1_drops_everything() -> None:
    assert not token_mask(site(1 - 2**-40), 3, 5, 50).any()
