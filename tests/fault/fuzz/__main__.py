"""Fuzz one reader, led by coverage: `python -m tests.fault.fuzz TARGET RUNS [libFuzzer's options]`.

Needs the package's extra [fuzz]; `make fuzz` runs all targets. An input that takes over ten seconds or a process that
takes over 2 GiB is a finding, as an error that is not the documented one is: libFuzzer writes the input to a file and
prints its name. `python -m tests.fault.fuzz.one_round TARGET FILE` runs it again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fault.fuzz.seeds import write_seeds
from tests.fault.fuzz.targets import TARGETS

# Of every input that it led through our code atheris itself keeps some KiB, so a process must not have too many.
_ROUND = 50_000
_LIMITS = ("-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1")


def main() -> int:
    """Fuzz until the runs are done or something is found; returns libFuzzer's exit code."""
    if len(sys.argv) < 3 or sys.argv[1] not in TARGETS or not sys.argv[2].isdigit():
        sys.stderr.write(f"usage: python -m tests.fault.fuzz {{{','.join(TARGETS)}}} RUNS [OPTION ...]\n")
        return 2
    target, runs, options = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    memory = Path("/dev/shm")  # where the system has it: every input is a file
    with tempfile.TemporaryDirectory(prefix="bert-large-fuzz-", dir=memory if memory.is_dir() else None) as temporary:
        environment = os.environ | {"TMPDIR": temporary}  # libFuzzer ends its process without tidying up
        corpus = Path(temporary) / "inputs"
        write_seeds(target, corpus)
        for done in range(0, runs, _ROUND):
            words = [target, f"-runs={min(_ROUND, runs - done)}", *_LIMITS, *options, str(corpus)]
            command = [sys.executable, "-m", "tests.fault.fuzz.one_round", *words]
            code = subprocess.run(command, env=environment, check=False).returncode
            if code:
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
