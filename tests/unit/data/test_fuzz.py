"""The fuzzer's targets on some inputs of each kind raise only the documented error. `make fuzz` runs a million."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fault.fuzz.seeds import seeds
from tests.fault.fuzz.targets import TARGETS, tfrecord

EDITS = st.binary(max_size=24)


def mutated(target: str) -> st.SearchStrategy[bytes]:
    """Return good inputs of a target in which some bytes are replaced."""

    def replace(seed: bytes, place: int, length: int, new: bytes) -> bytes:
        place %= len(seed) + 1
        return seed[:place] + new + seed[place + length :]

    sizes = st.integers(0, 255)
    return st.builds(replace, st.sampled_from(seeds(target)), sizes, sizes, st.binary(max_size=16))


@pytest.mark.parametrize("target", TARGETS)
def test_good_inputs(target: str) -> None:
    for seed in seeds(target):
        TARGETS[target](seed)


@pytest.mark.parametrize(
    ("target", "inputs"),
    [
        ("tfrecord", EDITS),
        ("example", mutated("example")),
        ("hdf5", st.builds(lambda variant, edits: bytes([variant]) + edits, st.integers(0, 2), EDITS)),
        ("checkpoint", mutated("checkpoint")),
    ],
    ids=list(TARGETS),
)
def test_wrong_inputs(target: str, inputs: st.SearchStrategy[bytes]) -> None:
    @settings(max_examples=60, deadline=10_000, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(inputs)
    def run(data: bytes) -> None:
        TARGETS[target](data)

    run()


def test_a_target_reports_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error other than the documented one is raised."""
    wrong: Callable[..., None] = lambda *_: (_ for _ in ()).throw(ZeroDivisionError)  # noqa: E731
    monkeypatch.setattr("bert_large.data.formats.tfrecord._read_frame", wrong)
    with pytest.raises(ZeroDivisionError):
        tfrecord(b"")
