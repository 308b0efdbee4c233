"""Signs of life between ranks, so that the others end, and name the culprit, when one dies, hangs or is cut off.

A thread of every rank writes its beat into a key-value store that all ranks reach, and reads those of the others. A
rank whose beats stay away is lost: its process is dead or stopped, or its host is cut off. A rank that beats on but
does not get on with its work, while others wait for it in a collective, hangs. A rank that finds such a fault says so
in its own beat, so that all name the same one; its main thread, blocked in a collective, is ended with the process.
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

BEATS_IN_SILENCE = 10
"""Beats in a row that a lost rank has missed."""
_BEATS_IN_DOUBT = 4
"""The same once a collective has failed, when something is wrong for certain."""
_CLOSING_SECONDS = 5.0
_ADVICE = "Start the same command again on all hosts to go on from the last checkpoint"


@dataclass
class Beat:
    """What a rank tells the others of itself."""

    number: int = 0
    """Beats sent so far."""
    moves: int = 0
    """Grows whenever the rank gets on with its work."""
    meetings: int = 0
    """Collectives that it has come to: ranks with more of them wait for it."""
    doing: str = "starting"
    verdict: str = ""
    """Why the run must end, once it must."""


class RankWatch:
    """Decides from beats which rank, if any, the others wait for in vain.

    It has no clock: it counts how often this rank has looked and found nothing new. So a rank that was stopped itself,
    or starved of its processor, does not take the others for dead when it wakes.
    """

    def __init__(self, names: Sequence[str], *, beat_seconds: float, stall_seconds: float) -> None:
        """Watch the ranks of these names, which beat every `beat_seconds` and may take `stall_seconds` for a move."""
        self.in_doubt = False
        """A collective has failed: less evidence is enough."""
        self._names = names
        self._beat_seconds = beat_seconds
        self._stall_beats = stall_seconds / beat_seconds
        self._beats = [Beat() for _ in names]
        self._missed = [0] * len(names)
        """Times in a row that each rank had sent no new beat."""
        self._still = [0] * len(names)
        """Times in a row that each rank was found where it was."""
        self._missed_replies = 0

    def hear(self, beats: Sequence[Beat]) -> str | None:
        """Take in what the store has of every rank; return what is wrong, None while all is well."""
        self._missed_replies = 0
        for rank, (last, beat) in enumerate(zip(self._beats, beats, strict=True)):
            self._missed[rank] = self._missed[rank] + 1 if beat.number == last.number else 0
            self._still[rank] = self._still[rank] + 1 if beat.moves == last.moves else 0
        self._beats = list(beats)
        verdict = next((beat.verdict for beat in beats if beat.verdict), None)
        return verdict or self._find_silent() or self._find_stalled()

    def miss_reply(self) -> str | None:
        """Note that the store has not answered for the time of a beat; return what is wrong, None at first."""
        self._missed_replies += 1
        if self._missed_replies < self._patience():
            return None
        return (
            f"{self._names[0]} cannot be reached for {self._seconds(self._missed_replies)} s: it has ended, or the "
            f"network between its host and this one is cut. {_ADVICE}"
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
        return (
            f"{self._list(behind or stalled)}: no progress for {self._seconds(self._still[stalled[0]])} s, while "
            f"others wait for it; it hangs, or does what takes longer than --rank-timeout. {_ADVICE}"
        )

    def _patience(self) -> int:
        return _BEATS_IN_DOUBT if self.in_doubt else BEATS_IN_SILENCE

    def _list(self, ranks: Sequence[int]) -> str:
        return ", ".join(f"{self._names[rank]} (last: {self._beats[rank].doing})" for rank in ranks)

    def _seconds(self, beats: int) -> str:
        return f"{beats * self._beat_seconds:.0f}"


def announce(store: distributed.Store, rank: int) -> None:
    """Leave a rank's first beat, for others not to look for it in vain."""
    _write(store, rank, Beat())


