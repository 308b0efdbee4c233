"""A container engine for the tests: its daemon, a base image made from Debian's packages, and wheels by HTTP.

The engine creates no bridge and no firewall rules, so that it does not affect the machine. Builds use the machine's
network; containers have none.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import http.server
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PYTHON_IMAGE = "bert-large-tests/python:bookworm"
DEBIAN = "bookworm"
DEBIAN_PACKAGES = ("ca-certificates", "python3", "python3-pip", "python3-venv")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
CACHE = Path.home() / ".cache/bert-large-tests"
START_SECONDS = 60
MEMORY_FOR_DATA_BYTES = 40 << 30
"""Free memory above which the engine's data is kept in memory. It takes 8 GB, during a build twice as much; a file
system in memory may take half of the memory."""


def missing_requirements() -> list[str]:
    """Return the reasons why no engine can be started here, if there are any."""
    missing = [tool for tool in ("docker", "dockerd", "debootstrap") if shutil.which(tool) is None]
    return [*(["root"] if os.geteuid() != 0 else []), *missing]


@dataclass(frozen=True)
class Image:
    """A training image and its base."""

    base: str
    name: str
    base_name: str
    torch_version: str
    variables: tuple[tuple[str, str], ...] = ()
    """More variables for build.sh."""


STOCK = Image("stock", "model-zoo:pytorch-bert-large-training", "model-zoo:pytorch-stock", "2.13.0")
IPEX = Image(
    "ipex",
    "model-zoo:pytorch-bert-large-training-ipex",
    "model-zoo:pytorch-ipex-spr",
    "2.7.0",
    (("TORCH_BUILD", "any"),),  # builds of that version for CPUs are rarely available
)
STOCK_FINETUNE, IPEX_FINETUNE = (
    replace(image, name=f"{image.name}-finetune", variables=(*image.variables, ("FINETUNE", "1")))
    for image in (STOCK, IPEX)
)


class EngineError(Exception):
    """The daemon does not start here."""


class BuildError(Exception):
    """An image cannot be built here."""


@dataclass(frozen=True)
class Engine:
    """A running daemon."""

    socket: Path
    client_config: Path
    """Folder of the client's settings: those of the user may name another engine."""
    package_settings: tuple[tuple[str, str], ...]
    """Settings of pip for builds, the same for all, so that images share layers."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a user of this engine; of the caller's settings only proxies are kept."""
        kept = [name for name in os.environ if name in ("PATH", "HOME") or name.lower().endswith("_proxy")]
        return {name: os.environ[name] for name in kept} | {
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": str(self.client_config),
            "CONTAINER_ENGINE": "docker",
        }

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the docker client."""
        result = subprocess.run(
            ["docker", *arguments], env=self.environment, capture_output=True, text=True, check=False, timeout=600
        )
        assert result.returncode == 0 or not check, f"docker {' '.join(arguments)}\n{result.stdout}{result.stderr}"
        return result

    def containers(self) -> list[str]:
        """Return all containers that exist."""
        return self.docker("ps", "--all", "--quiet").stdout.split()


@contextmanager
def running_engine(folder: Path, package_settings: dict[str, str]) -> Iterator[Engine]:
    """Run a daemon with all its files in `folder`, whose path must be short because sockets are in it."""
    engine = Engine(folder / "docker.sock", folder / "client", tuple(package_settings.items()))
    engine.client_config.mkdir()
    settings = folder / "daemon.json"  # not the machine's settings
    settings.write_text("{}")
    log_file = folder / "dockerd.log"
    with log_file.open("w") as log:
        daemon = subprocess.Popen(
            [
                # The daemon and its mounts end when this process does, however it ends.
                "setpriv", "--pdeathsig", "TERM", "unshare", "--mount", "sh", "-c", data_in_memory() + 'exec "$@"',
                folder / "data", "dockerd", "--data-root", folder / "data", "--exec-root", folder / "exec",
                "--pidfile", folder / "dockerd.pid", "--host", f"unix://{engine.socket}", "--config-file", settings,
                "--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + START_SECONDS
            while engine.docker("version", check=False).returncode != 0:
                if daemon.poll() is not None or time.monotonic() > deadline:
                    raise EngineError(f"dockerd did not start:\n{log_file.read_text()[-2000:]}")
                time.sleep(0.2)
            engine.socket.chmod(0o666)  # callers other than root use it too
            yield engine
        finally:
            daemon.terminate()
            daemon.wait(timeout=60)


def data_in_memory() -> str:
    """Return a shell command that keeps the engine's data in memory if there is enough: disks may be slow."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (available_kib,) = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return 'mkdir "$0" && mount -t tmpfs data "$0" && ' if available_kib * 1024 > MEMORY_FOR_DATA_BYTES else ""


