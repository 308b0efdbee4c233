"""C++ sources that are compiled on the machine that runs them, into libraries for `torch.ops.load_library`.

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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from bert_large.errors import UserError
from bert_large.log import LOGGER

FOLDER_VARIABLE = "BERT_LARGE_KERNELS_DIR"
"""The environment variable that names the only folder for libraries."""
_COMPILER_OPTIONS = (
    "-std=c++20",  # the standard that PyTorch's headers are written in
    "-fPIC",
    "-Wno-psabi",
)
_LIBRARIES = ("-lc10", "-ltorch_cpu", "-ltorch")


class LibraryBuildError(UserError):
    """A library is not built and cannot be built, or cannot be loaded."""


@dataclass(frozen=True, kw_only=True)
class CppLibrary:
    """A library that is built from C++ sources, once per version of PyTorch, compiler and set of options."""

    name: str
    """The beginning of its file name."""
    title: str
    """Its name in messages, in the plural: "the native kernels"."""
    sources: Path
    """Folder with the sources. Every `.cpp` file in it is compiled."""
    options: tuple[str, ...] = ()
    """Compiler options, in addition to those that every library needs."""
    links: tuple[str, ...] = ()
    """Arguments of the linker, in addition to PyTorch's libraries."""
    folders: tuple[Path, ...]
    """Folders that builds may be in, in the order in which they are searched."""
    alternative: str
    """What the user can do without the library, for messages: "use --engine eager"."""

    @property
    def prefix(self) -> str:
        """The beginning of a build's file name, up to the compiler.

        It changes with everything else that a build depends on: sources, options, PyTorch (a build of the same version
        from other sources too) and the C library, whose newer symbols an older one lacks.
        """
        system = [torch.version.git_version, platform.libc_ver()]
        content = hashlib.sha256(repr([self._all_options(), self.links, _LIBRARIES, system]).encode())
        for source in sorted(self.sources.iterdir()):
            content.update(source.name.encode() + source.read_bytes())
        version = torch.__version__.replace("+", "-")
        return f"{self.name}-torch{version}-{content.hexdigest()[:12]}"

    @property
    def file_name(self) -> str:
        """The file name of a build by the compiler of this machine."""
        compiler = hashlib.sha256((compiler_version() or "").encode()).hexdigest()[:6]
        return f"{self.prefix}-{compiler}.so"

    def find(self) -> Path | None:
        """Return the library, None if it is not built yet.

        Only builds by this machine's compiler count; without a compiler, as in the training image, those by any.
        """
        name = None if compiler_version() is None else self.file_name
        return next((path for path in self._builds() if name in (None, path.name)), None)

    def build(self) -> Path:
        """Return the library, after building it if necessary.

        It is built in the first folder that can be written. Where there is none, a build by another compiler serves.
        """
        built = self.find()
        if built is not None:
            return built
        name, faults = self.file_name, []
        for folder in self.folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with _build_lock(folder):
                    if not (folder / name).is_file():
                        self._compile(folder / name)
            except OSError as error:  # not readable, of another owner, read-only, full
                faults.append(f"{folder} ({error.strerror or error})")
                continue
            return folder / name
        for built in self._builds():
            return built
        raise LibraryBuildError(
            f"{self.title} are not built and cannot be written to {', '.join(faults) or 'any folder'}: name a folder "
            f"with {FOLDER_VARIABLE}, or {self.alternative}"
        )

    def load(self) -> None:
        """Load the library, built if necessary."""
        library = self.build()
        try:
            torch.ops.load_library(library)
        except OSError as error:
            raise LibraryBuildError(
                f"{self.title} in {library} cannot be loaded: {error}; delete that file to build them again, name "
                f"another folder with {FOLDER_VARIABLE}, or {self.alternative}"
            ) from None

    def _builds(self) -> Iterator[Path]:
        """Yield the builds by any compiler, folder by folder; a folder that cannot be read has none."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                yield from sorted(folder.glob(f"{self.prefix}-*.so"))

    def _all_options(self) -> list[str]:
        abi = (
            f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"  # std::string as in PyTorch's libraries
        )
        return [*_COMPILER_OPTIONS, *self.options, abi]

    def _compile(self, library: Path) -> None:
        """Compile in a temporary folder and move the result to its place, so that no half-written library is found."""
        compiler = find_compiler()
        if compiler is None:
            raise LibraryBuildError(
                f"{self.title} must be built once by a C++ compiler, and {compiler_name()} was not found: install it "
                f"(Debian, Ubuntu: apt-get install g++), or {self.alternative}, which needs none"
            )
        LOGGER.info("building %s (%s), once: about a minute", self.title, self.name)
        pytorch = Path(torch.__file__).parent
        includes = [f"-isystem{pytorch / 'include' / part}" for part in ("", "torch/csrc/api/include")]
        options = [*self._all_options(), *includes]
        with tempfile.TemporaryDirectory(dir=library.parent, prefix="building-") as name:
            folder = Path(name).absolute()
            objects = {str(source): str(folder / f"{source.stem}.o") for source in sorted(self.sources.glob("*.cpp"))}
            with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
                commands = [["-c", source, "-o", target, *options] for source, target in objects.items()]
                results = list(pool.map(lambda arguments: _run(compiler, *arguments), commands))
            if not any(result.returncode for result in results):
                built = str(folder / library.name)
                links = [f"-L{pytorch / 'lib'}", *_LIBRARIES, *self.links]
                linked = _run(compiler, "-shared", *objects.values(), "-o", built, *links)
                results.append(linked)
                if linked.returncode == 0:
                    Path(built).replace(library)
                    return
        log = library.with_suffix(".log")
        output = "".join(f"{shlex.join(result.args)}\n{result.stdout}" for result in results if result.returncode)
        log.write_text(output, encoding="utf-8", errors="replace")
        errors = [line.strip() for line in output.splitlines() if "error:" in line.lower()]
        codes = ", ".join(sorted({str(result.returncode) for result in results if result.returncode}))
        raise LibraryBuildError(
            f"building {self.title} with {compiler_name()} failed: {(errors or [f'exit code {codes}'])[0]} (its "
            f"output is in {log}). Fix that, or {self.alternative}, which needs no build"
        )


def build_folders(own: Path) -> tuple[Path, ...]:
    """Return the folders that builds may be in: the one that the environment names, or `own` and the user's."""
    named = os.environ.get(FOLDER_VARIABLE)
    return (Path(named),) if named else (own, *_user_folders())


def _user_folders() -> tuple[Path, ...]:
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return (Path(named) / "bert-large",)
    try:
        return (Path.home() / ".cache" / "bert-large",)
    except RuntimeError:  # in a container: no HOME, and a user id that /etc/passwd does not have
        return ()


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


def _run(command: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command with its output and errors as one text, in English."""
    return subprocess.run(
        [*command, *arguments], env=os.environ | {"LC_ALL": "C.UTF-8"}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", check=False,
    )  # fmt: skip
