"""Numbers on the command line, each checked to be finite and in its range."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

_MOST = 1_000_000


def integer(least: int, most: int = _MOST) -> Callable[[str], int]:
    """Return an argparse type for integers from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r}, expected an integer from {least} to {most}")
        return value

    return parse


def positive_number(text: str) -> float:
    """Parse a finite number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= _MOST:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number above 0, at most {_MOST}")
    return value
