"""A second implementation of MLPerf's BERT training, from its description alone, in float64 and on padded batches.

TensorFlow computes the forward pass and differentiates it; rate, clipping and LAMB are NumPy. Nothing here comes from
the package: records are read by TensorFlow, parameters have Hugging Face's names because the files compared have them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
LAYER_NORM_EPSILON = 1e-12


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyperparameters; steps count from 0."""

    learning_rate: float
    total_steps: int
    warmup_steps: int
    start_warmup_step: int = 0
    decay_power: float = 1.0
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0

    def rate(self, step: int) -> float:
        since_start = step - self.start_warmup_step
        if since_start < self.warmup_steps:
            return self.learning_rate * since_start / self.warmup_steps
        return self.learning_rate * (1 - step / self.total_steps) ** self.decay_power


@dataclass
class Reference:
    """A model in training: weights, moments (NumPy, float64) and the steps done."""

    weights: Arrays
    heads: int
    recipe: Recipe
    step: int = 0
    first_moments: Arrays = field(default_factory=dict)
    second_moments: Arrays = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights = {name: values.astype(np.float64) for name, values in self.weights.items()}
        for moments in (self.first_moments, self.second_moments):
            for name, values in self.weights.items():
                moments[name] = np.asarray(moments.get(name, np.zeros_like(values)), np.float64)

    def train(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Run one step; return its losses, the gradient's norm before clipping, and the rate."""
        masked_lm_loss, next_sentence_loss, gradients = self._differentiate(batch)
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients.values()))
        clip = self.recipe.max_gradient_norm / max(self.recipe.max_gradient_norm, norm)
        rate = self.recipe.rate(self.step)
        self.step += 1
        for name, gradient in gradients.items():
            self._lamb(name, gradient * clip, rate)
        return {
            "masked_lm_loss": masked_lm_loss, "next_sentence_loss": next_sentence_loss, "gradient_norm": norm,
            "learning_rate": rate,
        }  # fmt: skip

    def _lamb(self, name: str, gradient: NDArray[Any], rate: float) -> None:
        recipe, weight = self.recipe, self.weights[name]
        m = self.first_moments[name] = recipe.beta_1 * self.first_moments[name] + (1 - recipe.beta_1) * gradient
        v = self.second_moments[name] = recipe.beta_2 * self.second_moments[name] + (1 - recipe.beta_2) * gradient**2
        m_hat = m / (1 - recipe.beta_1**self.step)
        v_hat = v / (1 - recipe.beta_2**self.step)
        update = m_hat / (np.sqrt(v_hat) + recipe.epsilon)
        ratio = 1.0
        if "LayerNorm" not in name and "bias" not in name:
            update = update + recipe.weight_decay * weight
            weight_norm, update_norm = np.linalg.norm(weight), np.linalg.norm(update)
            if weight_norm > 0 and update_norm > 0:
                ratio = float(weight_norm / update_norm)
        self.weights[name] = weight - rate * ratio * update

    def _differentiate(self, batch: Mapping[str, NDArray[Any]]) -> tuple[float, float, Arrays]:
        import tensorflow as tf

        weights = {name: tf.constant(values) for name, values in self.weights.items()}
        with tf.GradientTape() as tape:
            tape.watch(list(weights.values()))
            masked_lm_loss, next_sentence_loss = forward(weights, self.heads, batch)
            loss = masked_lm_loss + next_sentence_loss
        gradients = tape.gradient(loss, weights)
        dense = {name: tf.convert_to_tensor(gradient).numpy() for name, gradient in gradients.items()}
        return float(masked_lm_loss), float(next_sentence_loss), dense