def _write(store: distributed.Store, rank: int, beat: Beat) -> None:
    store.set(f"beat/{rank}", json.dumps(dataclasses.asdict(beat)))


class Heartbeat:
    """This rank's beat and its watch over the others, in threads of their own."""

    def __init__(
        self, store: distributed.Store, rank: int, names: Sequence[str], *, silence_seconds: float, stall_seconds: float
    ) -> None:
        """Beat into `store`, a connection that nothing else uses, as calls block while its host is cut off.

        All ranks have announced themselves in it. `names` are all ranks', for messages. A rank is lost after
        `silence_seconds` without a beat, and hangs after `stall_seconds` without a move.
        """
        self._store, self._rank, self._names = store, rank, names
        self._beat_seconds = silence_seconds / BEATS_IN_SILENCE
        self._watch = RankWatch(names, beat_seconds=self._beat_seconds, stall_seconds=stall_seconds)
        self._beat = Beat()
        self._fault: str | None = None
        self._answered = threading.Event()
        """The store has answered since the guard last looked."""
        self._hurry = threading.Event()
        """Set to send the next beat at once."""
        self._found = threading.Event()
        """A fault is known, and told to the others if they can be reached."""
        self._left_to_main = threading.Event()
        """The main thread is ending the process."""
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=task, daemon=True) for task in (self._beat_on, self._guard_store)]

    def start(self) -> None:
        """Begin to beat and to watch."""
        for thread in self._threads:
            thread.start()

    def note(self, doing: str) -> None:
        """Note that this rank gets on, and with what."""
        self._beat.doing = doing
        self._beat.moves += 1

    def meet(self) -> None:
        """Note that this rank has come to the next collective."""
        self._beat.meetings += 1
        self._beat.moves += 1

    def explain(self) -> str | None:
        """Return which rank is why a collective has failed here; None if all are well, but for this one perhaps."""
        self._left_to_main.set()
        self._watch.in_doubt = True
        self._found.wait(BEATS_IN_SILENCE * self._beat_seconds)
        return self._fault

    def tell_failure(self, reason: str) -> None:
        """Tell the other ranks that this one is about to end, unless they end for the same reason."""
        if self._closed.is_set():
            return
        self._left_to_main.set()
        self._beat.verdict = f"{self._names[self._rank]} failed: {reason}"
        self._hurry.set()
        self._found.wait(self._beat_seconds)
        time.sleep(self._beat_seconds)  # where this rank is the store's host, the others must read it before it ends

    def close(self) -> None:
        """Watch no longer: all ranks are about to leave.

        A thread that were still in the store's C++ code when Python ends would abort the process.
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
            except RuntimeError:  # the connection is broken for good: the guard will miss the replies
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
        return self._watch.hear([Beat(**json.loads(value)) for value in values])

    def _judge(self, fault: str) -> None:
        """Tell the fault to the other ranks, and end this one unless its main thread is about to do so."""
        self._fault = self._beat.verdict = fault
        with contextlib.suppress(RuntimeError):  # they cannot be told
            self._exchange()
        self._found.set()
        time.sleep(self._beat_seconds)  # others read it meanwhile, and a main thread that fails too says so itself
        self._end(fault)

    def _guard_store(self) -> None:
        """End this rank when the store's host, which is rank 0's, does not answer: the other thread may be blocked."""
        while not self._closed.wait(self._beat_seconds):
            fault = None if self._answered.is_set() else self._watch.miss_reply()
            self._answered.clear()
            if fault:
                self._fault = self._fault or fault
                self._found.set()
                self._end(self._fault)

    def _end(self, fault: str) -> None:
        if not self._left_to_main.is_set():
            end_process(fault)


def end_process(fault: str) -> NoReturn:
    """End this process at once, from any thread: the main one may be blocked for ever."""
    sys.stderr.write(f"bert-large: error: {fault}\n")
    sys.stderr.flush()
    log_to_file_only(f"error: {fault}")
    sys.stdout.flush()
    os._exit(1)
