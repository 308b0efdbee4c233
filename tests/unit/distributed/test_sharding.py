"""Owners of parameters: each parameter has one, and all own nearly equal amounts."""

from __future__ import annotations

import pytest
import torch
from bert_large.config.model import ModelConfig
from bert_large.distributed.sharding import assign_owners
from bert_large.engines.eager import EagerEngine
from bert_large.model.bert import BertForPreTraining


@pytest.fixture(scope="module")
def sizes() -> dict[str, int]:
    """Number of elements of each parameter of BERT-large."""
    with torch.device("meta"):
        model = BertForPreTraining(ModelConfig(), EagerEngine())
    return {name: weight.numel() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("world_size", [1, 2, 8])
def test_shares_are_even(sizes: dict[str, int], world_size: int) -> None:
    owners = assign_owners(sizes, world_size)
    assert owners.keys() == sizes.keys()
    loads = [sum(sizes[name] for name in sizes if owners[name] == rank) for rank in range(world_size)]
    assert sum(loads) == 336_226_108
    assert max(loads) <= 1.01 * sum(loads) / world_size


def test_no_share_is_larger_than_the_largest_parameter(sizes: dict[str, int]) -> None:
    """With many ranks, the word embeddings are the largest share."""
    owners = assign_owners(sizes, 64)
    loads = [sum(sizes[name] for name in sizes if owners[name] == rank) for rank in range(64)]
    assert max(loads) == 30522 * 1024
    assert min(loads) > 0


def test_more_ranks_than_parameters() -> None:
    assert assign_owners({"a": 2, "b": 1}, 4) == {"a": 0, "b": 1}
