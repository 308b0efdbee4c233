"""The advice for packages that are not installed."""

from __future__ import annotations

import os.path
import re
from pathlib import Path

import bert_large
import pytest
from bert_large import extras
from bert_large.errors import InputError
from bert_large.extras import import_extra

from tests.support.runs import PROJECT


@pytest.mark.parametrize("extra", ["plot", "mlperf", "tensorflow", "onnx", "finetune", "inference"])
def test_the_project_folder_is_installed(extra: str) -> None:
    message = str(extras.missing_extra("this", extra, "no module"))
    assert f"pip install -e {PROJECT}[{extra}]" in message.replace("'", "") and "image" in message
    assert f"\n{extra} = [" in (PROJECT / "pyproject.toml").read_text()


def test_an_installed_package_has_no_project_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_PROJECT", tmp_path)
    assert "pip install -e '.[plot]'" in str(extras.missing_extra("this", "plot", "no module"))


def test_imports() -> None:
    assert import_extra("this", "plot", "os.path", "shlex") is os.path
    with pytest.raises(InputError) as error:
        import_extra("--this", "plot", "shlex", "bert_large.nowhere")
    assert error.value.exit_code == 2
    assert all(text in str(error.value) for text in ("--this", "bert_large.nowhere", "[plot]"))


def test_no_message_advises_a_name_on_a_public_index() -> None:
    for path in Path(bert_large.__file__).parent.rglob("*.py"):
        assert not re.search(r"bert-large\[", path.read_text(encoding="utf-8")), path
