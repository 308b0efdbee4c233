"""No module of the package can be made to run code by what it reads: the calls that could are not in it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.runs import PROJECT

SOURCES = [
    *sorted((PROJECT / "models").rglob("*.py")),
    *sorted((PROJECT / "quickstart").glob("*.py")),
]
UNSAFE_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "tarfile",
    "zipfile",
}
UNSAFE_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
    "yaml.full_load", "torch.hub.load", "torch.jit.load", "torch.export.load", "shutil.unpack_archive",
    "tempfile.mktemp", "xml.etree.ElementTree.parse",
}  # fmt: skip
# They pickle what goes between ranks.
OBJECT_COLLECTIVES = {"all_gather_object", "broadcast_object_list", "gather_object", "scatter_object_list",
                      "send_object_list", "recv_object_list"}  # fmt: skip
ALLOWED = {
    ("files.py", "shutil.rmtree"),  # remove_tree, which follows no links
}


def unsafe_calls(source: str) -> set[str]:
    """Return the names of what in a module could run code, delete through links, or read what it should not."""
    tree = ast.parse(source)
    imported = _imported_names(tree)
    found = {name for name in imported.values() if name.split(".")[0] in UNSAFE_MODULES}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = _full_name(node.func, imported)
        if name in UNSAFE_CALLS or name.rpartition(".")[2] in OBJECT_COLLECTIVES or name == "shutil.rmtree":
            found.add(name)
        if name == "torch.load" and not _may_be_true(node, "weights_only"):
            found.add(name)
        found |= {option for option in ("shell", "allow_pickle", "trust_remote_code") if _may_be_true(node, option)}
    return found


def _may_be_true(call: ast.Call, option: str) -> bool:
    """Tell whether a call is given an option that is not plainly false."""
    return any(
        word.arg == option and not (isinstance(word.value, ast.Constant) and not word.value.value)
        for word in call.keywords
    )


def _imported_names(tree: ast.Module) -> dict[str, str]:
    """Return what each imported name stands for: `{"np": "numpy", "load": "torch.load"}`."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]  # all that `import a.b` makes known is a
                names |= {alias.asname: alias.name} if alias.asname else {first: first}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _full_name(function: ast.expr, imported: dict[str, str]) -> str:
    parts: list[str] = []
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    if isinstance(function, ast.Name):
        parts.append(imported.get(function.id, function.id))
    return ".".join(reversed(parts))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_module_has_none(path: Path) -> None:
    module = str(path.relative_to(PROJECT)).removeprefix("models/bert_large/")
    found = {name.rpartition(".")[2] if "_object" in name else name for name in unsafe_calls(path.read_text())}
    assert {name for name in found if (module, name) not in ALLOWED} == set()


def test_what_is_allowed_is_there() -> None:
    """An exception that no code needs any more must go from the list."""
    for module, name in ALLOWED:
        assert name.rpartition(".")[2] in (PROJECT / "models" / "bert_large" / module).read_text()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", {"pickle"}),
        ("def f():\n    from pickle import loads", {"pickle.loads"}),
        ("import torch\ntorch.load(path)", {"torch.load"}),
        ("from torch import load as read\nread(path, weights_only=False)", {"torch.load"}),
        ("import torch\ntorch.load(path, weights_only=True)", set()),
        ("import yaml as y\ny.load(text, y.Loader)", {"yaml.load"}),
        ("import yaml\nyaml.safe_load(text)", set()),
        ("import numpy as np\nnp.load(path, allow_pickle=True)", {"allow_pickle"}),
        ("import numpy as np\nnp.load(path, allow_pickle=False)", set()),
        ("eval(text)", {"eval"}),
        ("model.eval()", set()),
        ("import re\nre.compile(text)", set()),
        ("import subprocess\nsubprocess.run(text, shell=is_shell)", {"shell"}),
        ("model.from_pretrained(name, trust_remote_code=True)", {"trust_remote_code"}),
        ("from torch import distributed\ndistributed.all_gather_object(a, b)", {"torch.distributed.all_gather_object"}),
        ("import shutil\nshutil.rmtree(path)", {"shutil.rmtree"}),
    ],
)
def test_the_scan_finds_them(source: str, found: set[str]) -> None:
    assert unsafe_calls(source) == found
