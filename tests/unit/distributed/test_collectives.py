"""A single rank; several ranks are tested in tests/integration/test_ranks.py."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from bert_large.distributed.bind import BINDING_VARIABLE
from bert_large.distributed.collectives import Ranks
from bert_large.distributed.heartbeat import Heartbeat
from bert_large.distributed.joining import joined_ranks
from bert_large.errors import InputError


@pytest.mark.parametrize("variables", [{}, {"RANK": "0", "WORLD_SIZE": "1"}])
def test_alone(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torchrun, or as its only process, nothing is set up and nothing is waited for."""
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with joined_ranks() as ranks:
        assert ranks == Ranks(rank=0, world_size=1, local_rank=0, backend=None) and ranks.is_main
        assert not torch.distributed.is_initialized()
        assert ranks.broadcast("text") == "text"
        assert ranks.gather("text") == ["text"]
        ranks.require_agreement({"seed": 1})
        ranks.wait_for_all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MASTER_ADDR", None),
        ("MASTER_PORT", None),
        ("MASTER_PORT", "x"),
        ("MASTER_PORT", "65536"),
        ("RANK", "-1"),
        ("WORLD_SIZE", "two"),
    ],
)
def test_wrong_variables_of_a_rank_are_named(name: str, value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", name: value}
    for variable, text in variables.items():
        monkeypatch.setenv(variable, text) if text is not None else monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InputError, match=name), joined_ranks():
        pass


def test_sum_is_a_new_tensor() -> None:
    values = torch.tensor([1.0, 2.0])
    total = Ranks().sum(values)
    total += 1
    assert values.tolist() == [1.0, 2.0]


def test_an_unknown_backend_is_refused_even_alone() -> None:
    with pytest.raises(InputError, match="BACKEND is 'nccl'"), joined_ranks("nccl"):
        pass


def test_the_description_has_ranks_and_threads() -> None:
    threads = torch.get_num_threads()
    assert Ranks().describe() == f"1 rank, {threads} threads"
    assert Ranks(1, 4, 1, "gloo").describe() == f"4 ranks over gloo, {threads} threads each"


@pytest.mark.parametrize(
    ("binding", "lines"),
    [
        (None, ["not bound"]),
        ("on CPU 3 of NUMA node 1", ["on CPU 3 of NUMA node 1"]),
        ("on CPU 3 of NUMA node 1, memory not bound\nwhy", ["on CPU 3 of NUMA node 1, memory not bound", "why"]),
    ],
)
def test_bindings_are_those_set_by_the_launcher(
    binding: str | None, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.delenv(BINDING_VARIABLE, raising=False)
    if binding is not None:
        monkeypatch.setenv(BINDING_VARIABLE, binding)
    assert Ranks().describe_bindings() == [f"rank 0: 7 threads {lines[0]}", *lines[1:]]


def test_a_busy_rank_makes_progress() -> None:
    """As long as the block runs, although its main thread records nothing."""
    noted: list[str] = []
    heartbeat = cast(Heartbeat, SimpleNamespace(note=noted.append))
    with Ranks(0, 2, 0, "gloo", heartbeat=heartbeat).busy("making records"):
        deadline = time.monotonic() + 20
        while len(noted) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(noted) >= 3 and set(noted) == {"making records"}
    count = len(noted)
    time.sleep(0.3)
    assert len(noted) == count
