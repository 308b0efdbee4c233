"""Two hosts: network namespaces of this machine, on each of which the quickstart script is started."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from bert_large.distributed.ccl.libraries import has_oneccl
from bert_large.train.checkpoint import list_checkpoints

from tests.support.hosts import Host, HostsError, missing_for_hosts, two_hosts
from tests.support.runs import PROJECT, Task, assert_same_losses, finish, free_port, step_rows, wait_for_steps

pytestmark = pytest.mark.slow

NEEDS_ONECCL = pytest.mark.skipif(not has_oneccl(), reason="the extra ccl is not installed")
RUN = {"max_steps": 150, "save_every": 20, "eval_dir": "none"}


def no_hosts(reason: str) -> NoReturn:
    """Skip the test, or fail it if hosts are required."""
    if os.environ.get("REQUIRE_HOSTS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two connected hosts; without them tests are skipped, or fail with REQUIRE_HOSTS=1."""
    missing = missing_for_hosts()
    if missing:
        no_hosts(f"network namespaces need {', '.join(missing)}")
    try:
        with two_hosts() as made:
            yield made
    except HostsError as error:
        no_hosts(str(error))


@pytest.fixture(scope="module")
def one_rank(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run on one rank, undisturbed."""
    return task.run(tmp_path_factory.mktemp("hosts") / "one", **RUN)


def start(
    task: Task, hosts: tuple[Host, Host], outputs: tuple[Path, Path], backend: str
) -> list[subprocess.Popen[str]]:
    """Start phase 1 on both hosts as a user does, with an output folder for each."""
    settings = {**task.settings, **RUN}
    own_names = {"global_batch_size": "BATCH_SIZE"}
    variables = {own_names.get(name, name.upper()): str(value) for name, value in settings.items()}
    variables |= {
        "PRECISION": "fp32", "DATASET_DIR": str(task.dataset_dir), "CONFIG_FILE": str(task.config_file),
        "NNODES": "2", "MASTER_ADDR": hosts[0].address, "MASTER_PORT": str(free_port()), "BACKEND": backend,
        "PYTHON": sys.executable, "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    script = str(PROJECT / "quickstart" / "run_bert_pretrain_phase1.sh")
    return [
        host.start(script, "--data-workers", "0", **variables, NODE_RANK=str(number), OUTPUT_DIR=str(output))
        for number, (host, output) in enumerate(zip(hosts, outputs, strict=True))
    ]


@pytest.mark.parametrize("backend", ["gloo", pytest.param("ccl", marks=NEEDS_ONECCL)])
def test_a_host_that_is_cut_off(
    task: Task, hosts: tuple[Host, Host], one_rank: Path, tmp_path: Path, backend: str
) -> None:
    """Both ranks end and name the other one; connected again, they resume and have the losses of one rank.

    The hosts share no output folder: the first has all results, the second has none.
    """
    outputs = (tmp_path / "a", tmp_path / "b")
    processes = start(task, hosts, outputs, backend)
    wait_for_steps(outputs[0], 30)
    hosts[1].cut_off()
    results = finish(processes)
    for number, done in enumerate(results):
        assert done.returncode == 1, done.stderr
        assert f"error: rank {1 - number} on host {hosts[1 - number].name}" in done.stderr
    steps = len(step_rows(outputs[0]))
    assert 30 <= steps < 150
    assert list_checkpoints(outputs[0] / "checkpoints")

    hosts[1].connect()
    for done in finish(start(task, hosts, outputs, backend)):
        assert done.returncode == 0, done.stderr
    assert "resuming after step" in (outputs[0] / "train.log").read_text()
    assert_same_losses(outputs[0], one_rank)
    assert list(outputs[1].iterdir()) == []
