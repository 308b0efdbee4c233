"""Imports inside the package run one way, and nothing imports in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import bert_large
import pytest

PACKAGE = Path(bert_large.__file__).parent
ORDER = (
    ("errors", "cpu", "standard_streams", "tables"),
    ("extras", "storage", "worker_processes"),
    ("log",),
    ("config", "hub", "cpp_library", "matmul"),
    ("data",),
    # Metrics, machine, timing: they know steps and records as plain values, and no stage of training. The event files
    # of TensorBoard have the framing of TFRecords, which `data` reads and writes.
    ("observe", "distributed"),
    # `prepare` writes the shards that `data` reads, in the formats of `data`, and shows its progress.
    ("prepare",),
    # `model` defines the operations that `engines` implement. LAMB's update is one of them, so `optim` comes first.
    ("optim",),
    ("model",),
    ("engines",),
    # Models of `transformers` on the native kernels: fine-tuning and inference use them.
    ("hugging_face",),
    ("train",),
    # `convert` makes checkpoints that training resumes from; `report` reads the folders of runs, also for model cards.
    ("convert", "report", "doctor", "bench"),
    # A plan measures steps as `bench` does, and predicts memory as `doctor` does.
    # Fine-tuning saves the tokenizer that `export` makes.
    ("plan", "export"),
    ("finetune",),
    # Inference reads tokenizers and files of texts as fine-tuning does.
    ("inference",),
    ("cli",),
    ("__main__",),
)
"""Folders and modules of the package: each imports only from earlier rows and from itself."""
LATE = {("distributed.launch", "cli"): "checks the command line once, before every rank does"}
"""Imports against the order, each with its reason. They take part in no circle at import time."""


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of the package that a file imports anywhere, but for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    ignored: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            ignored.update(inner for statement in node.body for inner in ast.walk(statement))
    for node in ast.walk(tree):
        if node in ignored:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            inner = name.removeprefix("bert_large.")
            if name.startswith("bert_large.") and inner in MODULES:
                yield inner


def graph() -> dict[str, set[str]]:
    """Return the imported modules of each module; a folder's `__init__` counts only where it is imported itself."""
    found = {name: set(imported(path)) - {name} for name, path in MODULES.items()}
    for name, modules in found.items():
        # `from a.b import c`, where c is a module, does not depend on what else `a/b/__init__.py` imports.
        found[name] = {
            other
            for other in modules
            if not any(module.startswith(f"{other}.") for module in modules if module != other)
        }
    return found


def find_cycle(edges: Mapping[str, set[str]]) -> list[str]:
    """Return the nodes of a cycle, empty if there is none."""
    finished: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in finished:
            return []
        for other in sorted(edges.get(node, ())):
            if cycle := visit(other, [*path, node]):
                return cycle
        finished.add(node)
        return []

    return next((cycle for node in sorted(edges) if (cycle := visit(node, []))), [])


def top(module: str) -> str:
    return module.split(".")[0]


def test_the_order_names_every_folder_and_module() -> None:
    named = [name for row in ORDER for name in row]
    assert sorted(named) == sorted({top(name) for name in MODULES} - {"__init__"})


def test_imports_run_one_way() -> None:
    rank = {name: number for number, row in enumerate(ORDER) for name in row}
    wrong = [
        f"{name} imports {other}"
        for name, others in sorted(graph().items())
        for other in sorted(others)
        if name != "__init__" and top(other) not in ("__init__", top(name))
        if rank[top(other)] >= rank[top(name)] and (name, other) not in LATE
    ]
    assert wrong == []


def test_no_cycles_between_modules() -> None:
    edges = {name: {other for other in others if (name, other) not in LATE} for name, others in graph().items()}
    assert find_cycle(edges) == []


def test_a_cycle_is_found() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}}) == []


@pytest.mark.parametrize("reason", LATE.values())
def test_exceptions_have_a_reason(reason: str) -> None:
    assert reason