def debian_with_python() -> Path:
    """Return a tar file of a small Debian system with Python, created once per machine."""
    certificates = CERTIFICATES.read_bytes() if CERTIFICATES.exists() else b""
    key = hashlib.sha256(certificates + " ".join(DEBIAN_PACKAGES).encode()).hexdigest()[:12]
    path = CACHE / f"{DEBIAN}-{platform.machine()}-{key}.tar"
    if path.exists():
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    work = CACHE / f"{path.name}.{os.getpid()}"
    root, part = work / "root", work / "root.tar"
    try:
        result = subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={','.join(DEBIAN_PACKAGES)}", DEBIAN, root],
            capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip
        work.mkdir(exist_ok=True)
        if result.returncode != 0:
            raise RuntimeError(f"debootstrap failed:\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
        for leftover in (*root.glob("var/cache/apt/archives/*.deb"), *root.glob("var/lib/apt/lists/*_*")):
            leftover.unlink()
        if certificates:  # the machine may need its own certificate authority to reach the package index
            (root / CERTIFICATES.relative_to("/")).write_bytes(certificates)
            (root / "etc/pip.conf").write_text(f"[global]\ncert = {CERTIFICATES}\n")
        with tarfile.open(part, "w") as tar:
            tar.add(root, arcname=".")
        part.rename(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return path


def pip_setting(name: str) -> str | None:
    """Return a setting of this machine's pip; environment variables precede configuration files."""
    environment = {key: value for key, value in os.environ.items() if key != "PIP_QUIET"}  # with it, pip prints nothing
    lines = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    values = {key: ast.literal_eval(value) for key, value in (line.split("=", 1) for line in lines)}
    return next((values[key] for key in (f":env:.{name}", f"install.{name}", f"global.{name}") if key in values), None)


@contextmanager
def package_settings() -> Iterator[dict[str, str]]:
    """Yield this machine's pip settings for builds, with a folder of wheels served by HTTP."""
    settings = {}
    for name in ("index-url", "extra-index-url", "trusted-host"):
        urls = [word for word in (pip_setting(name) or "").split() if not word.startswith("file:")]
        if urls:
            settings[f"PIP_{name.upper().replace('-', '_')}"] = " ".join(urls)
    folders = [Path(word.removeprefix("file://")) for word in (pip_setting("find-links") or "").split()]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        yield settings
        return
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            trusted = f"{settings.get('PIP_TRUSTED_HOST', '')} 127.0.0.1".strip()
            yield settings | {
                "PIP_FIND_LINKS": f"http://127.0.0.1:{server.server_port}/",
                "PIP_TRUSTED_HOST": trusted,
            }
        finally:
            server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without logging."""

    def log_message(self, format: str, *args: object) -> None:
        """Do nothing."""


@functools.cache
def import_python(engine: Engine) -> None:
    """Import the image that bases are built on."""
    engine.docker("import", str(debian_with_python()), PYTHON_IMAGE)


@functools.cache
def build_image(engine: Engine, image: Image) -> Image:
    """Build a training image and its base once, with build.sh."""
    rebuild(engine, image)
    return image


def rebuild(engine: Engine, image: Image) -> None:
    """Run build.sh for an image."""
    import_python(engine)
    variables = {
        **dict(engine.package_settings),
        "BASE": image.base,
        "IMAGE_NAME": image.name,
        "PYTHON_IMAGE": PYTHON_IMAGE,
        "DOCKER_BUILD_ARGS": "--network host",
        **dict(image.variables),
    }
    result = subprocess.run(
        [PROJECT / "build.sh"], env=build_secret() | engine.environment | variables,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        timeout=1800,
    )  # fmt: skip
    if result.returncode != 0:
        raise BuildError(f"build.sh failed:\n{result.stdout[-5000:]}")


SECRET = "not-for-images"


def build_secret() -> dict[str, str]:
    """Return proxy variables that contain a secret. Engines pass them on, but no tool of the build uses them."""
    return {"HTTP_PROXY": f"http://user:{SECRET}@127.0.0.1:9", "NO_PROXY": "*", "no_proxy": "*"}
