"""Helper processes that do not outlive who started them."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """End this helper process when the one that started it is gone, even if that was killed.

    Python's pools and loaders notice an orderly end only: after a kill their processes would stay for ever.
    """
    threading.Thread(target=_wait_and_exit, daemon=True).start()


def _wait_and_exit() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
