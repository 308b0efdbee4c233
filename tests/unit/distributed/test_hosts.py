"""The machines of a run, from variables and host files, and the interface between them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from bert_large.distributed import network
from bert_large.distributed.hosts import Host, Machines, find_interface, find_machines, read_hostfile
from bert_large.errors import InputError


@pytest.fixture
def hostfile(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text("node-a\nnode-b slots=4\nnode-c:2\n")
    return path


@pytest.fixture
def on_node_b(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a machine named node-b with two interfaces, on a network that knows node-a to node-c.

    As on Debian, its own name resolves to an address of the loopback interface.
    """
    addresses = {"node-a": "10.0.0.1", "node-b": "127.0.1.1", "node-c": "10.0.0.3", "b-alias": "10.0.0.2"}
    monkeypatch.setattr(network, "own_names", lambda: {"node-b", "node-b.cluster"})
    monkeypatch.setattr(network, "resolve", lambda host: {addresses[host]} if host in addresses else set())
    interfaces = {"127.0.0.1": "lo", "10.0.0.2": "ib0", "192.168.1.2": "eth0"}
    monkeypatch.setattr(network, "own_interfaces", lambda: interfaces)

    def source_address(host: str) -> str | None:
        address = addresses.get(host, host)
        if address.startswith("10.0.0."):
            return "10.0.0.2"
        if address.startswith("127."):
            return "127.0.0.1"
        return "192.168.1.2" if address[0].isdigit() else None

    monkeypatch.setattr(network, "source_address", source_address)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\n", [Host("a"), Host("b")]),
        ("# all\n\n  a  # the first\nb slots=4\n", [Host("a"), Host("b", 4)]),
        ("a slots=2 max_slots=8\nb:3\n", [Host("a", 2), Host("b", 3)]),
        ("a\na\nb\nb\n", [Host("a", 2), Host("b", 2)]),
        ("\ufeffa\r\nb\r\n", [Host("a"), Host("b")]),  # as editors on Windows save it
        ("b:2\na\nb:1\n", [Host("b", 3), Host("a")]),
        ("fd00::1\n10.0.0.1:2", [Host("fd00::1"), Host("10.0.0.1", 2)]),
    ],
)
def test_host_files(text: str, expected: list[Host], tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(text)
    assert read_hostfile(tmp_path / "hosts") == expected


@pytest.mark.parametrize(
    "line",
    ["a slots=0", "a slots=two", "a slots", "a:", ":3", "a:x", "a b", "a gpus=2", "a:-1", "a:٣", "a:9999999"],
)
def test_wrong_lines_are_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text(f"fine\n{line}\n")
    with pytest.raises(InputError, match=r"hosts, line 2: "):
        read_hostfile(tmp_path / "hosts")


def test_host_files_without_hosts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing"):
        read_hostfile(tmp_path / "missing")
    (tmp_path / "hosts").write_text("# nothing\n")
    with pytest.raises(InputError, match="hosts"):
        read_hostfile(tmp_path / "hosts")


def test_alone() -> None:
    assert find_machines({}) == find_machines({"NNODES": "1", "HOSTFILE": ""}) == Machines()


def test_from_variables() -> None:
    variables = {"NNODES": "3", "NODE_RANK": "2", "MASTER_ADDR": "node-a"}
    assert find_machines(variables) == Machines(3, 2, "node-a")


@pytest.mark.usefixtures("on_node_b")
def test_a_host_file_describes_all_machines(hostfile: Path) -> None:
    expected = Machines(3, 1, "node-a", own_ranks=4, others=("node-a", "node-c"))
    assert find_machines({"HOSTFILE": str(hostfile)}) == expected
    assert find_machines({"HOSTFILE": str(hostfile), "NNODES": "3"}) == expected


@pytest.mark.usefixtures("on_node_b")
def test_variables_take_precedence_over_the_host_file(hostfile: Path) -> None:
    given = {"HOSTFILE": str(hostfile), "NODE_RANK": "2", "MASTER_ADDR": "10.9.9.9"}
    assert find_machines(given) == Machines(3, 2, "10.9.9.9", own_ranks=2, others=("node-a", "node-b"))


@pytest.mark.usefixtures("on_node_b")
@pytest.mark.parametrize(("name", "position"), [("node-b.cluster", 1), ("b-alias", 1), ("10.0.0.2", None)])
def test_this_machine_is_found_by_name_or_address(
    name: str, position: int | None, hostfile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if position is None:
        monkeypatch.setattr(network, "resolve", lambda host: {host})
    hostfile.write_text(f"node-a\n{name}\n")
    assert find_machines({"HOSTFILE": str(hostfile)}).own_position == 1


def test_one_host_may_be_called_localhost(hostfile: Path) -> None:
    hostfile.write_text("localhost slots=2\n")
    assert find_machines({"HOSTFILE": str(hostfile)}) == Machines(1, 0, "localhost", own_ranks=2)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NNODES": "2"}, "NNODES is 2, .*NODE_RANK and MASTER_ADDR"),
        ({"NNODES": "2", "NODE_RANK": "0"}, "NNODES is 2, .*MASTER_ADDR"),
        ({"NNODES": "2", "MASTER_ADDR": "a"}, "NNODES is 2, .*NODE_RANK"),
        ({"NNODES": "2", "NODE_RANK": "2", "MASTER_ADDR": "a"}, "NODE_RANK is 2, .*0 to 1"),
        ({"NNODES": "0"}, "NNODES is '0'"),
        ({"NODE_RANK": "-1"}, "NODE_RANK is '-1'"),
        ({"NNODES": "9" * 5000}, "NNODES is '999"),
        ({"NNODES": "٣"}, "NNODES is '٣'"),
        ({"NNODES": "2", "HOSTFILE": "hosts"}, "NNODES is 2, .*HOSTFILE .*hosts .*3"),
        ({"HOSTFILE": "hosts", "NODE_RANK": "3"}, "NODE_RANK is 3, expected 0 to 2"),
        ({"HOSTFILE": "strangers"}, "HOSTFILE .*strangers: .*node-b, node-b.cluster"),
        ({"HOSTFILE": "twice"}, "HOSTFILE .*twice: node-b and node-b.cluster"),
    ],
)
@pytest.mark.usefixtures("on_node_b")
def test_contradictions_are_named(variables: dict[str, str], message: str, hostfile: Path) -> None:
    (hostfile.parent / "strangers").write_text("node-a\nnode-c\n")
    (hostfile.parent / "twice").write_text("node-b\nnode-b.cluster\n")
    if "HOSTFILE" in variables:
        variables = variables | {"HOSTFILE": str(hostfile.parent / variables["HOSTFILE"])}
    with pytest.raises(InputError, match=message):
        find_machines(variables)


