"""Data sets by name, through `datasets`: from Hugging Face's hub, or from what it has kept of an earlier download."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bert_large.errors import InputError

if TYPE_CHECKING:
    from datasets import DatasetDict


def load_from_hub(name: str, configuration: str) -> DatasetDict:
    """Return the splits of a data set; raise `InputError` where neither the network nor the cache has it."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return load_dataset(name, configuration)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:  # the network's errors are OSErrors
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise InputError(
            f"{name} ({configuration}) could not be loaded from Hugging Face's hub: {reason}; give its files with "
            "--data-dir, or a network (HTTPS_PROXY) or a cache (HF_HOME) that has it"
        ) from error
