"""Why an accelerated encoder uses Hugging Face's own forward pass."""

from __future__ import annotations

from bert_large.log import LOGGER


class UnsupportedError(Exception):
    """The kernels cannot compute an encoder or a call of it; the message is the reason."""


class Reasons:
    """The reasons that were warned about."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def warn(self, reason: str) -> None:
        """Warn that the original forward pass is used, once for each reason."""
        if reason not in self._known:
            self._known.add(reason)
            LOGGER.warning("warning: using Hugging Face's forward pass instead of the accelerated one: %s", reason)