@pytest.mark.usefixtures("on_node_b")
@pytest.mark.parametrize(
    ("machines", "interface"),
    [
        (Machines(2, 1, "node-a"), "ib0"),
        (Machines(2, 0, "10.0.0.2"), "ib0"),  # the address of the master itself
        (
            Machines(2, 0, "node-b", others=("node-c",)),
            "ib0",
        ),  # the name of the master itself: the interface to another host
        (Machines(2, 0, "node-b"), "eth0"),  # the same without a host file: the default route
        (Machines(2, 1, "172.16.0.9"), "eth0"),
        (Machines(2, 1, "127.0.0.1"), "lo"),
    ],
)
def test_the_interface_that_leads_to_the_others(machines: Machines, interface: str) -> None:
    """Never the loopback interface, except when all ranks are on this machine."""
    assert find_interface(machines) == interface


def test_without_a_route(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single interface is used; with several, none can be determined."""
    monkeypatch.setattr(network, "source_address", lambda host: None)
    monkeypatch.setattr(network, "own_interfaces", lambda: {"127.0.0.1": "lo", "10.0.0.2": "ib0"})
    assert find_interface(Machines(2, 1, "node-a")) == "ib0"
    monkeypatch.setattr(network, "own_interfaces", lambda: {"10.0.0.2": "ib0", "192.168.1.2": "eth0"})
    with pytest.raises(InputError, match=r"node-a .*eth0, ib0"):
        find_interface(Machines(2, 1, "node-a"))


def test_this_machines_network() -> None:
    assert network.own_interfaces()["127.0.0.1"] == "lo"
    assert set(network.own_interfaces().values()) <= {name for _, name in socket.if_nameindex()}
    assert network.source_address("127.0.0.1") == "127.0.0.1"
    assert network.resolve("127.0.0.1") == {"127.0.0.1"}
    assert network.source_address("no-such-host.invalid") is None and network.resolve("no-such-host.invalid") == set()
    assert socket.gethostname() in network.own_names()
    assert network.is_loopback("127.0.1.1") and network.is_loopback("::1") and not network.is_loopback("10.0.0.1")
