"""Model folders by the name that they have on Hugging Face's hub."""

from __future__ import annotations

import re
from pathlib import Path

from bert_large.errors import InputError
from bert_large.extras import missing_extra
from bert_large.log import LOGGER

_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+", re.ASCII)
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
    try:
        import huggingface_hub
    except ImportError as error:
        raise missing_extra(f"CHECKPOINT_DIR {place}, which is not a folder but may be a model of the hub,", "hub",
                            error) from error  # fmt: skip
    try:
        folder = Path(huggingface_hub.snapshot_download(str(place), allow_patterns=_wanted_files(str(place))))
    except (OSError, ValueError, RuntimeError, huggingface_hub.errors.HfHubHTTPError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise InputError(
            f"CHECKPOINT_DIR {place} is not a folder here, and no model of this name can be got from the hub: "
            f"{reason.strip()}. Give a folder, or OWNER/NAME of a model; without a network, download it elsewhere and "
            "copy its folder"
        ) from None
    LOGGER.info("model %s of the hub: %s", place, folder)
    return folder


def _wanted_files(name: str) -> list[str]:
    """Return patterns of the files to download, without PyTorch's weights if there are safetensors files."""
    import huggingface_hub

    try:
        names = huggingface_hub.list_repo_files(name)
    except (OSError, RuntimeError):  # the copy in the cache will do, if there is one
        return list(_FILES)
    whole = any(file.endswith(".safetensors") and "/" not in file for file in names)
    return [pattern for pattern in _FILES if not (whole and pattern.endswith(".bin"))]
