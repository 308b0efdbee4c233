"""`bert-large convert`: round trips, refusals, and failures on the way. TensorFlow writes the checkpoints."""

from __future__ import annotations

import errno
import json
import os
import shutil
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
from safetensors.numpy import load_file, save_file

from tests.support.models import randomize, tiny_model, write_config
from tests.support.runs import PROJECT, options, run_here
from tests.support.training import flip_a_bit

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
    """A tiny model whose parameters all differ."""
    folder, model = tmp_path_factory.mktemp("convert") / "model", tiny_model()
    randomize(model)
    pretrained.save_model(folder, model, model.config, None)
    return folder


@pytest.fixture(scope="module")
def variables(model_folder: Path) -> Variables:
    """The variables of that model after conversion, read by TensorFlow."""
    prefix = model_folder.parent / "model.ckpt-12"
    assert run_here("convert", *options(to_tf=prefix, checkpoint_dir=model_folder, global_step=12)) == 0
    return load_tf(prefix)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return write_config(tmp_path / "bert_config.json")


def with_moments(variables: Variables, first: str = "/LAMB", second: str = "/LAMB_1", **changes: Any) -> Variables:
    """Add moments of all weights: m is -w, v is w squared."""
    weights = {name: values for name, values in variables.items() if name != "global_step"}
    moments = {name + first: -values for name, values in weights.items()}
    return variables | moments | {name + second: values**2 for name, values in weights.items()} | changes


def convert(prefix: Path, config_file: Path, output_dir: Path, **more: Any) -> int:
    return run_here("convert", *options(tf_checkpoint=prefix, config_file=config_file, output_dir=output_dir, **more))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_and_back(model_folder: Path, variables: Variables, config_file: Path, tmp_path: Path) -> None:
    """The step is kept, and the folder is the same to the byte, weights and configuration."""
    assert variables["global_step"] == 12 and variables["global_step"].dtype == np.int64
    assert len(variables) == 47 and {str(values.dtype) for values in variables.values()} == {"float32", "int64"}
    assert convert(model_folder.parent / "model.ckpt-12", config_file, tmp_path / "out") == 0
    assert files_of(tmp_path / "out") == files_of(model_folder)


def test_matrices_are_transposed_as_in_the_reference(model_folder: Path, variables: Variables) -> None:
    weights = load_file(model_folder / "model.safetensors")
    np.testing.assert_array_equal(variables[QUERY], weights["bert.encoder.layer.0.attention.self.query.weight"].T)
    np.testing.assert_array_equal(
        variables["cls/seq_relationship/output_weights"], weights["cls.seq_relationship.weight"]
    )


def test_the_form_of_gelu(model_folder: Path, variables: Variables, config_file: Path, tmp_path: Path) -> None:
    """It is in the configuration; Google's `gelu` is the tanh form by default."""
    for gelu, expected in ((None, "gelu_pytorch_tanh"), ("erf", "gelu")):
        out = tmp_path / expected
        assert convert(model_folder.parent / "model.ckpt-12", config_file, out, gelu=gelu) == 0
        assert json.loads((out / "config.json").read_text())["hidden_act"] == expected


@pytest.mark.parametrize("slots", [("/LAMB", "/LAMB_1"), ("/adam_m", "/adam_v")])
def test_moments(variables: Variables, config_file: Path, tmp_path: Path, slots: tuple[str, str], capsys: Any) -> None:
    """Both kinds of names are read, and the output names the folder to resume from."""
    prefix = save_tf(tmp_path / "m", with_moments(variables, *slots, beta1_power=np.array(0.5, np.float32)))
    assert convert(prefix, config_file, tmp_path / "out", moments=True) == 0
    resumable = tmp_path / "out" / "checkpoints" / "step-00000012"
    assert f"--resume {resumable}\n" in capsys.readouterr().out
    weights, moments = load_file(resumable / "model.safetensors"), load_file(resumable / "optimizer.safetensors")
    assert len(moments) == 2 * len(weights) == 92
    for name, values in weights.items():
        np.testing.assert_array_equal(moments[f"exp_avg.{name}"], -values)
        np.testing.assert_array_equal(moments[f"exp_avg_sq.{name}"], values**2)
    assert (resumable / "model.safetensors").read_bytes() == (tmp_path / "out" / "model.safetensors").read_bytes()


