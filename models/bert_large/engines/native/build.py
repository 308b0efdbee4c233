"""Build and load the kernels: once for each instruction set and version of PyTorch, with PyTorch's extension tools."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Collection
from pathlib import Path

import torch

from bert_large.engines.precision import read_cpu_flags
from bert_large.errors import UserError
from bert_large.log import LOGGER

SOURCES = Path(__file__).parent / "csrc"
FOLDER_VARIABLE = "BERT_LARGE_KERNELS_DIR"

_AVX2 = ("avx2", "fma")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512vl", "avx512dq")
# Best first: the CPU flags that an instruction set needs, as /proc/cpuinfo spells them.
INSTRUCTION_SETS = {
    "avx512_bf16": (*_AVX512, "avx512_bf16"),
    "avx512": _AVX512,
    "avx2": _AVX2,
}
_COMPILER_OPTIONS = [
    "-O3",
    "-fopenmp",  # for compiling only: linked without it, the kernels share the OpenMP runtime that PyTorch brought
    "-ffp-contract=fast",  # fused multiply-add, which -std=c++17 would forbid
    "-fno-math-errno",
    "-Wno-psabi",
]

_LOAD = """
import sys
import torch
from torch.utils import cpp_extension

# Build only: the instructions may be those of another CPU, and the first of them would end this process.
torch.ops.load_library = lambda path: None
name, folder, sources, options = sys.argv[1:]
cpp_extension.load(
    name, sources.split("\\n"), extra_cflags=options.split("\\n"), build_directory=folder, is_python_module=False,
    verbose=True,
)
"""


class KernelBuildError(UserError):
    """The kernels are not there and cannot be built."""


def best_instruction_set(cpu_flags: Collection[str]) -> str:
    """Return the best instruction set of a CPU with these flags."""
    for name, needed in INSTRUCTION_SETS.items():
        if set(needed) <= set(cpu_flags):
            return name
    raise KernelBuildError(
        f"engine native needs a CPU with {' and '.join(_AVX2)}, which /proc/cpuinfo does not list here; use --engine "
        "eager"
    )


def library_name(instruction_set: str) -> str:
    """Return the file name of a build: it changes with the sources, the options and the version of PyTorch."""
    content = hashlib.sha256(repr(_options(instruction_set)).encode())
    for source in sorted(SOURCES.iterdir()):
        content.update(source.name.encode() + source.read_bytes())
    version = torch.__version__.replace("+", "-")
    return f"bert_large-{instruction_set}-torch{version}-{content.hexdigest()[:12]}.so"


def kernel_folders() -> list[Path]:
    """Return where builds may lie: the folder that the environment names, or the package's own and the user's cache."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return [Path(named)]
    return [Path(__file__).parent / "built", *_user_folders()]


def _user_folders() -> list[Path]:
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return [Path(named) / "bert-large"]
    try:
        return [Path.home() / ".cache" / "bert-large"]
    except RuntimeError:  # in a container, an id without an entry among the users and without HOME
        return []


@functools.cache
def load_kernels() -> str:
    """Register the kernels for this CPU as `torch.ops.bert_large` and return their instruction set.

    They are built if they are not there yet.
    """
    instruction_set = best_instruction_set(read_cpu_flags())
    torch.ops.load_library(build_kernels(instruction_set))
    return instruction_set


def find_kernels(instruction_set: str) -> Path | None:
    """Return the library of an instruction set, None if it is not built yet."""
    paths = (folder / library_name(instruction_set) for folder in kernel_folders())
    return next((path for path in paths if path.is_file()), None)


def build_kernels(instruction_set: str) -> Path:
    """Return the library of an instruction set, after building it if it is not there yet."""
    built = find_kernels(instruction_set)
    if built is not None:
        return built
    name = library_name(instruction_set)
    for folder in kernel_folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / "build.lock").open("w")
        except OSError:  # of another owner, or on a file system that is mounted read-only
            continue
        with lock:  # of several ranks one builds, the others wait for it
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / name).is_file():
                _compile(instruction_set, folder / name)
        return folder / name
    raise KernelBuildError(
        f"the kernels are not built and none of {', '.join(map(str, kernel_folders()))} can be written: name a folder "
        f"with {FOLDER_VARIABLE}, or use --engine eager"
    )


def compiler_name() -> str:
    """Return the C++ compiler that builds are made with; it need not be there."""
    return os.environ.get("CXX", "g++")


def _options(instruction_set: str) -> list[str]:
    flags = [f"-m{flag.replace('_', '')}" for flag in INSTRUCTION_SETS[instruction_set]]
    wide = ["-mprefer-vector-width=512"] if instruction_set.startswith("avx512") else []
    return [*_COMPILER_OPTIONS, *flags, *wide]


def _compile(instruction_set: str, library: Path) -> None:
    """Compile into a folder of its own and move the result to its place, so that no half-written library is found."""
    compiler = compiler_name()
    if shutil.which(compiler) is None:
        raise KernelBuildError(
            f"engine native needs a C++ compiler to build its kernels once, and {compiler} was not found: install it "
            "(Debian, Ubuntu: apt-get install g++), or use --engine eager, which needs none"
        )
    LOGGER.info("building the native kernels (%s), once: about a minute", instruction_set)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix="building-") as folder:
        # In a process of its own: what the tools print goes into the message only if they fail.
        sources = "\n".join(str(source) for source in sorted(SOURCES.glob("*.cpp")))
        arguments = ["bert_large_kernels", folder, sources, "\n".join(_options(instruction_set))]
        # ninja lies beside the interpreter of a virtual environment, which need not be on the path.
        path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
        result = subprocess.run(
            [sys.executable, "-c", _LOAD, *arguments],
            env=os.environ | {"PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        built = Path(folder) / "bert_large_kernels.so"
        if result.returncode != 0 or not built.is_file():
            log = library.with_suffix(".log")
            log.write_text(result.stdout)
            errors = [line for line in result.stdout.splitlines() if "error:" in line.lower()]
            raise KernelBuildError(
                f"building the native kernels with {compiler} failed: {(errors or ['no message'])[0].strip()} (the "
                f"whole of it is in {log}). Mend that, or use --engine eager, which needs no build"
            )
        built.replace(library)
