"""`bert-large convert`: what it refuses and why, and what it leaves when it fails. TensorFlow writes what is read."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bert_large.model import pretrained
from bert_large.storage.integrity import check_checksums
from bert_large.train import checkpoint
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tests.support.models import randomize, tiny_model, write_config
from tests.support.runs import options, run_here

Variables = dict[str, NDArray[Any]]
QUERY = "bert/encoder/layer_0/attention/self/query/kernel"


def save_tf(prefix: Path, variables: Variables) -> Path:
    import tensorflow as tf

    tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=list(variables), shape_and_slices=[""] * len(variables),
        tensors=list(variables.values()),
    )  # fmt: skip
    return prefix


def load_tf(prefix: Path) -> Variables:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(prefix))
    return {name: np.array(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, all of whose parameters can be told apart."""
    folder, model = tmp_path_factory.mktemp("convert") / "model", tiny_model()
    randomize(model)
    pretrained.save_model(folder, model, model.config, None)
    return folder


@pytest.fixture(scope="module")
def variables(model_folder: Path) -> Variables:
    """What TensorFlow reads of that model, converted."""
    prefix = model_folder.parent / "model.ckpt-12"
    assert run_here("convert", *options(to_tf=prefix, checkpoint_dir=model_folder, global_step=12)) == 0
    return load_tf(prefix)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return write_config(tmp_path / "bert_config.json")


def moments_of(variables: Variables, first: str, second: str) -> Variables:
    """Return moments for all weights: m is -w, v is w squared."""
    weights = {name: values for name, values in variables.items() if name != "global_step"}
    return {name + first: -values for name, values in weights.items()} | {
        name + second: values**2 for name, values in weights.items()
    }


def convert(prefix: Path, config_file: Path, output_dir: Path, **more: Any) -> int:
    return run_here("convert", *options(tf_checkpoint=prefix, config_file=config_file, output_dir=output_dir, **more))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_and_back(model_folder: Path, variables: Variables, config_file: Path, tmp_path: Path) -> None:
    """The step is noted, and the folder comes out as it was, to the byte: weights, and configuration too."""
    assert variables["global_step"] == 12 and variables["global_step"].dtype == np.int64
    assert len(variables) == 47 and {str(values.dtype) for values in variables.values()} == {"float32", "int64"}
    assert convert(model_folder.parent / "model.ckpt-12", config_file, tmp_path / "out") == 0
    assert files_of(tmp_path / "out") == files_of(model_folder)


def test_matrices_are_transposed_where_the_reference_has_them_so(model_folder: Path, variables: Variables) -> None:
    weights = load_file(model_folder / "model.safetensors")
    np.testing.assert_array_equal(variables[QUERY], weights["bert.encoder.layer.0.attention.self.query.weight"].T)
    np.testing.assert_array_equal(
        variables["cls/seq_relationship/output_weights"], weights["cls.seq_relationship.weight"]
    )


def test_the_form_of_gelu(model_folder: Path, variables: Variables, config_file: Path, tmp_path: Path) -> None:
    """Is noted in the configuration; Google's `gelu` is the tanh form unless told otherwise."""
    for gelu, expected in ((None, "gelu_pytorch_tanh"), ("erf", "gelu")):
        out = tmp_path / expected
        assert convert(model_folder.parent / "model.ckpt-12", config_file, out, gelu=gelu) == 0
        assert json.loads((out / "config.json").read_text())["hidden_act"] == expected


@pytest.mark.parametrize("slots", [("/LAMB", "/LAMB_1"), ("/adam_m", "/adam_v")])
def test_moments(variables: Variables, config_file: Path, tmp_path: Path, slots: tuple[str, str], capsys: Any) -> None:
    """Of both ways to name them; and what is printed names the folder to resume from."""
    prefix = save_tf(
        tmp_path / "m", variables | moments_of(variables, *slots) | {"beta1_power": np.array(0.5, np.float32)}
    )
    assert convert(prefix, config_file, tmp_path / "out", moments=True) == 0
    resumable = tmp_path / "out" / "checkpoints" / "step-00000012"
    assert f"--resume {resumable}\n" in capsys.readouterr().out
    weights, moments = load_file(resumable / "model.safetensors"), load_file(resumable / "optimizer.safetensors")
    assert len(moments) == 2 * len(weights) == 92
    for name, values in weights.items():
        np.testing.assert_array_equal(moments[f"exp_avg.{name}"], -values)
        np.testing.assert_array_equal(moments[f"exp_avg_sq.{name}"], values**2)
    assert (resumable / "model.safetensors").read_bytes() == (tmp_path / "out" / "model.safetensors").read_bytes()