def test_an_earlier_checkpoint_over_a_later_one(
    variables: Variables, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The printed checkpoint is the one of this conversion, though the folder has one of a later step."""
    for step in (2000, 1000):
        prefix = save_tf(tmp_path / f"m-{step}", with_moments(variables, global_step=np.array(step, np.int64)))
        assert convert(prefix, config_file, tmp_path / "out", moments=True, overwrite=True) == 0
        resumable = tmp_path / "out" / "checkpoints" / f"step-{step:08d}"
        assert f"--resume {resumable}\n" in capsys.readouterr().out
        assert checkpoint.read_state(resumable)[0].step == step


def test_files_are_flushed_where_the_file_system_can(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without fsync, as many in user space are, does not fail the conversion."""

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(os, "fsync", refuse)
    assert run_here("convert", *options(to_tf=tmp_path / "m", checkpoint_dir=model_folder)) == 0
    assert len(load_tf(tmp_path / "m")) == 47


def without(*names: str) -> Callable[[Variables], Variables]:
    return lambda variables: {name: values for name, values in variables.items() if name not in names}


def changed(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Variables], Variables]:
    return lambda variables: variables | {name: change(variables[name])}


WRONG: dict[str, tuple[Callable[[Variables], Variables], bool, tuple[str, ...]]] = {
    "a variable is missing": (without("cls/predictions/output_bias"), False, ("lacks cls/predictions/output_bias",)),
    "a variable is unknown": (
        lambda variables: variables | {"bert/extra": np.zeros(3)}, False, ("holds bert/extra",)),
    "another number of layers": (
        lambda variables: {name.replace("layer_1", "layer_7"): values for name, values in variables.items()}, False,
        ("lacks bert/encoder/layer_1/", "holds bert/encoder/layer_7/")),
    "a shape is wrong": (
        changed("bert/embeddings/word_embeddings", lambda values: values[:90]), False,
        ("bert/embeddings/word_embeddings", "[90, 32]", "[100, 32]")),
    "a matrix is transposed": (
        changed("bert/encoder/layer_1/output/dense/kernel", np.transpose), False,
        ("layer_1/output/dense/kernel", "[32, 64]", "[64, 32]")),
    "a type is wrong": (
        changed(QUERY, lambda values: values.astype(np.float16)), False, (QUERY, "float16")),
    "a value is not finite": (
        changed(QUERY, lambda values: np.where(values == values.max(), np.inf, values)), False, (QUERY, "NaN")),
    "no moments": (lambda variables: variables, True, ("--moments", "LAMB_1")),
    "a moment is missing": (
        lambda variables: without(f"{QUERY}/LAMB_1")(with_moments(variables)), True, (f"lacks {QUERY}/LAMB_1",)),
    "a moment's shape is wrong": (
        lambda variables: with_moments(variables) | {f"{QUERY}/LAMB": np.zeros((2, 2), np.float32)}, True,
        (f"{QUERY}/LAMB", "[2, 2]", "[32, 32]")),
    "a moment is not finite": (
        lambda variables: with_moments(variables) | {f"{QUERY}/LAMB": np.full((32, 32), np.nan, np.float32)}, True,
        (f"{QUERY}/LAMB", "NaN")),
    "a moment is too large": (
        lambda variables: with_moments(variables) | {f"{QUERY}/LAMB_1": np.full((32, 32), 1e19, np.float32)}, True,
        (f"{QUERY}/LAMB_1", "1e+18")),
    "no step": (
        lambda variables: without("global_step")(with_moments(variables)), True, ("global_step", "--moments")),
}  # fmt: skip


