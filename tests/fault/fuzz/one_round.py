"""One process of fuzzing: `python -m tests.fault.fuzz.one_round TARGET [libFuzzer's options and folders or files]`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["bert_large"]):
    from tests.fault.fuzz.targets import TARGETS

atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
atheris.Fuzz()
