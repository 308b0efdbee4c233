"""Stopping on request."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from bert_large.train.stopping import StopRequest

from tests.support.runs import process_environment


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_come_together_are_one_request(number: signal.Signals) -> None:
    """As from a scheduler that signals every process of a job, and a launcher among them that passes it on."""
    request = StopRequest()
    request.install()
    assert request.signal_number == 0
    for sent in (number, number, signal.SIGTERM, signal.SIGINT):
        os.kill(os.getpid(), sent)
        assert request.signal_number == number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_later_signal_ends_the_process(number: signal.Signals) -> None:
    program = f"""
import os
from bert_large.train import stopping
stopping.ONE_REQUEST_SECONDS = 0.0
stopping.StopRequest().install()
for _ in range(3):
    os.kill(os.getpid(), {number.value})
    print("goes on", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=process_environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (-number.value, "goes on\n"), done.stderr
