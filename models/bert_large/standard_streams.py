"""Standard output and error that may be missing, closed by their reader, or on a full disk."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def open_missing() -> None:
    """Open on /dev/null the standard streams that this process was started without.

    Otherwise the next file or socket would get their descriptor, and messages would be written into it.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # returns the lowest free descriptor, which is this one
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115 - it lives as long as the process


def discard(stream: TextIO) -> None:
    """Send the buffered text of a broken standard stream, and all text to come, to /dev/null.

    Python flushes standard streams at its end, and would otherwise turn that failure into exit code 120.
    """
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def flush_or_discard(stream: TextIO) -> None:
    """Flush a standard stream; if that fails, discard its text."""
    try:
        stream.flush()
    except (OSError, ValueError):
        discard(stream)


def print_error(text: str) -> None:
    """Print a line to standard error, if that is possible: no message may prevent what follows it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        discard(sys.stderr)


def print_error_at_once(line: str) -> None:
    """Print a line to standard error past Python's buffer and its lock, for a process that is about to end.

    Another thread may hold that lock, on a stream that blocks. Failures are ignored.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), f"{line}\n".encode(errors="backslashreplace"))
