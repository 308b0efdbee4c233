"""Data sets by name, through `datasets`: from Hugging Face's hub, or from its cache of an earlier download."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bert_large.errors import InputError

if TYPE_CHECKING:
    from datasets import DatasetDict


def load_from_hub(name: str, configuration: str | None = None, revision: str | None = None) -> DatasetDict:
    """Return the splits of a data set; raise `InputError` if neither the network nor the cache has it."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    described = name if configuration is None else f"{name} ({configuration})"
    try:
        return load_dataset(name, configuration, revision=revision)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:  # network errors are OSErrors
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise InputError(
            f"{described} could not be loaded from Hugging Face's hub: {reason}; give its files with "
            "--data-dir, or provide a network (HTTPS_PROXY) or a cache (HF_HOME) that has it"
        ) from error
