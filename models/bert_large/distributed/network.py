"""Names, addresses, routes and free ports of this host. Nothing is sent except queries to name servers."""

from __future__ import annotations

import array
import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

_SIOCGIFCONF = 0x8912
_REQUEST_BYTES = 40  # struct ifreq on 64-bit Linux
_MOST_ADDRESSES = 256
_ANY_PORT = 9


def own_names() -> set[str]:
    """Return the names of this host: short, as configured, and fully qualified."""
    name = socket.gethostname()
    return {name, name.split(".")[0], socket.getfqdn()}


def resolve(host: str) -> set[str]:
    """Return the addresses of a host; an empty set if none are known."""
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except OSError:
        return set()


def own_interfaces() -> dict[str, str]:
    """Return the network interface of each address of this host."""
    room = array.array("B", bytes(_MOST_ADDRESSES * _REQUEST_BYTES))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        answer = fcntl.ioctl(asked, _SIOCGIFCONF, struct.pack("iL", len(room), room.buffer_info()[0]))
    interfaces = {}
    for start in range(0, struct.unpack("iL", answer)[0], _REQUEST_BYTES):
        entry = room[start : start + _REQUEST_BYTES].tobytes()
        label = entry[:16].split(b"\0")[0].decode()
        interfaces[socket.inet_ntoa(entry[20:24])] = label.split(":")[0]  # eth0:1 is another address of eth0
    ipv6 = Path("/proc/net/if_inet6")  # the request above returns IPv4 addresses only
    for line in ipv6.read_text().splitlines() if ipv6.exists() else []:
        address, *_, name = line.split()
        interfaces[str(ipaddress.ip_address(bytes.fromhex(address)))] = name
    return interfaces


def free_port() -> int:
    """Return a TCP port of the loopback interface that no program listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def source_address(host: str) -> str | None:
    """Return the address from which this host reaches a host; None if it has no route to it."""
    try:
        for family, kind, *_, address in socket.getaddrinfo(host, _ANY_PORT, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind) as route:
                route.connect(address)
                return str(route.getsockname()[0])
    except OSError:
        pass
    return None


def is_loopback(address: str) -> bool:
    """Return whether an address is one that never leaves the host."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
