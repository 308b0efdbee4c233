"""Signs of life between ranks: when one dies, hangs or is cut off, the others end with an error that names it.

Two threads per rank do the work, since the main thread may be blocked in a collective. One writes the rank's beat into
a key-value store that all ranks reach, and reads the beats of the others. From these, a rank finds two kinds of faults:

- A rank whose beats stop is lost: its process is dead or stopped, or its host is cut off.
- A rank that still beats but makes no progress, while others wait for it in a collective, hangs.

The rank that finds a fault writes it into its own beat, so that all ranks report the same one, and ends its process.
The second thread guards the first, which blocks if the host of the store, rank 0's, is cut off.

Printing comes last. A stream can be full, closed or blocked, and the process must end all the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from torch import distributed

from bert_large.log import log_to_file_only
from bert_large.standard_streams import print_error_at_once

BEATS_IN_SILENCE = 10
"""A rank is lost when it has missed this many beats in a row."""
_BEATS_IN_DOUBT = 4
"""The same limit after a collective has failed, which shows that something is wrong."""
_CLOSING_SECONDS = 5.0
_LAST_MESSAGES_SECONDS = 5.0
"""How long a process that must end may take to write its messages."""
_ADVICE = "Run the same command again on all hosts to resume from the last checkpoint"


@dataclass
class Beat:
    """The state of a rank that it sends to the others."""

    number: int = 0
    """Beats sent so far."""
    moves: int = 0
    """Incremented whenever the rank makes progress."""
    meetings: int = 0
    """Collectives that the rank has arrived at. Ranks that have arrived at more of them wait for it."""
    doing: str = "starting"
    verdict: str = ""
    """The reason why the run must end, once there is one."""


class RankWatch:
    """Decides from the beats of all ranks which one, if any, is lost or hangs.

    It has no clock, but counts how often this rank has looked and found nothing new. A rank that was itself stopped, or
    got no CPU time, therefore does not mistake the others for dead when it resumes.
    """

    def __init__(self, names: Sequence[str], *, beat_seconds: float, stall_seconds: float) -> None:
        """Watch the ranks `names`, which beat every `beat_seconds` and must make progress within `stall_seconds`."""
        self.in_doubt = False
        """Whether a collective has failed, so that fewer missed beats are enough."""
        self._names = names
        self._beat_seconds = beat_seconds
        self._stall_beats = stall_seconds / beat_seconds
        self._beats = [Beat() for _ in names]
        self._missed = [0] * len(names)
        """How many times in a row each rank had sent no new beat."""
        self._still = [0] * len(names)
        """How many times in a row each rank had made no progress."""
        self._missed_replies = 0

    def update(self, beats: Sequence[Beat]) -> str | None:
        """Compare the latest beats of all ranks with the ones before; return a fault, or None."""
        self._missed_replies = 0
        for rank, (last, beat) in enumerate(zip(self._beats, beats, strict=True)):
            self._missed[rank] = self._missed[rank] + 1 if beat.number == last.number else 0
            self._still[rank] = self._still[rank] + 1 if beat.moves == last.moves else 0
        self._beats = list(beats)
        verdict = next((beat.verdict for beat in beats if beat.verdict), None)
        return verdict or self._find_silent() or self._find_stalled()

    def count_missed_reply(self) -> str | None:
        """Count one more beat without an answer of the store; return a fault after too many, None before."""
        self._missed_replies += 1
        if self._missed_replies < self._patience():
            return None
        return (
            f"{self._names[0]} has been unreachable for {self._seconds(self._missed_replies)} s: it has exited, or "
            f"the network between its host and this one is cut. {_ADVICE}"
        )

    def _find_silent(self) -> str | None:
        silent = [rank for rank, missed in enumerate(self._missed) if missed >= self._patience()]
        if not silent:
            return None
        return (
            f"{self._list(silent)}: no sign of life for {self._seconds(max(self._missed))} s; the process is dead or "
            f"stopped, or its host is cut off. {_ADVICE}"
        )

    def _find_stalled(self) -> str | None:
        stalled = [rank for rank, still in enumerate(self._still) if still >= self._stall_beats]
        last = max(beat.meetings for beat in self._beats)
        behind = [rank for rank in stalled if self._beats[rank].meetings < last]
        if not behind and len(stalled) < len(self._names):
            return None
        named = behind or stalled
        return (
            f"{self._list(named)}: no progress for {self._seconds(self._still[named[0]])} s"
            f"{', while others wait' if behind else ''}; {'it' if len(named) == 1 else 'each'} has hung, or its "
            f"current operation takes longer than --rank-timeout. {_ADVICE}"
        )

    def _patience(self) -> int:
        return _BEATS_IN_DOUBT if self.in_doubt else BEATS_IN_SILENCE

    def _list(self, ranks: Sequence[int]) -> str:
        return ", ".join(f"{self._names[rank]} (last: {self._beats[rank].doing})" for rank in ranks)

    def _seconds(self, beats: int) -> str:
        return f"{beats * self._beat_seconds:.0f}"


def announce(store: distributed.Store, rank: int) -> None:
    """Write a rank's first beat, so that the others find one when they look."""
    _write(store, rank, Beat())