def forward(weights: Mapping[str, Any], heads: int, batch: Mapping[str, NDArray[Any]]) -> tuple[Any, Any]:
    """Return masked-LM and next-sentence loss of a padded batch of [B, S] tokens and [B, P] predictions."""
    import tensorflow as tf

    def dense(x: Any, name: str) -> Any:
        return tf.matmul(x, weights[f"{name}.weight"], transpose_b=True) + weights[f"{name}.bias"]

    def norm(x: Any, name: str) -> Any:
        mean = tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean((x - mean) ** 2, axis=-1, keepdims=True)
        return (x - mean) / tf.sqrt(variance + LAYER_NORM_EPSILON) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def gelu(x: Any) -> Any:
        return 0.5 * x * (1 + tf.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def split(x: Any) -> Any:  # [B * S, hidden] to [B, heads, S, hidden / heads]
        return tf.transpose(tf.reshape(x, [sequences, length, heads, -1]), [0, 2, 1, 3])

    table = "bert.embeddings.{}_embeddings.weight"
    words = weights[table.format("word")]
    sequences, length = batch["input_ids"].shape
    hidden = words.shape[1]
    x = tf.gather(words, batch["input_ids"]) + tf.gather(weights[table.format("token_type")], batch["segment_ids"])
    x = norm(x + weights[table.format("position")][:length], "bert.embeddings.LayerNorm")
    x = tf.reshape(x, [-1, hidden])
    mask = -10000.0 * (1.0 - batch["input_mask"].astype(np.float64))[:, None, None, :]
    layers = 1 + max(int(name.split(".")[3]) for name in weights if name.startswith("bert.encoder.layer."))
    for number in range(layers):
        layer = f"bert.encoder.layer.{number}"
        query, key, value = (split(dense(x, f"{layer}.attention.self.{name}")) for name in ("query", "key", "value"))
        scores = tf.matmul(query, key, transpose_b=True) / math.sqrt(hidden // heads) + mask
        context = tf.reshape(tf.transpose(tf.matmul(tf.nn.softmax(scores), value), [0, 2, 1, 3]), [-1, hidden])
        x = norm(x + dense(context, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        widened = gelu(dense(x, f"{layer}.intermediate.dense"))
        x = norm(x + dense(widened, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")

    def cross_entropy(logits: Any, labels: NDArray[Any]) -> Any:
        return -tf.gather(tf.nn.log_softmax(logits), labels, axis=1, batch_dims=1)

    offsets = np.arange(sequences)[:, None] * length
    head = "cls.predictions"
    masked = tf.gather(x, (batch["masked_lm_positions"] + offsets).reshape(-1))
    masked = norm(gelu(dense(masked, f"{head}.transform.dense")), f"{head}.transform.LayerNorm")
    logits = tf.matmul(masked, words, transpose_b=True) + weights[f"{head}.bias"]
    importance = batch["masked_lm_weights"].astype(np.float64).reshape(-1)
    losses = cross_entropy(logits, batch["masked_lm_ids"].reshape(-1))
    masked_lm_loss = tf.reduce_sum(importance * losses) / (importance.sum() + 1e-5)

    pooled = tf.tanh(dense(tf.gather(x, offsets[:, 0]), "bert.pooler.dense"))
    next_sentence = cross_entropy(dense(pooled, "cls.seq_relationship"), batch["next_sentence_labels"].reshape(-1))
    return masked_lm_loss, tf.reduce_mean(next_sentence)


def read_batches(
    path: Path, *, length: int, predictions: int, batch_size: int, skip: int, batches: int
) -> list[Arrays]:
    """Read global batches of records in file order, after skipping some records."""
    import tensorflow as tf

    sizes = {"input_ids": length, "input_mask": length, "segment_ids": length, "masked_lm_positions": predictions,
             "masked_lm_ids": predictions, "next_sentence_labels": 1}  # fmt: skip
    features = {name: tf.io.FixedLenFeature([size], tf.int64) for name, size in sizes.items()}
    features["masked_lm_weights"] = tf.io.FixedLenFeature([predictions], tf.float32)
    records = tf.data.TFRecordDataset(str(path)).skip(skip).batch(batch_size, drop_remainder=True).take(batches)
    parsed = [tf.io.parse_example(batch, features) for batch in records]
    assert len(parsed) == batches
    return [{name: values.numpy() for name, values in batch.items()} for batch in parsed]
