"""What the container's base image has, where there is one."""

from __future__ import annotations

import sys
from pathlib import Path


def describe_base_image(note: Path = Path(sys.prefix, "base_image.txt")) -> str | None:
    """Return one line with what the base image says it has and lacks; None outside of the images of docker/."""
    return f"base image: {note.read_text(encoding='utf-8').strip()}" if note.is_file() else None
