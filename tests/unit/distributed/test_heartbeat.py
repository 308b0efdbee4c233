"""The decisions of the watch, beat by beat, the threads of several ranks over one store, and the end of a process."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from bert_large.distributed import heartbeat
from bert_large.distributed.heartbeat import Beat, Heartbeat, RankWatch, announce
from torch.distributed import Store

SILENCE_SECONDS = 0.5
NAMES = ["rank 0 on host a", "rank 1 on host b", "rank 2 on host b"]


class Course:
    """Beats of three ranks, every 2 s, with 20 s for progress, and a watch that receives them."""

    def __init__(self) -> None:
        self.watch = RankWatch(NAMES, beat_seconds=2.0, stall_seconds=20.0)
        self.beats = [Beat() for _ in NAMES]
        self.update(moving=(0, 1, 2))

    def update(
        self, times: int = 1, *, beating: tuple[int, ...] = (0, 1, 2), moving: tuple[int, ...] = ()
    ) -> str | None:
        """Let ranks beat, and those in `moving` make progress, some times; return the last fault."""
        found = None
        for _ in range(times):
            for rank in beating:
                self.beats[rank].number += 1
            for rank in moving:
                self.beats[rank].moves += 1
            found = self.watch.update([dataclasses.replace(beat) for beat in self.beats])
        return found


def test_ranks_that_beat_and_move_are_well() -> None:
    assert Course().update(100, moving=(0, 1, 2)) is None


def test_a_silent_rank_is_lost_after_ten_beats() -> None:
    course = Course()
    course.beats[1].doing = "step 3: 8/16 sequences"
    course.update()
    assert course.update(9, beating=(0, 2), moving=(0, 2)) is None
    found = course.update(beating=(0, 2), moving=(0, 2))
    assert found is not None
    assert found.startswith("rank 1 on host b (last: step 3: 8/16 sequences): no sign of life for 20 s")


def test_a_beat_in_time_is_enough() -> None:
    course = Course()
    for _ in range(5):
        assert course.update(9, beating=(0, 2), moving=(0, 2)) is None
        assert course.update(moving=(1,)) is None


def test_after_a_failed_collective_four_beats_are_enough() -> None:
    course = Course()
    course.watch.in_doubt = True
    assert course.update(3, beating=(0, 2)) is None
    assert "rank 1 on host b" in str(course.update(beating=(0, 2)))


def test_all_ranks_of_a_host_that_is_cut_off_are_named() -> None:
    found = str(Course().update(10, beating=(0,), moving=(0,)))
    assert "rank 1 on host b (last: starting), rank 2 on host b (last: starting): no sign of life" in found


def test_a_rank_that_keeps_others_waiting_hangs() -> None:
    """Rank 1 has arrived at one collective less; the others make no progress because they wait for it."""
    course = Course()
    course.beats[0].meetings = course.beats[2].meetings = 5
    course.beats[1].meetings = 4
    course.beats[1].doing = "step 9: waiting for data"
    course.update(moving=(0, 1, 2))
    assert course.update(9) is None
    found = course.update()
    assert found is not None
    assert found.startswith("rank 1 on host b (last: step 9: waiting for data): no progress for 20 s")
    assert "--rank-timeout" in found and "rank 0" not in found


def test_the_time_is_that_of_the_rank_that_hangs() -> None:
    """Rank 0 waits for 10 s longer."""
    course = Course()
    course.beats[0].meetings = course.beats[2].meetings = 5
    course.beats[1].meetings = 4
    course.update(moving=(0, 1, 2))
    course.update(5, moving=(1,))
    found = str(course.update(10))
    assert found.startswith("rank 1 on host b") and "no progress for 20 s" in found


def test_a_slow_rank_that_moves_does_not_hang() -> None:
    course = Course()
    course.beats[0].meetings = course.beats[2].meetings = 1
    for _ in range(20):
        assert course.update(9) is None
        assert course.update(moving=(1,)) is None


def test_ranks_that_all_wait_for_one_another() -> None:
    found = str(Course().update(10))
    assert all(name in found for name in NAMES) and "no progress for 20 s" in found
    assert "others wait" not in found


def test_the_verdict_of_another_rank_is_taken_over() -> None:
    course = Course()
    course.beats[2].verdict = "rank 1 on host b failed: no space left"
    assert course.update() == "rank 1 on host b failed: no space left"


def test_a_store_that_does_not_answer_is_rank_0s_host() -> None:
    course = Course()
    assert [course.watch.count_missed_reply() for _ in range(9)] == [None] * 9
    course.update()  # an answer after all
    assert [course.watch.count_missed_reply() for _ in range(9)] == [None] * 9
    assert str(course.watch.count_missed_reply()).startswith("rank 0 on host a has been unreachable for 20 s")


class MemoryStore:
    """A key-value store; calls block while `reachable` is not set."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.reachable = threading.Event()
        self.reachable.set()

    def set(self, key: str, value: str) -> None:
        self.reachable.wait()
        self.values[key] = value

    def multi_get(self, keys: list[str]) -> list[bytes]:
        self.reachable.wait()
        return [self.values[key].encode() for key in keys]


