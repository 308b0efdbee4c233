"""Two hosts on one machine: connected network namespaces, each with a host name."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

_INTERFACE = "eth0"


@dataclass(frozen=True)
class Host:
    """One of the two hosts."""

    name: str
    address: str

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        """Start a command on the host, which sees the file system of this machine."""
        named = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name)
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *named, *command],
            env={**os.environ, "GLOO_SOCKET_IFNAME": _INTERFACE, **variables},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def cut_off(self) -> None:
        """Take the link down: nothing arrives, and no connection is closed."""
        _ip("-n", self.name, "link", "set", _INTERFACE, "down")

    def connect(self) -> None:
        """Take the link up."""
        _ip("-n", self.name, "link", "set", _INTERFACE, "up")


def missing_for_hosts() -> list[str]:
    """Return the missing requirements of hosts; empty if there are none."""
    missing = [tool for tool in ("ip", "unshare", "hostname") if shutil.which(tool) is None]
    return [*(["root"] if os.geteuid() != 0 else []), *missing]


class HostsError(Exception):
    """The system refuses to create network namespaces."""


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Create two connected hosts for the block."""
    hosts = tuple(Host(f"node-{letter}-{os.getpid()}", f"10.77.0.{number}") for number, letter in ((1, "a"), (2, "b")))
    first, second = hosts
    with ExitStack() as stack:
        for host in hosts:
            _ip("netns", "add", host.name)
            stack.callback(_ip, "netns", "delete", host.name)
            _ip("-n", host.name, "link", "set", "lo", "up")
        _ip("-n", first.name, "link", "add", _INTERFACE, "type", "veth", "peer", _INTERFACE, "netns", second.name)
        for host in hosts:
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", _INTERFACE)
            host.connect()
        yield first, second


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HostsError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
