"""`python -m bert_large` with steps of at least a tenth of a second, which a test can interrupt."""

from __future__ import annotations

import sys
import time
from typing import Any

from bert_large.cli import main
from bert_large.train.step import StepRunner

_run = StepRunner.run


def _run_slowly(self: StepRunner, *arguments: Any) -> Any:
    time.sleep(0.1)
    return _run(self, *arguments)


if __name__ == "__main__":
    StepRunner.run = _run_slowly  # type: ignore[assignment, method-assign]
    sys.exit(main())