Make = Callable[[int], Heartbeat]


@pytest.fixture
def store() -> MemoryStore:
    """A store in which three ranks have announced themselves."""
    store = MemoryStore()
    for rank in range(len(NAMES)):
        announce(cast(Store, store), rank)
    return store


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The faults for which processes would have ended; this one continues."""
    ended: list[str] = []
    monkeypatch.setattr(heartbeat, "end_process", ended.append)
    return ended


@pytest.fixture
def make(store: MemoryStore, ended: list[str]) -> Iterator[Make]:
    """Return a function that starts the heartbeat of a rank, with ten beats in half a second.

    All are closed before `ended` is undone, because on a busy machine one may find a fault at any time.
    """
    made: list[Heartbeat] = []

    def make(rank: int) -> Heartbeat:
        made.append(Heartbeat(cast(Store, store), rank, NAMES, silence_seconds=SILENCE_SECONDS, stall_seconds=60))
        made[-1].start()
        return made[-1]

    yield make
    store.reachable.set()
    for started in made:
        started.close()


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_others_end_for_a_rank_without_beats(make: Make, ended: list[str]) -> None:
    """Both name it, no matter which of them finds it first."""
    make(0)
    make(2)
    wait_until(lambda: len(ended) == 2)
    assert ended[0] == ended[1] and ended[0].startswith("rank 1 on host b")


def test_ranks_that_are_well_continue(make: Make, ended: list[str]) -> None:
    for rank in range(3):
        make(rank).note("step 1")
    time.sleep(2 * SILENCE_SECONDS)
    assert ended == []


def test_a_blocked_store_ends_the_rank(make: Make, store: MemoryStore, ended: list[str]) -> None:
    for rank in range(3):
        make(rank)
    store.reachable.clear()
    wait_until(lambda: len(ended) >= 3)
    assert all(fault.startswith("rank 0 on host a has been unreachable") for fault in ended)


def test_a_failure_ends_the_others(make: Make, ended: list[str]) -> None:
    """The rank that fails ends itself."""
    ranks = [make(rank) for rank in range(3)]
    ranks[1].report_failure("no space left")
    wait_until(lambda: len(ended) == 2)
    assert set(ended) == {"rank 1 on host b failed: no space left"}


def test_a_failed_collective_is_explained(make: Make, ended: list[str]) -> None:
    """To the main thread, which then ends the rank itself."""
    explanation = make(0).explain()
    assert explanation is not None and "rank 1 on host b (last: starting), rank 2 on host b" in explanation
    time.sleep(0.1)
    assert ended == []


def test_a_failed_collective_among_ranks_that_are_well(make: Make, ended: list[str]) -> None:
    ranks = [make(rank) for rank in range(3)]
    assert ranks[0].explain() is None
    assert ended == []


END = """
import os, sys, threading
from bert_large.distributed import heartbeat
from bert_large.log import start_logging
from pathlib import Path
heartbeat._LAST_MESSAGES_SECONDS = 1.0
start_logging(Path(sys.argv[1]))
if sys.argv[2] == "blocked":  # nobody reads the pipe, and it is full
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writer, True)
    os.dup2(writer, 2)
elif sys.argv[2] == "full":
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
elif sys.argv[2] == "closed":
    sys.stderr = sys.stdout = None
threading.Thread(target=heartbeat.end_process, args=("rank 1 is lost",)).start()
threading.Event().wait()
"""


@pytest.mark.parametrize("stderr", ["open", "full", "blocked", "closed"])
def test_a_process_ends_whatever_becomes_of_its_messages(tmp_path: Path, stderr: str) -> None:
    """Its main thread waits forever, and writing to standard error fails, or blocks."""
    log = tmp_path / "train.log"
    done = subprocess.run(
        [sys.executable, "-c", END, str(log), stderr], capture_output=True, timeout=60, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert ("rank 1 is lost" in done.stderr) == (stderr == "open")
    assert ("rank 1 is lost" in log.read_text()) == (stderr != "blocked")
