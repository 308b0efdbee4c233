"""A folder for Hugging Face's hub: the model, its tokenizer and a model card."""

from __future__ import annotations

from pathlib import Path

from bert_large.errors import InputError
from bert_large.export.model_card import model_card
from bert_large.export.tokenizer_file import build_tokenizer, tokenizer_settings
from bert_large.model import pretrained
from bert_large.model.bert import skeleton
from bert_large.prepare.casing import resolve_casing
from bert_large.prepare.tokenizer_files import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, VOCAB_FILE
from bert_large.prepare.vocab import read_vocab
from bert_large.storage.atomic import write_atomically, write_json
from bert_large.storage.integrity import write_checksums
from bert_large.storage.output_folder import partial_folder, publish_model
from bert_large.train.initial_model import resolve_model_config, resolve_vocab
from bert_large.train.run_folder import RUN_FILE


def export_folder(
    checkpoint_dir: Path, output_dir: Path, *, vocab_file: Path | None, do_lower_case: bool | None, run_dir: Path | None
) -> None:
    """Write the folder; everything is made, and the weights are checked, before the first file is moved into place.

    `do_lower_case` None: as the vocabulary says. `run_dir` None: the folder that contains `checkpoint_dir`, if it is a
    run's.
    """
    config = resolve_model_config(None, checkpoint_dir, None)
    vocab_path = resolve_vocab(vocab_file, checkpoint_dir, config)
    if vocab_path is None:
        raise InputError(f"CHECKPOINT_DIR {checkpoint_dir} has no {VOCAB_FILE} or {TOKENIZER_FILE}; give --vocab-file")
    vocabulary = read_vocab(vocab_path)
    casing = resolve_casing(vocab_path, do_lower_case)
    letters = casing.letters
    beside = checkpoint_dir.absolute().parent
    if run_dir is None and (beside / RUN_FILE).exists():
        run_dir = beside
    model = skeleton(config).to_empty(device="cpu")
    parameters = sum(weights.numel() for weights in model.parameters())
    card = model_card(config, parameters, casing, run_dir)
    pretrained.load_model(checkpoint_dir, model)
    settings = {
        # Not BertTokenizer, which would replace the rules of tokenizer.json by its own.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **tokenizer_settings(**letters, max_length=config.max_position_embeddings, segments=config.traits.has_segments),
    }
    with partial_folder(output_dir) as partial:
        pretrained.save_model(partial, model, config, vocab_path, **letters)
        _write_text(partial / TOKENIZER_FILE, build_tokenizer(vocabulary, **letters).to_str(pretty=True))
        write_json(partial / TOKENIZER_CONFIG_FILE, settings)
        write_checksums(partial)
        _write_text(partial / "README.md", card)  # without a checksum, as users edit it
        publish_model(partial, output_dir)


def _write_text(path: Path, text: str) -> None:
    with write_atomically(path) as file:
        file.write(text.encode())