def assert_refused(code: int, capsys: pytest.CaptureFixture[str], *named: str) -> None:
    """The command ended with code 2 and one line that names all of these."""
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2 and line.startswith("bert-large convert: error: ")
    assert all(text in line for text in named), line


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_checkpoints_are_refused(
    variables: Variables, config_file: Path, tmp_path: Path, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The variable is named, and no file is written."""
    change, moments, named = WRONG[wrong]
    prefix = save_tf(tmp_path / "model.ckpt-1", change(variables))
    assert_refused(convert(prefix, config_file, tmp_path / "out", moments=moments), capsys, *named)
    assert files_of(tmp_path / "out") == {}


def test_state_of_training_is_ignored_and_named(
    model_folder: Path, variables: Variables, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scalars of loss scaling, slots of other optimizers, moving averages and texts are not weights."""
    state: Variables = {
        **{name: np.array(1, np.float32) for name in ("loss_scale", "good_steps", "optimizer/learning_rate")},
        **{f"{name}/AdamWeightDecay/m": values for name, values in variables.items() if name != "global_step"},
        f"{QUERY}/ExponentialMovingAverage": variables[QUERY],
        f"training/LAMB/{QUERY}/v": variables[QUERY],
        "bad_steps": np.array([0], np.int32).reshape(()),
        "_CHECKPOINTABLE_OBJECT_GRAPH": np.array(b"graph"),
    }
    prefix = save_tf(tmp_path / "model.ckpt-1", variables | state)
    assert convert(prefix, config_file, tmp_path / "out") == 0
    assert files_of(tmp_path / "out") == files_of(model_folder)
    printed = capsys.readouterr().out
    assert f"ignored {len(state)} variables" in printed and "_CHECKPOINTABLE_OBJECT_GRAPH, bad_steps" in printed


def save_objects(prefix: Path, variables: Variables, **more: Any) -> Path:
    """Write the encoder as an object checkpoint of TensorFlow 2, with the attributes of its model garden."""
    import tensorflow as tf

    def node(**members: Any) -> Any:
        made = tf.Module()
        for name, member in members.items():
            setattr(made, name, member if isinstance(member, tf.Module) else tf.Variable(member))
        return made

    def dense(name: str, *shape: int) -> Any:
        bias = variables[f"{name}/bias"]
        return node(kernel=variables[f"{name}/kernel"].reshape(shape or variables[f"{name}/kernel"].shape),
                    bias=bias.reshape(shape[1:]) if len(shape) == 3 and shape[0] == 32 else bias)  # fmt: skip

    def norm(name: str) -> Any:
        return node(gamma=variables[f"{name}/gamma"], beta=variables[f"{name}/beta"])

    names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    layers = [node(embeddings=variables[f"bert/embeddings/{name}"]) for name in names]
    layers.append(norm("bert/embeddings/LayerNorm"))
    for number in range(2):
        layer = f"bert/encoder/layer_{number}"
        attention = {
            f"_{part}_dense": dense(f"{layer}/attention/self/{part}", 32, 2, 16) for part in ("query", "key", "value")
        }
        attention["_output_dense"] = dense(f"{layer}/attention/output/dense", 2, 16, 32)
        layers.append(
            node(
                _attention_layer=node(**attention),
                _attention_layer_norm=norm(f"{layer}/attention/output/LayerNorm"),
                _intermediate_dense=dense(f"{layer}/intermediate/dense"),
                _output_dense=dense(f"{layer}/output/dense"),
                _output_layer_norm=norm(f"{layer}/output/LayerNorm"),
            )
        )
    layers.append(dense("bert/pooler/dense"))
    model = node(**{f"layer_with_weights-{number}": layer for number, layer in enumerate(layers)}, **more)
    return Path(tf.train.Checkpoint(model=model).write(str(prefix)))


def test_an_encoder_of_tensorflow_2(
    model_folder: Path, variables: Variables, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its weights are exact; `transformers` loads the folder; moments are refused, and so is another structure."""
    prefix = save_objects(tmp_path / "bert_model.ckpt", variables)
    assert convert(prefix, config_file, tmp_path / "out") == 0
    expected, found = (load_file(folder / "model.safetensors") for folder in (model_folder, tmp_path / "out"))
    assert found.keys() == {name for name in expected if name.startswith("bert.")}
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name], name)
    transformers = pytest.importorskip("transformers", reason="needs Hugging Face's transformers")
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "out").state_dict()
    np.testing.assert_array_equal(theirs["pooler.dense.weight"], expected["bert.pooler.dense.weight"])
    capsys.readouterr()
    assert_refused(convert(prefix, config_file, tmp_path / "no", moments=True), capsys, "no moments")
    extended = save_objects(tmp_path / "more.ckpt", variables, adapter=np.zeros((3, 3), np.float32))
    assert_refused(convert(extended, config_file, tmp_path / "no"), capsys, "model/adapter/", "TensorFlow 2")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("damage", "file", "expected"),
    [
        (cut, "data-00000-of-00001", "model.ckpt-1 is damaged"),
        (flip_a_bit, "data-00000-of-00001", "hecksum"),
        (flip_a_bit, "index", "model.ckpt-1 is damaged"),
        (Path.unlink, "data-00000-of-00001", "model.ckpt-1 is damaged"),
        (Path.unlink, "index", "model.ckpt-1.index"),
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
    """No file of a model is left."""
    prefix = save_tf(tmp_path / "model.ckpt-1", variables)
    damage(Path(f"{prefix}.{file}"))
    assert_refused(convert(prefix, config_file, tmp_path / "out"), capsys, expected)
    assert files_of(tmp_path / "out") == {}


def test_a_folder_in_use(variables: Variables, config_file: Path, tmp_path: Path, capsys: Any) -> None:
    """It is refused; with --overwrite it gets the new files, and other files in it stay."""
    prefix, out = save_tf(tmp_path / "model.ckpt-1", variables), tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "config.json").write_text("{}")
    before = files_of(out)
    assert_refused(convert(prefix, config_file, out), capsys, str(out), "config.json", "--overwrite")
    assert files_of(out) == before
    assert convert(prefix, config_file, out, overwrite=True) == 0
    assert sorted(files_of(out)) == ["checksums.json", "config.json", "model.safetensors", "notes.txt"]
    assert '"hidden_size": 32' in (out / "config.json").read_text()
    assert_refused(convert(prefix, config_file, config_file), capsys, str(config_file))


def test_a_full_disk(
    variables: Variables, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The disk fills while the moments are written: the previous model stays, and no part of the new one."""
    save_tensors = checkpoint.save_tensors

    def fail_on_moments(path: Path, *what: Any) -> None:
        if path.name == "optimizer.safetensors":
            raise OSError(28, "No space left on device", str(path))
        save_tensors(path, *what)

    prefix = save_tf(tmp_path / "m", with_moments(variables))
    assert convert(prefix, config_file, tmp_path / "out") == 0
    before = files_of(tmp_path / "out")
    monkeypatch.setattr(checkpoint, "save_tensors", fail_on_moments)
    assert convert(prefix, config_file, tmp_path / "out", moments=True, overwrite=True) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert files_of(tmp_path / "out") == before


def test_after_a_kill(variables: Variables, config_file: Path, tmp_path: Path) -> None:
    """Half-written files are removed and do not make the folder one in use."""
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
    """A checkpoint of TensorFlow is replaced only with --overwrite, and as a whole."""
    prefix = save_tf(tmp_path / "model.ckpt-1", {"other": np.zeros(3)})
    before = files_of(tmp_path)
    arguments = options(to_tf=prefix, checkpoint_dir=model_folder)
    assert_refused(run_here("convert", *arguments), capsys, "model.ckpt-1", "--overwrite")
    assert files_of(tmp_path) == before
    assert run_here("convert", *arguments, "--overwrite") == 0
    found = load_tf(prefix)
    assert found.keys() == variables.keys() and found["global_step"] == 0
    np.testing.assert_array_equal(found[QUERY], variables[QUERY])
    assert sorted(files_of(tmp_path)) == ["model.ckpt-1.data-00000-of-00001", "model.ckpt-1.index"]


def test_long_names(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The longest name that the finished files can have works: temporary names do not grow from it."""
    prefix = tmp_path / ("x" * (255 - len(".data-00000-of-00001")))
    assert run_here("convert", *options(to_tf=prefix, checkpoint_dir=model_folder)) == 0
    assert len(load_tf(prefix)) == 47
    assert run_here("convert", *options(to_tf=f"{prefix}x", checkpoint_dir=model_folder)) != 0
    assert f"{prefix}x" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"tf_checkpoint": "x"}, ("--config-file", "--output-dir")),
        ({"to_tf": "x"}, ("--checkpoint-dir",)),
        ({"to_tf": "x", "checkpoint_dir": "y", "moments": True}, ("--moments", "--to-tf")),
        ({"tf_checkpoint": "x", "config_file": "c", "output_dir": "o", "global_step": 0},
         ("--global-step", "--tf-checkpoint")),
        ({"to_tf": "x", "checkpoint_dir": "y", "global_step": -1}, ("--global-step is -1",)),
        ({"to_tf": "x", "checkpoint_dir": "nowhere"}, ("CHECKPOINT_DIR nowhere",)),
    ],
)  # fmt: skip
def test_wrong_options(given: dict[str, Any], named: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(run_here("convert", *options(**given)), capsys, *named)


def test_weights_that_are_not_finite(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_file(model_folder / "model.safetensors")
    weights["bert.pooler.dense.bias"][3] = np.nan
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "model" / "checksums.json").unlink()
    save_file(weights, tmp_path / "model" / "model.safetensors")
    code = run_here("convert", *options(to_tf=tmp_path / "m", checkpoint_dir=tmp_path / "model"))
    assert_refused(code, capsys, "bert.pooler.dense.bias", "NaN")


def test_without_tensorflow(
    model_folder: Path, variables: Variables, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is an extra; both directions report how to install it."""
    prefix, out = model_folder.parent / "model.ckpt-12", model_folder.parent / "out"
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert_refused(convert(prefix, model_folder / "config.json", out), capsys, "tensorflow", f"{PROJECT}[tensorflow]")
    code = run_here("convert", *options(to_tf=out / "m", checkpoint_dir=model_folder))
    assert_refused(code, capsys, "tensorflow", f"{PROJECT}[tensorflow]")
    assert not out.exists()
