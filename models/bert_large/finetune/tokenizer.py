"""The tokenizer of a model folder: its own, or one built from its vocabulary as `bert-large prepare` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bert_large.errors import InputError
from bert_large.export.tokenizer_file import build_tokenizer, tokenizer_settings
from bert_large.model.pretrained import find_config_file
from bert_large.prepare.casing import resolve_casing
from bert_large.prepare.tokenizer_files import TOKENIZER_FILE, VOCAB_FILE, find_vocab
from bert_large.prepare.vocab import read_vocab
from bert_large.storage.atomic import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def load_tokenizer(
    checkpoint_dir: Path, vocab_file: Path | None = None, do_lower_case: bool | None = None
) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a model folder.

    It is the folder's tokenizer.json. Without one, or with `vocab_file`, it is the tokenizer of `bert-large prepare`
    with that vocabulary or the folder's vocab.txt. `do_lower_case` None: as tokenizer_config.json beside the vocabulary
    says, or else as its words suggest. Raises `InputError` if there is no vocabulary, if it is larger than the model's,
    or if the configuration lacks the model's size.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    config_file = find_config_file(checkpoint_dir)
    config = read_json(config_file)
    if missing := [name for name in ("vocab_size", "max_position_embeddings") if name not in config]:
        raise InputError(f"CHECKPOINT_DIR: {config_file} lacks {' and '.join(missing)}; expected a BERT configuration")
    if vocab_file is None and do_lower_case is None and (checkpoint_dir / TOKENIZER_FILE).is_file():
        tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint_dir, local_files_only=True, trust_remote_code=False)
        _check_size(checkpoint_dir / TOKENIZER_FILE, len(tokenizer), config)
        tokenizer.model_max_length = min(tokenizer.model_max_length, config["max_position_embeddings"])
        return tokenizer
    path = vocab_file or find_vocab(checkpoint_dir)
    if path is None:
        raise InputError(
            f"CHECKPOINT_DIR {checkpoint_dir} has neither {TOKENIZER_FILE} nor {VOCAB_FILE}; give the vocabulary that "
            "it was pretrained with: --vocab-file"
        )
    vocabulary = read_vocab(path)
    _check_size(path, len(vocabulary.tokens), config)
    casing = resolve_casing(path, do_lower_case)
    segments, length = "type_vocab_size" in config, config["max_position_embeddings"]
    settings = tokenizer_settings(**casing.letters, max_length=length, segments=segments)
    return PreTrainedTokenizerFast(tokenizer_object=build_tokenizer(vocabulary, **casing.letters), **settings)


def _check_size(path: Path, tokens: int, config: dict[str, Any]) -> None:
    if tokens > config["vocab_size"]:
        raise InputError(
            f"{path} has {tokens} tokens, the model's vocab_size is {config['vocab_size']}; give the vocabulary that "
            "it was pretrained with: --vocab-file"
        )