def without(*names: str) -> Callable[[Variables], Variables]:
    return lambda variables: {name: values for name, values in variables.items() if name not in names}


def changed(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Variables], Variables]:
    return lambda variables: variables | {name: change(variables[name])}


WRONG: dict[str, tuple[Callable[[Variables], Variables], bool, str]] = {
    "a variable is missing": (
        without("cls/predictions/output_bias"), False, "lacks cls/predictions/output_bias. Expected the variables of"),
    "a variable is unknown": (
        lambda variables: variables | {"bert/extra": np.zeros(3)}, False,
        "holds bert/extra, which the model does not have"),
    "another number of layers": (
        lambda variables: {name.replace("layer_1", "layer_7"): values for name, values in variables.items()}, False,
        r"lacks bert/encoder/layer_1/\S+, .* and 11 others; it holds bert/encoder/layer_7/"),
    "a shape is wrong": (
        changed("bert/embeddings/word_embeddings", lambda values: values[:90]), False,
        r"bert/embeddings/word_embeddings is \[90, 32\], the model configuration makes it \[100, 32\]"),
    "a matrix is on its side": (
        changed("bert/encoder/layer_1/output/dense/kernel", np.transpose), False,
        r"layer_1/output/dense/kernel is \[32, 64\], the model configuration makes it \[64, 32\]"),
    "a type is wrong": (
        changed(QUERY, lambda values: values.astype(np.float16)), False,
        rf"{QUERY} is of type float16, expected float32"),
    "no moments": (
        lambda variables: variables, True, r"holds no moments \(.*LAMB_1 or .*adam_v\); leave --moments out"),
    "a moment is missing": (
        lambda variables: without(f"{QUERY}/LAMB_1")(variables | moments_of(variables, "/LAMB", "/LAMB_1")), True,
        f"has moments, but lacks {QUERY}/LAMB_1"),
    "a moment's shape is wrong": (
        lambda variables: variables | moments_of(variables, "/LAMB", "/LAMB_1")
        | {f"{QUERY}/LAMB": np.zeros((2, 2), np.float32)}, True,
        rf"{QUERY}/LAMB is \[2, 2\], the model configuration makes it \[32, 32\]"),
    "no step": (
        lambda variables: without("global_step")(variables | moments_of(variables, "/LAMB", "/LAMB_1")), True,
        "has no global_step, by which --moments tells the step"),
}  # fmt: skip


