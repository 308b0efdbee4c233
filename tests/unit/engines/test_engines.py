"""An engine is chosen once, by name, and says which it is and why."""

from __future__ import annotations

import pytest
from bert_large.engines import resolve_engine
from bert_large.engines.eager import EagerEngine
from bert_large.errors import InputError


@pytest.mark.parametrize(("name", "reason"), [("eager", "as asked"), ("auto", "auto")])
def test_known_engines(name: str, reason: str) -> None:
    engine, line = resolve_engine(name)
    assert isinstance(engine, EagerEngine)
    assert line.startswith("engine eager: ") and reason in line


def test_unknown_engine_is_refused() -> None:
    """Never a silent fallback: the message lists what there is."""
    with pytest.raises(InputError, match=r"--engine is 'turbo', expected one of auto, eager"):
        resolve_engine("turbo")
