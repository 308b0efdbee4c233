"""JSON files that this package wrote: read back, or an error that says what was found instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bert_large.errors import DamageError

_SHOWN_CHARACTERS = 60


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; raises `DamageError` where that is not what the file holds.

    A file that is not there is `FileNotFoundError`.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamageError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, cut short, nested without end
        raise DamageError(f"{path} is damaged: it is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise DamageError(f"{path} is damaged: found {str(content)[:_SHOWN_CHARACTERS]!r}, expected a JSON object")
    return content
