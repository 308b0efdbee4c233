"""A Slurm cluster for tests: a controller and two nodes on this machine, with their own settings and ports."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.runs import PROJECT, free_port

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "unshare", "setpriv")
NODES = ("node1", "node2")
START_SECONDS = 60
JOB_SECONDS = 300

# Jobs of partition `high` preempt those of `low`, which get GraceTime. A requeued job waits for cred_expire, or two
# minutes if that is less than 5 s.
SETTINGS = """\
ClusterName=tests
SlurmctldHost=localhost
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=5
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=60 MaxTime=INFINITE
PartitionName=high Nodes=ALL PriorityTier=2 PreemptMode=OFF MaxTime=INFINITE
"""


def missing_requirements() -> list[str]:
    """Return the missing requirements of a cluster; empty if there are none."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return [*(["root"] if os.geteuid() != 0 else []), *missing]


@dataclass(frozen=True)
class Cluster:
    """A running cluster."""

    settings: Path

    def run(
        self, *command: str, variables: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command or script with this cluster's settings in the project's folder."""
        done = subprocess.run(
            command, env={**os.environ, **(variables or {}), "SLURM_CONF": str(self.settings)},
            cwd=PROJECT, capture_output=True, text=True, timeout=JOB_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done

    def job(self, number: str) -> dict[str, str]:
        """Return Slurm's fields of a job: JobState, Restarts, ExitCode …"""
        text = self.run("scontrol", "--oneliner", "show", "job", number).stdout
        return dict(re.findall(r"(\w+)=(\S*)", text))

    def wait_for(self, number: str, *states: str) -> dict[str, str]:
        """Wait until a job is in one of these states, and return its fields."""
        deadline = time.monotonic() + JOB_SECONDS
        while (job := self.job(number))["JobState"] not in states:
            assert time.monotonic() < deadline, job
            time.sleep(0.1)
        return job

    def end_jobs(self) -> None:
        """Cancel every job and wait until none is left."""
        self.run("scancel", "--user", "root")
        deadline = time.monotonic() + START_SECONDS
        while self.run("squeue", "--noheader").stdout and time.monotonic() < deadline:
            time.sleep(0.1)


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Run a cluster with its files in `folder`, whose path must be short, because paths of sockets are limited.

    Its nodes see their own /etc/hosts, in which their names are addresses of this machine.
    """
    settings = folder / "slurm.conf"
    nodes = "".join(
        f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={free_port()} CPUs={os.cpu_count()}\n"
        for node in NODES
    )
    settings.write_text(nodes + SETTINGS.format(folder=folder, controller_port=free_port()))
    hosts = folder / "hosts"
    hosts.write_text(f"{Path('/etc/hosts').read_text()}\n127.0.0.1 {' '.join(NODES)}\n")
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    files = {"key": key, **{name: folder / f"munge-{name}" for name in ("pid", "log", "seed")}}
    munge = [f"--socket={folder}/munge.socket", *(f"--{name}-file={path}" for name, path in files.items())]
    (folder / "state").mkdir()
    with_own_hosts = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts))
    with ExitStack() as stack:
        stack.enter_context(daemon(folder, "munged", ["munged", "--foreground", *munge]))
        stack.enter_context(daemon(folder, "slurmctld", ["slurmctld", "-D", "-f", str(settings)]))
        for node in NODES:
            command = [*with_own_hosts, "slurmd", "-D", "-N", node, "-f", str(settings)]
            stack.enter_context(daemon(folder, node, command))
        cluster = Cluster(settings)
        deadline = time.monotonic() + START_SECONDS
        while cluster.run("sinfo", "--noheader", "--format=%T %D", "--partition=low", check=False).stdout != "idle 2\n":
            assert time.monotonic() < deadline, logs(folder)
            time.sleep(0.1)
        stack.callback(cluster.end_jobs)
        yield cluster


@contextmanager
def daemon(folder: Path, name: str, command: Sequence[str]) -> Iterator[None]:
    """Run a daemon with its output in a file; it ends with this process, even if that is killed."""
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def logs(folder: Path) -> str:
    """Return the last lines of the output of all daemons."""
    return "\n".join(f"{path.name}:\n{path.read_text()[-1000:]}" for path in sorted(folder.glob("*.log")))
