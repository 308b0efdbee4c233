"""A run's metrics as TensorBoard serves them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from bert_large.observe.metrics import read_rows
from bert_large.observe.metrics_writer import MetricsWriter

from tests.support.recorded_runs import record_run
from tests.support.runs import process_environment
from tests.support.training import EVALUATION, step_metrics

# TensorBoard's switch for running without TensorFlow, which takes seconds to import.
_TENSORBOARD = (
    "import sys, types; sys.modules['tensorboard.compat.notf'] = types.ModuleType('notf'); "
    "from tensorboard.main import run_main; run_main()"
)


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """Serve the runs in `folder`, and yield the address."""
    command = [sys.executable, "-c", _TENSORBOARD, "--logdir", str(folder), "--host", "127.0.0.1", "--port", "0",
               "--load_fast", "false", "--reload_interval", "0"]  # fmt: skip
    server = subprocess.Popen(command, env=process_environment(), stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        lines = []
        for line in server.stderr:
            lines.append(line)
            if address := re.search(r"at (http://127\.0\.0\.1:\d+)/", line):
                yield address[1]
                return
        pytest.fail("TensorBoard ended: " + "".join(lines))
    finally:
        server.terminate()
        server.communicate(timeout=60)


def ask(address: str, route: str, **query: str) -> Any:
    """Return the JSON reply of a route of the scalars API."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{address}/data/plugin/scalars/{route}?{urlencode(query)}", timeout=60) as reply:
        return json.load(reply)


def test_tensorboard_serves_all_metrics_once(tmp_path: Path) -> None:
    """For every step and evaluation of a run that was resumed."""
    run = record_run(tmp_path / "run", steps=6, skipped_at=3)
    resumed = MetricsWriter(run, 4)
    for step in (5, 6, 7):
        resumed.step(step_metrics(step, learning_rate=5e-4))
    resumed.evaluation(7, 56, EVALUATION)
    resumed.close()
    expected: dict[str, list[tuple[int, float]]] = {}
    for event, group in (("step", "train"), ("eval", "eval")):
        for row in read_rows(run / "metrics.jsonl", event):
            for name, value in row.items():
                if name not in ("event", "step") and value is not None:
                    expected.setdefault(f"{group}/{name}", []).append((row["step"], value))
    with tensorboard(tmp_path) as address:
        tags = ask(address, "tags")
        assert list(tags) == ["run/tensorboard"]
        assert set(tags["run/tensorboard"]) == set(expected)
        for tag, values in expected.items():
            served = ask(address, "scalars", run="run/tensorboard", tag=tag)
            assert [step for _, step, _ in served] == [step for step, _ in values], tag
            assert [value for *_, value in served] == pytest.approx([value for _, value in values], rel=1e-6), tag
