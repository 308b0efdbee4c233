"""What a check found, and how findings are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: str
    """`OK`; `WARNING`: training works, slower or with less room than it could; `PROBLEM`: it will not work."""
    topic: str
    found: str
    remedy: str = ""
    """What to do; there is one with every warning and problem."""

    def __post_init__(self) -> None:
        assert self.level == OK or self.remedy, f"{self.topic}: no remedy for {self.found}"


def render(findings: Sequence[Finding]) -> str:
    """Return a line for each finding, its remedy on the next, and last how many of each level there are."""
    width = max(len(finding.topic) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<7}  {finding.topic:<{width}}  {finding.found}")
        if finding.remedy:
            lines.append(f"{'':7}  {'':{width}}  -> {finding.remedy}")
    levels = [finding.level for finding in findings]
    return "\n".join([*lines, ", ".join(f"{levels.count(level)} {level}" for level in (OK, WARNING, PROBLEM))])
