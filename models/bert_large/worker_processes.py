"""Helper processes: they end with the process that started them, and the system must support their locks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from bert_large.errors import UserError


@contextmanager
def worker_pool(workers: int, remedy: str = "") -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of `workers` processes; when the block ends, work that has not started is cancelled.

    Raises `UserError` if a process is killed. Its message advises fewer --workers; `remedy` is appended to that.
    """
    require_semaphores()
    # Not forked: the caller may have threads (of a progress bar or PyTorch), and a fork would copy the locks they hold.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=start_worker) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise UserError(
                f"a worker process was killed, perhaps because {workers} processes need more memory than there is; run "
                f"again with fewer --workers{remedy}"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def start_worker() -> None:
    """Prepare a worker process of a pool: one core, no message on Ctrl-C, no life without its parent."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Ctrl-C reaches every process of the terminal; the parent reports it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()


def end_with_parent() -> None:
    """End this helper process when its parent ends, even if the parent was killed.

    Python's pools and loaders are only shut down by a parent that ends normally. After a kill, their processes would
    wait for work forever.
    """
    threading.Thread(target=_wait_and_exit, daemon=True).start()


def _wait_and_exit() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def require_semaphores() -> None:
    """Raise `UserError` if the system has no shared semaphores, which queues and pools of processes are made of.

    glibc keeps them as files in /dev/shm. Without it, Python's own error is "[Errno 2] No such file or directory".
    """
    try:
        multiprocessing.get_context("fork").Lock()  # the only context that needs no further process for a lock
    except OSError as error:
        raise UserError(
            f"helper processes cannot be started: no semaphore can be created in /dev/shm ({error.strerror}). Mount a "
            "tmpfs there that this user can write to: Docker and Podman do so by default, Kubernetes with an emptyDir "
            "of medium Memory"
        ) from None
