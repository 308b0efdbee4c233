"""The base image of the container that this process runs in."""

from __future__ import annotations

import sys
from pathlib import Path


def describe_base_image(note: Path = Path(sys.prefix, "base_image.txt")) -> str | None:
    """Return one line that lists what the base image contains and lacks; None outside the images of docker/."""
    return f"base image: {note.read_text(encoding='utf-8').strip()}" if note.is_file() else None
