"""The result of a check, and the table of all results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bert_large.tables import format_table

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    level: str
    """`OK`; `WARNING`: training works, but slower or with less room than it could; `PROBLEM`: training will fail."""
    topic: str
    found: str
    remedy: str = ""
    """What to do; every warning and problem has one."""

    def __post_init__(self) -> None:
        assert self.level == OK or self.remedy, f"{self.topic}: no remedy for {self.found}"


def render(findings: Sequence[Finding]) -> str:
    """Return one line per finding, the remedy on the next line, and the number of findings of each level last."""
    rows = []
    for finding in findings:
        rows.append([finding.level, finding.topic, finding.found])
        if finding.remedy:
            rows.append(["", "", f"-> {finding.remedy}"])
    levels = [finding.level for finding in findings]
    counts = ", ".join(f"{levels.count(level)} {level}" for level in (OK, WARNING, PROBLEM))
    return f"{format_table(rows, left=3)}\n{counts}"
