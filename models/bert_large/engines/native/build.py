"""Build and load the C++ kernels, once per instruction set, version of PyTorch and compiler.

The compiler and linker are called directly, with arguments in lists. PyTorch's own extension builder writes paths into
files for ninja and a shell, where a space, a quote or a dollar sign in the path of the project or of the virtual
environment breaks the build.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from bert_large.cpu import read_cpu_flags
from bert_large.errors import UserError
from bert_large.log import LOGGER

SOURCES = Path(__file__).parent / "csrc"
FOLDER_VARIABLE = "BERT_LARGE_KERNELS_DIR"

_AVX2 = ("avx2", "fma")
_AVX512 = (*_AVX2, "avx512f", "avx512bw", "avx512vl", "avx512dq")
# Best first: the CPU flags that an instruction set needs, as /proc/cpuinfo spells them. AMX is not among them: oneDNN
# generates those instructions at run time.
INSTRUCTION_SETS = {"avx512_bf16": (*_AVX512, "avx512_bf16"), "avx512": _AVX512, "avx2": _AVX2}
_COMPILER_OPTIONS = [
    "-std=c++20",  # the standard that PyTorch's headers are written in
    "-O3",
    "-fPIC",
    "-fopenmp",  # for compiling only: linked without it, the kernels share the OpenMP runtime that PyTorch brought
    "-ffp-contract=fast",  # fused multiply-add, which -std=c++20 turns off
    "-fno-math-errno",
    "-Wno-psabi",
]
_LIBRARIES = ["-lc10", "-ltorch_cpu", "-ltorch"]


class KernelBuildError(UserError):
    """The kernels are not built and cannot be built, or cannot be loaded."""


def best_instruction_set(cpu_flags: Collection[str]) -> str:
    """Return the best instruction set of a CPU with these flags."""
    for name, needed in INSTRUCTION_SETS.items():
        if set(needed) <= set(cpu_flags):
            return name
    raise KernelBuildError(
        f"engine native needs a CPU with {' and '.join(_AVX2)}, which /proc/cpuinfo does not list here; use --engine "
        "eager"
    )


def library_prefix(instruction_set: str) -> str:
    """Return the beginning of a build's file name, up to the compiler.

    It changes with everything else that a build depends on: sources, options, PyTorch (a build of the same version from
    other sources too) and the C library, whose newer symbols an older one lacks.
    """
    system = [torch.version.git_version, platform.libc_ver()]
    content = hashlib.sha256(repr([_options(instruction_set), _LIBRARIES, system]).encode())
    for source in sorted(SOURCES.iterdir()):
        content.update(source.name.encode() + source.read_bytes())
    version = torch.__version__.replace("+", "-")
    return f"bert_large-{instruction_set}-torch{version}-{content.hexdigest()[:12]}"


def library_name(instruction_set: str) -> str:
    """Return the file name of a build by the compiler of this machine."""
    compiler = hashlib.sha256((compiler_version() or "").encode()).hexdigest()[:6]
    return f"{library_prefix(instruction_set)}-{compiler}.so"


def kernel_folders() -> list[Path]:
    """Return the folders that builds may be in: the one that the environment names, or the package's and the user's."""
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
    except RuntimeError:  # in a container: no HOME, and a user id that /etc/passwd does not have
        return []


@functools.cache
def load_kernels() -> str:
    """Load the kernels for this CPU, built if necessary, as `torch.ops.bert_large`; return their instruction set."""
    instruction_set = best_instruction_set(read_cpu_flags())
    library = build_kernels(instruction_set)
    try:
        torch.ops.load_library(library)
    except OSError as error:
        raise KernelBuildError(
            f"the native kernels in {library} cannot be loaded: {error}; delete that file to build them again, name "
            f"another folder with {FOLDER_VARIABLE}, or use --engine eager"
        ) from None
    return instruction_set


def find_kernels(instruction_set: str) -> Path | None:
    """Return the library of an instruction set, None if it is not built yet.

    Only builds by this machine's compiler count; without a compiler, as in the training image, those by any.
    """
    name = None if compiler_version() is None else library_name(instruction_set)
    return next((path for path in _builds(instruction_set) if name in (None, path.name)), None)


def _builds(instruction_set: str) -> Iterator[Path]:
    """Yield the builds by any compiler, folder by folder; a folder that cannot be read has none."""
    for folder in kernel_folders():
        with contextlib.suppress(OSError):
            yield from sorted(folder.glob(f"{library_prefix(instruction_set)}-*.so"))


def build_kernels(instruction_set: str) -> Path:
    """Return the library of an instruction set, after building it if necessary.

    It is built in the first folder that can be written. Where there is none, a build by another compiler serves.
    """
    built = find_kernels(instruction_set)
    if built is not None:
        return built
    name, faults = library_name(instruction_set), []
    for folder in kernel_folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _build_lock(folder):
                if not (folder / name).is_file():
                    _compile(instruction_set, folder / name)
        except OSError as error:  # not readable, of another owner, read-only, full
            faults.append(f"{folder} ({error.strerror or error})")
            continue
        return folder / name
    for built in _builds(instruction_set):
        return built
    raise KernelBuildError(
        f"the native kernels are not built and cannot be written to {', '.join(faults) or 'any folder'}: name a folder "
        f"with {FOLDER_VARIABLE}, or use --engine eager"
    )


@contextlib.contextmanager
def _build_lock(folder: Path) -> Iterator[None]:
    """Let one of several ranks build while the others wait.

    Without locks, as on some network file systems, each rank builds: that is slower, but safe, since a finished library
    is moved to its place.
    """
    with (folder / "build.lock").open("w") as lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def compiler_name() -> str:
    """Return the C++ compiler that builds are made with, as the user names it."""
    return os.environ.get("CXX") or "g++"


def find_compiler() -> list[str] | None:
    """Return the words that call the compiler, such as `ccache g++`; None if it is not installed."""
    name = compiler_name()
    if shutil.which(name):  # also a path with spaces
        return [name]
    try:
        words = shlex.split(name)
    except ValueError:  # an unpaired quote
        return None
    return words if words and shutil.which(words[0]) else None


def compiler_version() -> str | None:
    """Return the first line of the compiler's `--version`; None if it is not installed or is not a compiler."""
    compiler = find_compiler()
    return None if compiler is None else _version_of(tuple(compiler))


