"""A training program for tests of the launcher: says in a file what it was started with; CODE is its exit code.

With WAIT it goes on until a signal comes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def end_slowly(*_: object) -> None:
    """Take the time of a step and a checkpoint, and end as a signal asks for."""
    time.sleep(0.5)
    sys.exit(143)


waits = "WAIT" in os.environ
if waits:
    signal.signal(signal.SIGTERM, end_slowly)
rank = os.environ.get("RANK", "alone")
told = {
    "process": os.getpid(),
    "cpus": sorted(os.sched_getaffinity(0)),
    "environment": dict(os.environ),
    "arguments": sys.argv[1:],
    "torch_was_loaded": "torch" in sys.modules,
}
path = Path(os.environ["SHOW_DIR"]) / rank
path.with_suffix(".new").write_text(json.dumps(told))
path.with_suffix(".new").rename(path)
time.sleep(60 if waits else 0)
sys.exit(int(os.environ.get("CODE", "0")) if rank in ("1", "alone") else 0)
