"""Fuzz one reader, led by coverage: `python -m tests.fault.fuzz TARGET RUNS [libFuzzer's options]`.

Needs the package's extra [fuzz]; `make fuzz` runs all targets. An input that takes over ten seconds or a process that
takes over 2 GiB is a finding like a wrong exception; libFuzzer writes the input to a file and prints its name. That
file's name in place of RUNS runs it again.
"""

from __future__ import annotations

import shutil
import sys

import atheris

with atheris.instrument_imports(include=["bert_large"]):
    from tests.fault.fuzz.seeds import write_seeds
    from tests.fault.fuzz.targets import TARGETS, folder


def main() -> None:
    """Fuzz until the runs are done or something is found; exits with libFuzzer's code."""
    if len(sys.argv) < 3 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: python -m tests.fault.fuzz {{{','.join(TARGETS)}}} RUNS|FILE [OPTION ...]")
    target, runs, *options = sys.argv[1:]
    if runs.isdigit():
        seeds = folder() / "seeds"
        write_seeds(target, seeds)
        options = [f"-runs={runs}", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", *options, str(seeds)]
    else:
        options = [runs, *options]
    atheris.Setup([sys.argv[0], *options], TARGETS[target])
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(folder())


main()