@functools.cache
def _version_of(compiler: tuple[str, ...]) -> str | None:
    try:
        result = _run(list(compiler), "--version")
    except OSError:
        return None
    return result.stdout.partition("\n")[0] if result.returncode == 0 else None


def _options(instruction_set: str) -> list[str]:
    flags = [f"-m{flag.replace('_', '')}" for flag in INSTRUCTION_SETS[instruction_set]]
    wide = ["-mprefer-vector-width=512"] if instruction_set.startswith("avx512") else []
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"  # std::string as in PyTorch's libraries
    return [*_COMPILER_OPTIONS, *flags, *wide, abi]


def _run(command: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command with its output and errors as one text, in English."""
    return subprocess.run(
        [*command, *arguments], env=os.environ | {"LC_ALL": "C.UTF-8"}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", check=False,
    )  # fmt: skip


def _compile(instruction_set: str, library: Path) -> None:
    """Compile in a temporary folder and move the result to its place, so that no half-written library is found."""
    compiler = find_compiler()
    if compiler is None:
        raise KernelBuildError(
            f"engine native needs a C++ compiler to build its kernels once, and {compiler_name()} was not found: "
            "install it (Debian, Ubuntu: apt-get install g++), or use --engine eager, which needs none"
        )
    LOGGER.info("building the native kernels (%s), once: about a minute", instruction_set)
    pytorch = Path(torch.__file__).parent
    includes = [f"-isystem{pytorch / 'include' / part}" for part in ("", "torch/csrc/api/include")]
    options = [*_options(instruction_set), *includes]
    with tempfile.TemporaryDirectory(dir=library.parent, prefix="building-") as name:
        folder = Path(name).absolute()
        objects = {str(source): str(folder / f"{source.stem}.o") for source in sorted(SOURCES.glob("*.cpp"))}
        with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
            commands = [["-c", source, "-o", target, *options] for source, target in objects.items()]
            results = list(pool.map(lambda arguments: _run(compiler, *arguments), commands))
        if not any(result.returncode for result in results):
            built = str(folder / library.name)
            linked = _run(compiler, "-shared", *objects.values(), "-o", built, f"-L{pytorch / 'lib'}", *_LIBRARIES)
            results.append(linked)
            if linked.returncode == 0:
                Path(built).replace(library)
                return
    log = library.with_suffix(".log")
    output = "".join(f"{shlex.join(result.args)}\n{result.stdout}" for result in results if result.returncode)
    log.write_text(output, encoding="utf-8", errors="replace")
    errors = [line.strip() for line in output.splitlines() if "error:" in line.lower()]
    codes = ", ".join(sorted({str(result.returncode) for result in results if result.returncode}))
    raise KernelBuildError(
        f"building the native kernels with {compiler_name()} failed: {(errors or [f'exit code {codes}'])[0]} (its "
        f"output is in {log}). Fix that, or use --engine eager, which needs no build"
    )
