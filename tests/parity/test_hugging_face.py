"""Hugging Face's `BertForPreTraining`: the same results from the same weights, and the same files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from bert_large.config.model import ModelConfig
from bert_large.data.batch import RaggedBatch, make_batch
from bert_large.engines import available_engines, resolve_engine
from bert_large.engines.eager import EagerEngine
from bert_large.model.bert import BertForPreTraining
from bert_large.model.pretrained import load_weights, save_model
from bert_large.prepare.tokenizer import WordPieceTokenizer
from bert_large.prepare.vocab import SPECIAL_TOKENS, read_vocab
from safetensors.torch import load_file
from torch.nn import functional

from tests.support.hugging_face import RECORDS, assert_close, padded
from tests.support.models import randomize, tiny_config, tiny_model
from tests.support.records import make_records

transformers = pytest.importorskip("transformers", reason="needs Hugging Face's transformers to compare with")
pytestmark = pytest.mark.slow  # importing it takes ten seconds


def hugging_face(model: BertForPreTraining) -> Any:
    """Return Hugging Face's model with our weights, in training mode without dropout."""
    values = model.config.to_hugging_face() | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = transformers.BertConfig(**values, attn_implementation="eager")
    theirs = transformers.BertForPreTraining(config).to(next(model.parameters()).dtype)
    missing, unexpected = theirs.load_state_dict(model.state_dict(), strict=False)
    assert unexpected == [] and set(missing) <= {
        "cls.predictions.decoder.weight", "cls.predictions.decoder.bias", "bert.embeddings.position_ids",
    }  # fmt: skip
    theirs.tie_weights()
    return theirs