def _write(store: distributed.Store, rank: int, beat: Beat) -> None:
    store.set(f"beat/{rank}", json.dumps(dataclasses.asdict(beat)))


class Heartbeat:
    """Sends the beats of this rank and watches those of the others, in background threads."""

    def __init__(
        self, store: distributed.Store, rank: int, names: Sequence[str], *, silence_seconds: float, stall_seconds: float
    ) -> None:
        """`store` needs a connection of its own; all ranks must have called `announce` on it.

        Calls of the store block while its host is cut off. `names` are the names of all ranks in messages. A rank is
        lost after `silence_seconds` without a beat, and hangs after `stall_seconds` without progress.
        """
        self._store, self._rank, self._names = store, rank, names
        self._beat_seconds = silence_seconds / BEATS_IN_SILENCE
        self._watch = RankWatch(names, beat_seconds=self._beat_seconds, stall_seconds=stall_seconds)
        self._beat = Beat()
        self._fault: str | None = None
        self._answered = threading.Event()
        """Set when the store has answered since the guard last looked."""
        self._hurry = threading.Event()
        """Set to send the next beat at once."""
        self._found = threading.Event()
        """Set when a fault is known and written to the store, if that can be reached."""
        self._left_to_main = threading.Event()
        """Set when the main thread is ending the process."""
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=task, daemon=True) for task in (self._beat_on, self._guard_store)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def note(self, doing: str) -> None:
        """Record progress and the current activity."""
        self._beat.doing = doing
        self._beat.moves += 1

    def meet(self) -> None:
        """Record that this rank has arrived at the next collective."""
        self._beat.meetings += 1
        self._beat.moves += 1

    def explain(self) -> str | None:
        """Return the fault that made a collective fail on this rank; None if all other ranks are well."""
        self._left_to_main.set()
        self._watch.in_doubt = True
        self._found.wait(BEATS_IN_SILENCE * self._beat_seconds)
        return self._fault

    def report_failure(self, reason: str) -> None:
        """Send the reason why this rank exits to the others."""
        self._left_to_main.set()
        self._beat.verdict = f"{self._names[self._rank]} failed: {reason}"
        self._hurry.set()
        self._found.wait(self._beat_seconds)
        time.sleep(self._beat_seconds)  # if this rank hosts the store, the others must read it before it ends

    @property
    def is_closed(self) -> bool:
        """Whether all ranks are about to leave."""
        return self._closed.is_set()

    def close(self) -> None:
        """Stop the threads, because all ranks are about to leave.

        A thread that is still in the store's C++ code when the interpreter exits would abort the process.
        """
        self._left_to_main.set()
        self._closed.set()
        self._hurry.set()
        for thread in self._threads:
            thread.join(timeout=_CLOSING_SECONDS)

    def _beat_on(self) -> None:
        while not self._closed.is_set():
            try:
                fault = self._exchange()
            except Exception:  # the connection is broken for good: the guard finds that there are no replies
                return
            if fault:
                self._judge(fault)
                return
            self._hurry.wait(self._beat_seconds)
            self._hurry.clear()

    def _exchange(self) -> str | None:
        self._beat.number += 1
        _write(self._store, self._rank, self._beat)
        values = self._store.multi_get([f"beat/{rank}" for rank in range(len(self._names))])
        self._answered.set()
        return self._watch.update([Beat(**json.loads(value)) for value in values])

    def _judge(self, fault: str) -> None:
        """Send the fault to the other ranks, and end this one unless its main thread is about to do so."""
        self._fault = self._beat.verdict = fault
        with contextlib.suppress(Exception):  # the store may be out of reach
            self._exchange()
        self._found.set()
        time.sleep(self._beat_seconds)  # the others read it, and a main thread that fails too ends the process itself
        self._end(fault)

    def _guard_store(self) -> None:
        """End this rank if the store, on the host of rank 0, does not answer: the other thread may be blocked."""
        while not self._closed.wait(self._beat_seconds):
            fault = None if self._answered.is_set() else self._watch.count_missed_reply()
            self._answered.clear()
            if fault:
                self._fault = self._fault or fault
                self._found.set()
                self._end(self._fault)

    def _end(self, fault: str) -> None:
        if not self._left_to_main.is_set():
            end_process(fault)


def end_process(fault: str) -> NoReturn:
    """End this process with exit code 1, from any thread: the main thread may be blocked forever.

    The fault is printed and logged first if that is possible. Writing can fail, for example on a full disk, or block:
    on a pipe that nobody reads, or on a lock that the main thread holds. A timer ends the process in any case.
    """
    with contextlib.suppress(RuntimeError):  # the limit of threads may be reached
        threading.Timer(_LAST_MESSAGES_SECONDS, os._exit, (1,)).start()
    print_error_at_once(f"bert-large: error: {fault}")
    with contextlib.suppress(Exception):
        log_to_file_only(f"error: {fault}")
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(1)
