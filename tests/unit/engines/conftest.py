"""Leaves out tests of engines that are not installed; the native engine."""

from __future__ import annotations

import pytest
from bert_large.engines import available_engines
from bert_large.engines.native import NativeEngine

collect_ignore = [] if "ipex" in available_engines() else ["test_ipex_operations.py"]


@pytest.fixture(scope="module")
def native() -> NativeEngine:
    return NativeEngine()
