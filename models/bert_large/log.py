"""The package's logger: lines on standard output, and all of them in a run's log file."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path

from tqdm import tqdm

from bert_large.errors import WriteError
from bert_large.storage.atomic import GrowingFile

LOGGER = logging.getLogger("bert_large")


class _LineFormatter(logging.Formatter):
    """A time and the message; bytes of a path that are no UTF-8, which files and terminals refuse, are spelled out."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).encode(errors="backslashreplace").decode()


class _BarSafeHandler(logging.Handler):
    """Prints to standard output above a progress bar, if one is drawn, what the bar does not show already."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "shown_by_bar", False) and sys.stdout.isatty():
            return
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


class LogFileHandler(logging.Handler):
    """Appends to a file, and raises what befalls it, such as a full disk; Python's own prints it and goes on."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = GrowingFile(path)

    def emit(self, record: logging.LogRecord) -> None:
        self._file.append(f"{self.format(record)}\n".encode())

    def close(self) -> None:
        self._file.close()
        super().close()


def start_logging(log_file: Path | None) -> None:
    """Send the package's log to standard output and `log_file`; ranks without a file stay silent below warnings."""
    handlers: list[logging.Handler] = [_BarSafeHandler()]
    if log_file is not None:
        handlers.append(LogFileHandler(log_file))
    for handler in handlers:
        handler.setFormatter(_LineFormatter())
    LOGGER.handlers = handlers
    LOGGER.setLevel(logging.INFO if log_file is not None else logging.WARNING)
    LOGGER.propagate = False


def log_to_file_only(text: str) -> None:
    """Write a line to the log file, for what is printed elsewhere; a disk that takes no line must not hide it."""
    for handler in LOGGER.handlers:
        if isinstance(handler, LogFileHandler):
            with contextlib.suppress(WriteError):
                handler.handle(LOGGER.makeRecord(LOGGER.name, logging.ERROR, "", 0, text, (), None))
