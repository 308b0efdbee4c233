"""The package's logger: lines on standard output, and all lines in a run's log file."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path

from tqdm import tqdm

from bert_large.errors import WriteError
from bert_large.standard_streams import discard, print_error
from bert_large.storage.atomic import GrowingFile

LOGGER = logging.getLogger("bert_large")


class _LineFormatter(logging.Formatter):
    """Escapes undecodable bytes of paths, which files and terminals reject."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).encode(errors="backslashreplace").decode()


class _ScreenHandler(logging.Handler):
    """Prints lines to standard output, above the progress bar if there is one.

    The log file has every line, so losing standard output (a closed pipe or terminal, a full disk) ends no run: from
    then on, lines go to the log file only.
    """

    def __init__(self) -> None:
        super().__init__()
        self._is_lost = False

    def emit(self, record: logging.LogRecord) -> None:
        if self._is_lost or (getattr(record, "shown_by_bar", False) and sys.stdout.isatty()):
            return
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except (OSError, ValueError) as error:
            self._is_lost = True
            discard(sys.stdout)
            reason = getattr(error, "strerror", None) or error
            text = f"warning: standard output cannot be written ({reason}); the log continues in the log file"
            print_error(text)
            LOGGER.warning(text)


class LogFileHandler(logging.Handler):
    """Appends lines to a file and raises write errors, such as a full disk, which `logging.FileHandler` only prints."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = GrowingFile(path)

    def emit(self, record: logging.LogRecord) -> None:
        self._file.append(f"{self.format(record)}\n".encode())

    def close(self) -> None:
        self._file.close()
        super().close()


def start_logging(log_file: Path | None) -> None:
    """Send the package's log to standard output and `log_file`; ranks without a file print warnings only."""
    handlers: list[logging.Handler] = [_ScreenHandler()]
    if log_file is not None:
        handlers.append(LogFileHandler(log_file))
    for handler in handlers:
        handler.setFormatter(_LineFormatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    LOGGER.handlers = handlers
    LOGGER.setLevel(logging.INFO if log_file is not None else logging.WARNING)
    LOGGER.propagate = False


def log_to_file_only(text: str) -> None:
    """Write a line that is printed elsewhere to the log file. A failure to write it must not hide what it reports."""
    for handler in LOGGER.handlers:
        if isinstance(handler, LogFileHandler):
            with contextlib.suppress(WriteError):
                handler.handle(LOGGER.makeRecord(LOGGER.name, logging.ERROR, "", 0, text, (), None))
