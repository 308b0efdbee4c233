"""The image file of jobs/apptainer, built and run by an ordinary user with Apptainer from Debian's packages."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bert_large import __version__

from .caller import PROBE
from .conftest import built, cannot_test
from .engine import CACHE, PROJECT, STOCK, Engine
from .test_training import CONFIG, RecordShape, random_records, write_records

UID = 1234
# The root of the new system must be a mount point, and the machine's folders have their own names in it.
ENTER = """
mount --bind "$0" "$0" && cd "$0" && mount --rbind /proc proc && mount --rbind /sys sys && mount --rbind /dev dev
mkdir -p tmp old && mount --rbind /tmp tmp
pivot_root . old && umount --lazy /old && cd / || exit 1
exec setpriv --reuid {uid} --regid {uid} --groups {uid},4321 "$@"
"""


@dataclass(frozen=True)
class Site:
    """A system with Apptainer, the image as a folder, and a folder of a user."""

    root: Path
    folder: Path

    def start(self, *command: str, variables: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command as the user in a mount namespace with the system's root."""
        script = ENTER.format(uid=UID)
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.folder), **(variables or {})}
        return subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "bash", "-euc", script, str(self.root), *command],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *command: str, code: int = 0, variables: Mapping[str, str] | None = None) -> str:
        """Run a command, which must end with an exit code, and return its output."""
        process = self.start(*command, variables=variables)
        output, _ = process.communicate(timeout=1200)
        assert process.returncode == code, output
        return output

    @property
    def variables(self) -> dict[str, str]:
        """The variables of run.sh for a short run."""
        data = self.folder / "data set"
        return {
            "CONTAINER_ENGINE": "apptainer", "IMAGE_NAME": str(self.folder / "bert-large"), "PRECISION": "fp32",
            "DATASET_DIR": str(data), "CONFIG_FILE": str(data / "bert config.json"),
            "OUTPUT_DIR": str(self.folder / "out, put"), "EVAL_DIR": "none", "BATCH_SIZE": "8", "MAX_STEPS": "4",
            "RANKS_PER_NODE": "2",
        }  # fmt: skip

    @property
    def script(self) -> str:
        """The user's run.sh."""
        return str(self.folder / "project/run.sh")

    @property
    def report(self) -> dict[str, Any]:
        """The report of the probe that replaces the trainer."""
        return json.loads((Path(self.variables["OUTPUT_DIR"]) / "report.json").read_text())


def debian_with_apptainer() -> Path:
    """Return the root of a Debian system with Apptainer, which only its development version has."""
    root = CACHE / "apptainer-sid"
    if not root.exists():
        part = CACHE / f"apptainer-sid.{os.getpid()}"
        command = ["debootstrap", "--variant=minbase", "--include=apptainer,ca-certificates", "sid", str(part)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
        if done.returncode != 0:
            shutil.rmtree(part, ignore_errors=True)
            cannot_test(f"Apptainer cannot be installed: {done.stdout[-500:]}")
        with (part / "etc/passwd").open("a") as file:
            file.write(f"bert:x:{UID}:{UID}::/tmp:/bin/bash\n")
        (part / "etc/hosts").touch()  # Apptainer copies it into images
        part.rename(root)
    return root


@pytest.fixture(scope="module")
def site(engine: Engine) -> Iterator[Site]:
    """A user with records and the image, built by the commands of jobs/apptainer/README.md as a folder."""
    built(engine, STOCK)
    root = debian_with_apptainer()
    with tempfile.TemporaryDirectory(prefix="apptainer ") as name:
        folder = Path(name)
        data = folder / "data set"
        (data / "seq_128").mkdir(parents=True)
        with (data / "seq_128/part-00000-of-00001_128").open("wb") as file:
            write_records(file, random_records(RecordShape(128, 20), 40))
        (data / "bert config.json").write_text(json.dumps(CONFIG))
        (folder / "probe.py").write_text(PROBE)
        shutil.copytree(PROJECT / "quickstart", folder / "project/quickstart")
        shutil.copytree(PROJECT / "jobs", folder / "project/jobs")
        shutil.copy2(PROJECT / "run.sh", folder / "project")
        engine.docker("save", "--output", str(folder / "bert-large.tar"), STOCK.name)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, UID, UID)
        site = Site(root, folder)
        definition = folder / "project/jobs/apptainer/bert-large.def"
        build = f"cd '{folder}' && apptainer build --sandbox bert-large '{definition}'"
        assert "engine native: C++ kernels" in site.run("bash", "-c", build)  # by the definition's %test
        yield site


def test_the_image_runs_commands(site: Site) -> None:
    image = site.variables["IMAGE_NAME"]
    assert site.run("apptainer", "run", image, "--version").endswith(f"bert-large {__version__}\n")
    assert "usage: bert-large" in site.run("apptainer", "run", image)


def test_two_ranks_train(site: Site) -> None:
    output = site.run(site.script, "--seed", "7", variables=site.variables)
    assert "seed 7" in output and "2 ranks over gloo" in output
    folder = Path(site.variables["OUTPUT_DIR"])
    assert (folder / "model_save/model.safetensors").is_file()
    assert {path.stat().st_uid for path in folder.rglob("*")} == {UID}
    shutil.rmtree(folder)


def test_only_the_output_is_writable(site: Site) -> None:
    """As with Docker; a variable that is not documented is not passed on, and groups are kept."""
    shared = site.folder / "shared by a group"
    shared.mkdir()
    (shared / "seq_128").mkdir()
    os.chown(shared, 0, 4321)
    shared.chmod(0o750)
    variables = site.variables | {"TRAIN_SCRIPT": str(site.folder / "probe.py"), "DATASET_DIR": str(shared)}
    site.run(site.script, variables=variables | {"RANKS_PER_NODE": "1"})
    report = site.report
    assert report["uid"] == UID and report["capabilities"] == 0 and not report["image_is_writable"]
    outputs = {"--output-dir": True, "--index-dir": True}
    assert report["readable"] == {"--dataset-dir": True, "--config-file": True, **outputs}
    assert report["writable"] == {"--dataset-dir": False, "--config-file": False, **outputs}


def test_the_exit_code_and_signals(site: Site) -> None:
    variables = site.variables | {"TRAIN_SCRIPT": str(site.folder / "probe.py"), "RANKS_PER_NODE": "1"}
    site.run(site.script, "--fail", code=47, variables=variables)
    waiting = Path(variables["OUTPUT_DIR"]) / "waiting"
    process = site.start(site.script, "--wait", variables=variables)
    deadline = time.monotonic() + 120
    while not waiting.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 48, output


def test_a_missing_image_file_is_one_line(site: Site) -> None:
    output = site.run(site.script, code=2, variables=site.variables | {"IMAGE_NAME": "/no/such.sif"})
    (line,) = output.splitlines()
    assert "/no/such.sif" in line
