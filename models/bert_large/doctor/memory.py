"""Whether the machine has the memory that training needs."""

from __future__ import annotations

from bert_large.doctor.finding import OK, PROBLEM, WARNING, Finding
from bert_large.train.memory import MemoryNeed, compare_memory


def check_memory(need: MemoryNeed, ranks: int, available: int | None) -> Finding:
    """Check that `ranks` ranks of this machine have the memory that training needs."""
    found, remedy = compare_memory(need, ranks, available)
    if not remedy:
        return Finding(OK, "memory", found)
    is_short = available is not None and need.total * ranks > available
    return Finding(PROBLEM if is_short else WARNING, "memory", found, remedy)
