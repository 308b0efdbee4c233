"""The hosts of a run: how many there are, which one this is, the address of the first, and the interface to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bert_large.distributed import network
from bert_large.errors import InputError

MAX_PORT = 65535
_MAX_NUMBER = 100_000
_BEYOND = "192.0.2.1"
"""An address for documentation that no host has (RFC 5737), so its route is the default route."""


@dataclass(frozen=True)
class Host:
    """A host in a host file, and its number of ranks if the file states it."""

    name: str
    ranks: int | None = None


@dataclass(frozen=True)
class Machines:
    """The hosts of a run, as torchrun needs them."""

    count: int = 1
    own_position: int = 0
    master: str | None = None
    own_ranks: int | None = None
    """Number of ranks of this host in the host file."""
    others: tuple[str, ...] = ()
    """The other hosts in the host file."""


def find_machines(variables: Mapping[str, str]) -> Machines:
    """Return the hosts that NNODES, NODE_RANK, MASTER_ADDR and HOSTFILE describe; raises `InputError`."""
    count = whole_number(variables, "NNODES", least=1)
    position = whole_number(variables, "NODE_RANK", least=0)
    master = variables.get("MASTER_ADDR") or None
    own_ranks: int | None = None
    others: tuple[str, ...] = ()
    if variables.get("HOSTFILE"):
        path = Path(variables["HOSTFILE"])
        hosts = read_hostfile(path)
        if count is not None and count != len(hosts):
            raise InputError(f"NNODES is {count}, but HOSTFILE {path} names {len(hosts)} hosts; make them agree")
        count = len(hosts)
        if position is None:
            position = _find_own_position(hosts, path)
        if position < count:
            own_ranks = hosts[position].ranks
        others = tuple(host.name for index, host in enumerate(hosts) if index != position)
        master = master or hosts[0].name
    count = count or 1
    if count > 1 and (position is None or master is None):
        missing = " and ".join(
            name for name, value in (("NODE_RANK", position), ("MASTER_ADDR", master)) if value is None
        )
        raise InputError(f"NNODES is {count}, but {missing} is not set; set it, or list all hosts in a HOSTFILE")
    if (position or 0) >= count:
        raise InputError(f"NODE_RANK is {position}, expected 0 to {count - 1}, because NNODES is {count}")
    return Machines(count, position or 0, master, own_ranks, others)


def whole_number(variables: Mapping[str, str], name: str, *, least: int, most: int = _MAX_NUMBER) -> int | None:
    """Return a variable's whole number, None if it is not set or empty; refuse all but `least` to `most`."""
    value = variables.get(name)
    if not value:
        return None
    digits = len(str(most))  # checked first, because Python refuses to convert very long numbers
    if not (value.isascii() and value.isdigit() and len(value) <= digits and least <= int(value) <= most):
        raise InputError(f"{name} is {value[:40]!r}, expected a whole number from {least} to {most}")
    return int(value)


def read_hostfile(path: Path) -> list[Host]:
    """Return the hosts listed in a file in one of MPI's forms, in order and each once.

    A line is `host`, `host slots=2` (Open MPI) or `host:2` (Intel MPI, MPICH); `#` begins a comment. The number is the
    host's number of ranks. If a host has several lines, as schedulers write one for every task, the numbers are added.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # without the byte order mark of some editors
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"HOSTFILE {path} cannot be read: {error}") from None
    given: dict[str, list[int | None]] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if words:
            host = _parse_host(words)
            if host is None:
                raise InputError(
                    f"HOSTFILE {path}, line {number}: {line.strip()!r}, expected 'host', 'host slots=N' or 'host:N'"
                )
            given.setdefault(host.name, []).append(host.ranks)
    if not given:
        raise InputError(f"HOSTFILE {path} names no host; expected one per line")
    return [
        Host(name, None if counts == [None] else sum(count or 1 for count in counts)) for name, counts in given.items()
    ]


def _parse_host(words: Sequence[str]) -> Host | None:
    """Return the host in the words of a line; None if they are in none of the known forms."""
    name, *settings = words
    ranks = None
    if name.count(":") == 1:  # an IPv6 address has more
        name, ranks = name.split(":")
    for setting in settings:
        key, separator, value = setting.partition("=")
        if key not in ("slots", "max_slots", "max-slots") or not separator:
            return None
        if key == "slots":
            ranks = value
    if not name or (
        ranks is not None and not (ranks.isascii() and ranks.isdigit() and len(ranks) <= 5 and int(ranks) > 0)
    ):
        return None
    return Host(name, None if ranks is None else int(ranks))


def _find_own_position(hosts: Sequence[Host], path: Path) -> int:
    """Return the position of this host in a host file, found by name, else by address."""
    names = network.own_names() | ({"localhost"} if len(hosts) == 1 else set())
    own = [index for index, host in enumerate(hosts) if host.name in names]
    if not own:
        addresses = {address for address in network.own_interfaces() if not network.is_loopback(address)}
        own = [index for index, host in enumerate(hosts) if network.resolve(host.name) & addresses]
    if len(own) == 1:
        return own[0]
    found = "none of the hosts" if not own else " and ".join(hosts[index].name for index in own)
    raise InputError(
        f"HOSTFILE {path}: {found} is this host, named {', '.join(sorted(names))}, expected exactly one; "
        "correct the file, or set NODE_RANK to this host's position in it, from 0"
    )


def find_interface(machines: Machines) -> str:
    """Return the network interface over which this host and the others reach each other.

    By default, gloo uses the interface of the address that the host's own name resolves to. On Debian that is the
    loopback interface, over which ranks on different hosts wait for each other forever. Raises `InputError` if no
    interface can be determined.
    """
    everything = network.own_interfaces()
    if machines.master in ("localhost", "127.0.0.1", "::1"):  # all ranks are on this host
        return everything["127.0.0.1"]
    interfaces = {address: name for address, name in everything.items() if not network.is_loopback(address)}
    for host in (*machines.others, machines.master, _BEYOND):
        source = network.source_address(host) if host else None
        if source in interfaces:
            return interfaces[source]
    if len(set(interfaces.values())) == 1:
        return next(iter(interfaces.values()))
    names = ", ".join(sorted(set(interfaces.values()))) or "none"
    raise InputError(
        f"no network interface leads to {machines.master} (found: {names}); "
        "check MASTER_ADDR, or set GLOO_SOCKET_IFNAME to the interface"
    )
