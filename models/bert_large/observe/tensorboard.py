"""TensorBoard's event files: scalars that are in the file as soon as they are told, each step once.

An event file is a TFRecord file of `Event` messages (tensorboard/compat/proto/event.proto). They are written here, not
by a library's `SummaryWriter`: those write from a thread of their own, which a full disk ends without a word.
"""

from __future__ import annotations

import io
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from bert_large.data.formats.tfrecord import iterate_frames, write_records
from bert_large.data.record import BadRecordError
from bert_large.storage.atomic import GrowingFile, write_atomically

_PREFIX = "events.out.tfevents"
_LOGGER = logging.getLogger(__name__)


class EventFile:
    """A new event file in a folder, beside those that earlier processes of the run have left there."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Open the file; readers drop what they know of `first_step` and later ones."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{_PREFIX}.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = GrowingFile(folder / name)
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._append(Event(wall_time=time.time(), step=first_step, session_log=start))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write values by their tags."""
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._append(Event(wall_time=time.time(), step=step, summary=summary))

    def flush_to_disk(self) -> None:
        """Put all events on disk."""
        self._file.flush_to_disk()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _append(self, event: Event) -> None:
        frame = io.BytesIO()
        write_records(frame, [event.SerializeToString()])
        self._file.append(frame.getvalue())


def keep_events(folder: Path, is_kept: Callable[[int, str], bool]) -> bool:
    """Drop events of which `is_kept(step, tag)` is false, and what a kill cut short; the others stay as they are.

    Of damage before the last event it warns: no kill leaves that. Tells whether there is any event left.
    """
    is_any_left = False
    for path in folder.glob(f"{_PREFIX}*"):
        found = _read_events(path)
        if damaged := found[:-1].count(None):
            _LOGGER.warning("warning: %s is damaged in %d places: events there are dropped", path, damaged)
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
    """Return the events of a file, None for each damaged stretch; what a kill cut short is one, too."""
    return [None if isinstance(payload, BadRecordError) else _parse(payload) for _, payload in iterate_frames(path)]


def _parse(payload: bytes) -> Event | None:
    try:
        return Event.FromString(payload)
    except DecodeError:
        return None
