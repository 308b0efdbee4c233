"""oneCCL's libraries are found in the metadata of their packages, and its variables fit the ranks of the host."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bert_large.distributed.ccl import libraries
from bert_large.distributed.ccl.libraries import (
    OneCcl,
    OneCclMissingError,
    describe_transport,
    find_oneccl,
    has_oneccl,
    remove_stale_segments,
    transport_variables,
    worker_variables,
)

PACKAGES = {
    "oneccl-cpu": ["lib/libccl.so.1", "lib/libccl.so"],
    "oneccl-cpu-devel": ["include/oneapi/ccl.hpp"],
    "impi-rt": ["lib/libfabric.so.1", "lib/libtcp-fi.so"],
}
ONECCL = OneCcl("2021.16.2", Path("/env/lib/libccl.so.1"), Path("/env/include"), Path("/env/lib/libfabric.so.1"))


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Python environment with the three packages, and no others."""
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    for package, files in PACKAGES.items():
        information = site / f"{package.replace('-', '_')}-2021.16.2.dist-info"
        information.mkdir(parents=True)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2021.16.2\n")
        (information / "RECORD").write_text("".join(f"../../../{file},,\n" for file in files))
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
    monkeypatch.setattr("sys.path", [str(site)])
    find_oneccl.cache_clear()
    yield tmp_path
    find_oneccl.cache_clear()


def test_the_libraries_are_found(environment: Path) -> None:
    folder = environment.resolve()
    assert find_oneccl() == OneCcl(
        "2021.16.2", folder / "lib/libccl.so.1", folder / "include", folder / "lib/libfabric.so.1"
    )
    assert has_oneccl()


@pytest.mark.parametrize(
    ("lost", "package"), [("lib/libccl.so.1", "oneccl-cpu 2021"), ("include/oneapi/ccl.hpp", "oneccl-cpu-devel 2021"),
                          ("lib/libfabric.so.1", "impi-rt 2021")]
)  # fmt: skip
def test_a_release_without_a_file(environment: Path, lost: str, package: str) -> None:
    """As later releases of oneccl-cpu, which need the library of another package."""
    (environment / lost).unlink()
    with pytest.raises(OneCclMissingError, match=f"{package}.*{Path(lost).name}"):
        find_oneccl()
    assert not has_oneccl()


def test_packages_that_are_not_installed(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(OneCclMissingError, match="oneccl-cpu"):
        find_oneccl()


def test_workers_share_the_last_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of bound ranks the last of their own; ranks that are not bound take turns. The user's values stay."""
    bound = worker_variables({}, local_rank=1, local_ranks=3, cpus=[4, 5, 6])
    assert bound["CCL_WORKER_AFFINITY"] == "5,5,5" and bound["CCL_YIELD"] == "sleep"
    assert worker_variables({}, local_rank=0, local_ranks=2, cpus=[7])["CCL_WORKER_AFFINITY"] == "7,7"
    two = worker_variables({"CCL_WORKER_COUNT": "2"}, local_rank=0, local_ranks=2, cpus=[0, 1])
    assert two["CCL_WORKER_AFFINITY"] == "1,1,1,1" and "CCL_WORKER_COUNT" not in two
    assert "CCL_YIELD" not in worker_variables({"CCL_YIELD": "pause"}, local_rank=0, local_ranks=1, cpus=[0])


@pytest.mark.parametrize(
    ("free", "one_host", "shared"), [(1 << 27, True, "0"), ((1 << 27) + 1, True, "1"), (1 << 30, False, "0")]
)
def test_shared_memory_is_used_if_it_suffices(
    free: int, one_host: bool, shared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing to a segment that does not fit would end the process."""
    monkeypatch.setattr(libraries, "_free_shared_bytes", lambda: free)
    assert transport_variables(ONECCL, {}, local_ranks=2, one_host=one_host)["CCL_ATL_SHM"] == shared


def test_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP on gloo's first interface; with RDMA devices libfabric chooses the provider."""
    monkeypatch.setattr(libraries, "_INFINIBAND", tmp_path / "infiniband")
    variables = transport_variables(ONECCL, {"GLOO_SOCKET_IFNAME": "eth1,eth1"}, local_ranks=1, one_host=True)
    assert variables["FI_PROVIDER"] == "tcp"
    assert variables["FI_TCP_IFACE"] == variables["CCL_KVS_IFACE"] == "eth1"
    assert variables["FI_PROVIDER_PATH"] == "/env/lib"
    assert "provider tcp" in describe_transport(ONECCL, variables)
    (tmp_path / "infiniband" / "mlx5_0").mkdir(parents=True)
    assert "FI_PROVIDER" not in transport_variables(ONECCL, {}, local_ranks=1, one_host=True)
    assert "FI_PROVIDER" not in transport_variables(ONECCL, {"FI_PROVIDER": "psm3"}, local_ranks=1, one_host=True)


def test_segments_of_dead_processes_are_removed(tmp_path: Path) -> None:
    """Not those of running processes, new ones, or other files."""
    dead = next(number for number in range(2**22 - 1, 1, -1) if not Path(f"/proc/{number}").exists())
    names = {f"{dead}:0:0": False, f"{os.getpid()}:0:0": True, f"{dead}:0:1": True, "a:0:0": True, f"{dead}:0": True}
    for name in names:
        (tmp_path / name).touch()
        if name != f"{dead}:0:1":
            os.utime(tmp_path / name, (time.time() - 100,) * 2)
    remove_stale_segments(tmp_path)
    assert {name: (tmp_path / name).exists() for name in names} == names
