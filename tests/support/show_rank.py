"""A program for tests of the launcher: writes its environment and arguments to a file, and exits with CODE.

With WAIT it waits for a signal, and takes the time of a step and a checkpoint to end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def end_slowly(number: int, _: object) -> None:
    time.sleep(0.5)
    Path(os.environ["SHOW_DIR"], f"{rank}.ended").touch()
    sys.exit(128 + number)


waits = "WAIT" in os.environ
if waits:
    for handled in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(handled, end_slowly)
rank = os.environ.get("RANK", "alone")
shown = {
    "process": os.getpid(),
    "cpus": sorted(os.sched_getaffinity(0)),
    "environment": dict(os.environ),
    "arguments": sys.argv[1:],
    "torch_was_loaded": "torch" in sys.modules,
}
path = Path(os.environ["SHOW_DIR"]) / rank
path.with_suffix(".new").write_text(json.dumps(shown))
path.with_suffix(".new").rename(path)
time.sleep(60 if waits else 0)
sys.exit(int(os.environ.get("CODE", "0")) if rank in ("1", "alone") else 0)
