"""TensorBoard event files: each scalar is in the file as soon as it is recorded, and each step is there once.

An event file is a TFRecord file of `Event` messages (tensorboard/compat/proto/event.proto). We do not use a library's
`SummaryWriter`: it writes from a thread, which a full disk ends silently, and it cannot delete the events after the
checkpoint from which a run resumes.
"""

from __future__ import annotations

import io
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from bert_large.data.record import BadRecordError
from bert_large.data.tfrecord import iterate_frames, write_records
from bert_large.log import LOGGER
from bert_large.storage.atomic import GrowingFile, write_atomically

_PREFIX = "events.out.tfevents"
_NAME = re.compile(re.escape(_PREFIX) + r"\.(\d+)")


class EventFile:
    """A new event file in a folder, beside those of the run's earlier processes."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Create the file; readers discard what earlier files say about `first_step` and later steps."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = GrowingFile(folder / f"{_PREFIX}.{_next_number(folder):010d}.{socket.gethostname()}.{os.getpid()}")
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._append(Event(wall_time=time.time(), step=first_step, session_log=start))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write values by tag."""
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._append(Event(wall_time=time.time(), step=step, summary=summary))

    def flush_to_disk(self) -> None:
        """Flush all events to disk."""
        self._file.flush_to_disk()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, event: Event) -> None:
        frame = io.BytesIO()
        write_records(frame, [event.SerializeToString()])
        self._file.append(frame.getvalue())


def _next_number(folder: Path) -> int:
    """Return the time in seconds, as in the names of TensorBoard's own files, but above that of any existing file.

    TensorBoard reads the files in the order of their names and each start discards later steps. A clock that was set
    back, or that of another host, must not place a new file before the files that it continues.
    """
    found = [int(match[1]) for path in folder.glob(f"{_PREFIX}*") if (match := _NAME.match(path.name))]
    return max([int(time.time()), *(number + 1 for number in found)])


def keep_events(folder: Path, is_kept: Callable[[int, str], bool]) -> bool:
    """Delete events for which `is_kept(step, tag)` is false, and a last one that was cut short; keep others unchanged.

    Logs a warning about damage before the last event, which a kill does not cause. Returns whether events are left.
    """
    is_any_left = False
    for path in folder.glob(f"{_PREFIX}*"):
        found = _read_events(path)
        if damaged := found[:-1].count(None):
            LOGGER.warning("warning: %s is damaged in %d places: the events there are deleted", path, damaged)
        events = [event for event in found if event is not None]
        kept = [event for event in events if all(is_kept(event.step, value.tag) for value in event.summary.value)]
        if not any(event.HasField("summary") for event in kept):
            path.unlink()
            continue
        is_any_left = True
        if len(kept) < len(found):
            with write_atomically(path) as file:
                write_records(file, [event.SerializeToString() for event in kept])
    return is_any_left


def _read_events(path: Path) -> list[Event | None]:
    """Return the events of a file, with None for each damaged stretch and for an event that was cut short."""
    return [None if isinstance(payload, BadRecordError) else _parse(payload) for _, payload in iterate_frames(path)]


def _parse(payload: bytes) -> Event | None:
    try:
        return Event.FromString(payload)
    except DecodeError:
        return None
