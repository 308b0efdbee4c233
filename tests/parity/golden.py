"""MLCommons' golden run: its checkpoint as a state dictionary, and its recorded trajectory."""

from __future__ import annotations

from pathlib import Path

import torch

SHARED_DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
GOLDEN = SHARED_DATA / "mlcommons_golden"
SAMPLE = SHARED_DATA / "mlcommons_sample"

_SKIPPED = ("/LAMB", "/LAMB_1", "adam_m", "adam_v", "global_step", "beta1_power", "beta2_power")


def hugging_face_name(variable: str) -> str:
    """Return the name in `BertForPreTraining` of a variable of MLCommons' graph."""
    if variable == "cls/predictions/output_bias":
        return "cls.predictions.bias"
    if variable.startswith("cls/seq_relationship/output_"):
        return "cls.seq_relationship." + ("weight" if variable.endswith("weights") else "bias")
    name = variable.replace("/layer_", "/layer/").replace("/", ".")
    if name.endswith("_embeddings"):
        return name + ".weight"
    for theirs, ours in ((".kernel", ".weight"), (".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(theirs):
            return name.removesuffix(theirs) + ours
    return name


def load_tf_weights(prefix: Path) -> dict[str, torch.Tensor]:
    """Read a TensorFlow checkpoint's weights, without optimizer slots, under Hugging Face's names."""
    import tensorflow as tf  # slow to import, and only this needs it

    reader = tf.train.load_checkpoint(str(prefix))
    weights = {}
    for variable in reader.get_variable_to_shape_map():
        if variable.endswith(_SKIPPED):
            continue
        values = torch.from_numpy(reader.get_tensor(variable))
        weights[hugging_face_name(variable)] = values.T.contiguous() if variable.endswith("kernel") else values
    return weights
