"""Model folders by the name that they have on Hugging Face's hub."""

from __future__ import annotations

import re
from pathlib import Path

from bert_large.errors import InputError
from bert_large.log import LOGGER

_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+", re.ASCII)
_SECONDS = 10.0
"""Time in which the hub must answer."""
_FILES = ("*.json", "vocab.txt", "*.safetensors", "pytorch_model*.bin")


def is_hub_name(place: Path) -> bool:
    """Return whether a path means a model of the hub: OWNER/NAME, where no folder here is called so, nor OWNER."""
    return bool(_NAME.fullmatch(str(place))) and not place.exists() and not place.parent.exists()


def model_folder(place: Path | str) -> Path:
    """Return a model folder; OWNER/NAME is downloaded to the cache of `huggingface_hub`, or found there.

    Weights in safetensors files are preferred: others are then not downloaded. Raises `InputError` if there is no such
    model, or no network and no copy in the cache.
    """
    place = Path(place)
    if not is_hub_name(place):
        return place
    import huggingface_hub  # takes a while, and a path needs none of it

    name = str(place)
    try:
        files = huggingface_hub.HfApi().model_info(name, timeout=_SECONDS).siblings or []
        whole = any(file.rfilename.endswith(".safetensors") and "/" not in file.rfilename for file in files)
        wanted = [pattern for pattern in _FILES if not (whole and pattern.endswith(".bin"))]
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # of the library, or of its HTTP client, whose kinds differ between versions
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
        folder = _cached(name, reason)
    LOGGER.info("model %s of the hub: %s", name, folder)
    return folder


def _cached(name: str, reason: str) -> Path:
    """Return the copy of a model in the cache; raise `InputError` with the reason why it could not be downloaded."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        raise InputError(
            f"CHECKPOINT_DIR {name} is not a folder here, and the hub gives no model of this name: {reason}. Give a "
            "folder, or OWNER/NAME of a model; without a network, download it elsewhere and copy its folder"
        ) from None