def our_logits(model: BertForPreTraining, batch: RaggedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of the masked tokens [M, vocabulary] and of the sequences [B, 2]."""
    hidden = model.bert(batch, model.engine, None)
    head, words = model.cls.predictions, model.bert.embeddings.word_embeddings.weight
    masked = hidden[batch.masked_positions]
    transformed = EagerEngine().dense_gelu(masked, head.transform.dense, model.config.hidden_act)
    norm = head.transform.LayerNorm
    normed = functional.layer_norm(transformed, norm.weight.shape, norm.weight, norm.bias, norm.eps)
    return functional.linear(normed, words, head.bias), model.next_sentence_logits(batch, hidden)


def losses_of(masked_logits: torch.Tensor, next_logits: torch.Tensor, batch: RaggedBatch) -> list[torch.Tensor]:
    """Return the reference's two training losses from logits."""
    masked_lm = functional.cross_entropy(masked_logits, batch.masked_labels, reduction="sum")
    return [
        masked_lm / (batch.masked_tokens + 1e-5),
        functional.cross_entropy(next_logits, batch.next_sentence_labels),
    ]


@pytest.mark.parametrize(
    ("engine", "dtype"),
    [("eager", torch.float64), *((name, torch.float32) for name in available_engines())],
    ids=["eager double", *(f"{name} single" for name in available_engines())],
)
@pytest.mark.parametrize("activation", ["gelu_pytorch_tanh", "gelu"])
@pytest.mark.parametrize("heads", [1, 4])
def test_logits_losses_and_gradients(engine: str, dtype: torch.dtype, activation: str, heads: int) -> None:
    """On random weights, biases and norms, and ragged inputs; every parameter's gradient of the summed loss."""
    model = tiny_model(num_attention_heads=heads, hidden_act=activation).to(dtype)
    model.engine = resolve_engine(engine)[0]
    randomize(model, spread=0.2)
    theirs, batch = hugging_face(model), make_batch(RECORDS, range(11))

    output = theirs(**padded(RECORDS))
    places = batch.sequence_ids[batch.masked_positions], batch.position_ids[batch.masked_positions]
    their_masked = output.prediction_logits[places]
    our_masked, our_next = our_logits(model, batch)
    assert_close(our_masked, their_masked, "masked-LM logits")
    assert_close(our_next, output.seq_relationship_logits, "next-sentence logits")

    sums = model(batch, None)
    our_losses = [sums.masked_lm_loss / (batch.masked_tokens + 1e-5), sums.next_sentence_loss / batch.sequences]
    their_losses = losses_of(their_masked, output.seq_relationship_logits, batch)
    for name, ours, expected in zip(("masked-LM", "next-sentence"), our_losses, their_losses, strict=True):
        assert_close(ours, expected, f"{name} loss")
    assert int(sums.masked_lm_correct) == int((their_masked.argmax(dim=1) == batch.masked_labels).sum())

    torch.stack(our_losses).sum().backward()
    torch.stack(their_losses).sum().backward()
    their_gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert sorted(their_gradients) == sorted(name for name, _ in model.named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        if name.endswith("key.bias"):  # it changes all scores of a query alike: its exact gradient is 0
            assert float(parameter.grad.abs().max()) < 1e-4 and float(their_gradients[name].abs().max()) < 1e-4
        else:
            assert_close(parameter.grad, their_gradients[name], name)


def test_the_forms_of_gelu_differ() -> None:
    """So the equality above shows which form is which."""
    batch, found = make_batch(RECORDS, range(11)), []
    for activation in ("gelu_pytorch_tanh", "gelu"):
        model = tiny_model(hidden_act=activation).double()
        randomize(model, spread=0.2)
        found.append(our_logits(model, batch)[0].detach())
    assert float((found[0] - found[1]).abs().max()) > 1e-5


@pytest.fixture
def model_save(tmp_path: Path) -> Path:
    """A saved model with random weights and a vocabulary."""
    model = tiny_model()
    randomize(model)
    vocab = tmp_path / "words.txt"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "##s", "."]
    vocab.write_text("\n".join([*tokens, *(f"word{number}" for number in range(90))]) + "\n")
    save_model(tmp_path / "model_save", model, tiny_config(), vocab)
    return tmp_path / "model_save"


def test_our_folder_loads(model_save: Path) -> None:
    """By the automatic class, without a missing, unexpected or mismatched key; all weights are equal."""
    theirs, report = transformers.AutoModelForPreTraining.from_pretrained(model_save, output_loading_info=True)
    assert type(theirs).__name__ == "BertForPreTraining"
    assert not any(report.values()), report
    saved = load_file(model_save / "model.safetensors")
    loaded = dict(theirs.named_parameters())
    assert sorted(loaded) == sorted(saved)
    for name in saved:
        assert torch.equal(loaded[name], saved[name]), name
    assert theirs.cls.predictions.decoder.weight is theirs.bert.embeddings.word_embeddings.weight
    assert (theirs.config.hidden_act, theirs.config.layer_norm_eps) == ("gelu_pytorch_tanh", 1e-12)
    assert (theirs.config.hidden_dropout_prob, theirs.config.vocab_size) == (0.1, 100)


def test_their_folder_loads(model_save: Path, tmp_path: Path) -> None:
    """A folder that Hugging Face saved has the same weights, bit for bit, and configuration."""
    transformers.AutoModelForPreTraining.from_pretrained(model_save).save_pretrained(tmp_path / "theirs")
    assert ModelConfig.from_json(tmp_path / "theirs" / "config.json") == tiny_config()
    model = BertForPreTraining(tiny_config(), EagerEngine())
    load_weights(tmp_path / "theirs" / "model.safetensors", model)
    saved = load_file(model_save / "model.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, saved[name]), name


def test_a_loaded_model_computes_the_same(model_save: Path) -> None:
    """Configuration and weights pass through files, not a state dictionary."""
    model = BertForPreTraining(tiny_config(), EagerEngine())
    load_weights(model_save / "model.safetensors", model)
    theirs = transformers.AutoModelForPreTraining.from_pretrained(model_save).eval()
    batch = make_batch(RECORDS, range(11))
    with torch.no_grad():
        output = theirs(**padded(RECORDS))
        masked, following = our_logits(model, batch)
    places = batch.sequence_ids[batch.masked_positions], batch.position_ids[batch.masked_positions]
    assert_close(masked, output.prediction_logits[places], "masked-LM logits")
    assert_close(following, output.seq_relationship_logits, "next-sentence logits")


def test_fill_mask(model_save: Path) -> None:
    """The pipeline runs from the folder alone, with the predictions of our head."""
    fill = transformers.pipeline("fill-mask", model=str(model_save), tokenizer=str(model_save))
    ids = fill.tokenizer("The cat [MASK] .")["input_ids"]
    assert ids == [2, 5, 6, 4, 9, 3]
    first = fill("The cat [MASK] .")[0]
    (record,) = make_records(1, lengths=(6, 6))
    record.input_ids[:] = ids
    record.token_type_ids[:] = 0
    object.__setattr__(record, "masked_positions", record.masked_positions[:1])
    object.__setattr__(record, "masked_ids", record.masked_ids[:1])
    record.masked_positions[:] = 3
    model = BertForPreTraining(tiny_config(), EagerEngine())
    load_weights(model_save / "model.safetensors", model)
    with torch.no_grad():
        probabilities = our_logits(model, make_batch([record], [0]))[0].softmax(dim=1)[0]
    assert first["token"] == int(probabilities.argmax())
    assert first["score"] == pytest.approx(float(probabilities.max()), rel=1e-4)


def test_the_tokenizer_follows_the_vocabularys_case(model_save: Path) -> None:
    settings = json.loads((model_save / "tokenizer_config.json").read_text())
    assert settings["do_lower_case"] is True
    assert transformers.AutoTokenizer.from_pretrained(model_save).tokenize("THE cats") == ["the", "cat", "##s"]


LETTERS = "abtTÉéñÑüß中"
WORDS = [*LETTERS, *(f"##{letter}" for letter in LETTERS), "The", "the", "##at", "##AT", ".", ",", "'", "[", "]", "-"]
LINES = ["The THE the", "Éa éA e\u0301", "Ñandú ñ", "aT 中b,T.", "[MASKE] a-b", "a\u00a0b\u200bT", "straße", ""]


@pytest.mark.parametrize("lower", [True, False])
def test_their_tokenizer_gives_the_ids_of_our_records(tmp_path: Path, lower: bool) -> None:
    """`BertTokenizer` from `model_save` alone, for a cased and an uncased model, whose ids differ."""
    (tmp_path / "words.txt").write_text("".join(f"{token}\n" for token in [*SPECIAL_TOKENS, *WORDS]))
    vocabulary = read_vocab(tmp_path / "words.txt")
    save_model(tmp_path / "model", tiny_model(), tiny_config(), tmp_path / "words.txt", lower)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert type(theirs).__name__ == "BertTokenizer"
    ours = {case: WordPieceTokenizer(vocabulary, do_lower_case=case).encode(LINES) for case in (True, False)}
    assert theirs(LINES, add_special_tokens=False)["input_ids"] == ours[lower] != ours[not lower]
    rng = random.Random(0)
    lines = ["".join(rng.choices(LETTERS + "hxX .,'-[]\t\u0301", k=30)) for _ in range(300)]
    expected = WordPieceTokenizer(vocabulary, do_lower_case=lower).encode(lines)
    assert theirs(lines, add_special_tokens=False)["input_ids"] == expected