def assert_refused(code: int, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2 and re.match(f"bert-large convert: error: .*{expected}", line), line


@pytest.mark.parametrize("wrong", WRONG)
def test_another_models_checkpoint(
    variables: Variables, config_file: Path, tmp_path: Path, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named with what was found and what was expected; nothing is written."""
    change, moments, expected = WRONG[wrong]
    prefix = save_tf(tmp_path / "model.ckpt-1", change(variables))
    assert_refused(convert(prefix, config_file, tmp_path / "out", moments=moments), expected, capsys)
    assert not (tmp_path / "out").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "file", "expected"),
    [
        (cut, "data-00000-of-00001", "model.ckpt-1 is damaged or incomplete: "),
        (flip, "data-00000-of-00001", "model.ckpt-1 is damaged or incomplete: .*[Cc]hecksum"),
        (flip, "index", "model.ckpt-1 is damaged or incomplete: "),
        (Path.unlink, "data-00000-of-00001", "model.ckpt-1 is damaged or incomplete: "),
        (Path.unlink, "index", "there is no model.ckpt-1.index in .*; give the path of the .index file without"),
    ],
)
def test_a_damaged_checkpoint(
    variables: Variables,
    config_file: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    file: str,
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No file of a model is left that a run could start from."""
    prefix = save_tf(tmp_path / "model.ckpt-1", variables)
    damage(Path(f"{prefix}.{file}"))
    assert_refused(convert(prefix, config_file, tmp_path / "out"), expected, capsys)
    assert files_of(tmp_path / "out") == {}


def test_a_folder_in_use(variables: Variables, config_file: Path, tmp_path: Path, capsys: Any) -> None:
    """Is refused, and with --overwrite gets the new files beside what else it holds."""
    prefix, out = save_tf(tmp_path / "model.ckpt-1", variables), tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "config.json").write_text("{}")
    before = files_of(out)
    assert_refused(
        convert(prefix, config_file, out), "out is not empty: it holds config.json; .*give --overwrite", capsys
    )
    assert files_of(out) == before
    assert convert(prefix, config_file, out, overwrite=True) == 0
    assert sorted(files_of(out)) == ["checksums.json", "config.json", "model.safetensors", "notes.txt"]
    assert '"hidden_size": 32' in (out / "config.json").read_text()
    assert_refused(convert(prefix, config_file, config_file), "bert_config.json is a file; name a folder", capsys)


def test_a_full_disk(
    variables: Variables, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """While the moments are written: the model that was there before stays, and no part of the new one."""
    save_tensors = checkpoint.save_tensors

    def fail_on_moments(path: Path, *what: Any) -> None:
        if path.name == "optimizer.safetensors":
            raise OSError(28, "No space left on device", str(path))
        save_tensors(path, *what)

    prefix = save_tf(tmp_path / "m", variables | moments_of(variables, "/LAMB", "/LAMB_1"))
    assert convert(prefix, config_file, tmp_path / "out") == 0
    before = files_of(tmp_path / "out")
    monkeypatch.setattr(checkpoint, "save_tensors", fail_on_moments)
    assert convert(prefix, config_file, tmp_path / "out", moments=True, overwrite=True) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert files_of(tmp_path / "out") == before


def test_after_a_kill(variables: Variables, config_file: Path, tmp_path: Path) -> None:
    """What was left half-written is no reason to refuse the folder, and goes."""
    prefix, out = save_tf(tmp_path / "model.ckpt-1", variables), tmp_path / "out"
    (out / ".partial-output").mkdir(parents=True)
    (out / ".partial-output" / "model.safetensors").write_bytes(b"half")
    assert convert(prefix, config_file, out) == 0
    assert sorted(files_of(out)) == ["checksums.json", "config.json", "model.safetensors"]
    check_checksums(out)


def test_writing_after_a_kill(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / ".a[b].7.partial").mkdir()
    assert run_here("convert", *options(to_tf=tmp_path / "a[b]", checkpoint_dir=model_folder)) == 0
    assert sorted(files_of(tmp_path)) == ["a[b].data-00000-of-00001", "a[b].index"]
    assert not (tmp_path / ".a[b].7.partial").exists()


def test_writing_over_a_checkpoint(model_folder: Path, variables: Variables, tmp_path: Path, capsys: Any) -> None:
    """Of TensorFlow too: only when asked, and whole."""
    prefix = save_tf(tmp_path / "model.ckpt-1", {"other": np.zeros(3)})
    before = files_of(tmp_path)
    arguments = options(to_tf=prefix, checkpoint_dir=model_folder)
    assert_refused(run_here("convert", *arguments), "exists already; give --overwrite to replace it", capsys)
    assert files_of(tmp_path) == before
    assert run_here("convert", *arguments, "--overwrite") == 0
    found = load_tf(prefix)
    assert found.keys() == variables.keys() and found["global_step"] == 0
    np.testing.assert_array_equal(found[QUERY], variables[QUERY])
    assert sorted(files_of(tmp_path)) == ["model.ckpt-1.data-00000-of-00001", "model.ckpt-1.index"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"tf_checkpoint": "x"}, "--tf-checkpoint needs --config-file and --output-dir"),
        ({"to_tf": "x"}, "--to-tf needs --checkpoint-dir"),
        ({"to_tf": "x", "checkpoint_dir": "y", "moments": True}, "--moments cannot be given with --to-tf"),
        ({"tf_checkpoint": "x", "config_file": "c", "output_dir": "o", "global_step": 0},
         "--global-step cannot be given with --tf-checkpoint"),
        ({"to_tf": "x", "checkpoint_dir": "y", "global_step": -1}, "--global-step is -1, expected 0 or more"),
        ({"to_tf": "x", "checkpoint_dir": "nowhere"}, "CHECKPOINT_DIR nowhere does not exist"),
    ],
)  # fmt: skip
def test_wrong_options(given: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(run_here("convert", *options(**given)), expected, capsys)


def test_without_tensorflow(
    model_folder: Path, variables: Variables, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is an extra; both ways say how to get it."""
    prefix, out = model_folder.parent / "model.ckpt-12", model_folder.parent / "out"
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    expected = r"convert needs TensorFlow .*-m pip install 'bert-large\[tensorflow\]'"
    assert_refused(convert(prefix, model_folder / "config.json", out), expected, capsys)
    assert_refused(run_here("convert", *options(to_tf=out / "m", checkpoint_dir=model_folder)), expected, capsys)
    assert not out.exists()
