"""The weights of a model folder, in every form in which BERT is published.

Files: `model.safetensors` or `pytorch_model.bin`, whole or in shards with an index. Names: those that `transformers`
writes today; older ones are translated (`LayerNorm.gamma`, a wrapper's prefix such as `module.`, an encoder saved
without its prefix `bert.`). Types: half precision is read as float32.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from bert_large.errors import DamageError, InputError
from bert_large.storage.atomic import read_json
from bert_large.storage.output_folder import CONFIG_FILE, WEIGHTS_FILE

PYTORCH_FILE = "pytorch_model.bin"
WEIGHTS_FILES = (WEIGHTS_FILE, f"{WEIGHTS_FILE}.index.json", PYTORCH_FILE, f"{PYTORCH_FILE}.index.json")
"""The first of these in a folder has its weights."""
CONFIG_FILES = (CONFIG_FILE, "bert_config.json")

_WORDS = "embeddings.word_embeddings.weight"
_ENCODER_PARTS = ("embeddings.", "encoder.", "transformer.", "pooler.")
_ENCODERS = ("bert.", "distilbert.")
_OLD_NORM = re.compile(r"((?:LayerNorm|layer_norm)\.)(gamma|beta)$")
_NEW_NORM = {"gamma": "weight", "beta": "bias"}
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
"""Constants that older versions of `transformers` saved with the weights."""
# The decoder shares the word embeddings, and its bias is the head's: files may repeat both.
_REPEATED = {
    "cls.predictions.decoder.weight": f"bert.{_WORDS}",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "vocab_projector.weight": f"distilbert.{_WORDS}",
}
HEADS = ("cls.predictions.", "cls.seq_relationship.", "bert.pooler.", "vocab_")
"""Prefixes of the parts of a pretraining model that an encoder may lack."""
NEXT_SENTENCE = "cls.seq_relationship.weight"
NEXT_SENTENCE_HEAD = ("bert.pooler.", "cls.seq_relationship.")
TASK_HEADS = ("classifier.", "pre_classifier.", "qa_outputs.")
_NAMED = 3


_LARGEST_WEIGHT = 1e18
"""The squares of larger values come near the end of float32's range, 3.4e38."""


class NonFiniteWeightsError(InputError):
    """A model's weights contain NaN or infinity."""


def find_file(folder: Path, names: Iterable[str]) -> Path | None:
    """Return the first of these files that the folder has."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def weight_shards(path: Path) -> list[Path]:
    """Return the files that hold the weights of one of `WEIGHTS_FILES`: itself, or the shards that it lists."""
    if not path.name.endswith(".index.json"):
        return [path]
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise DamageError(f"{path} has no weight_map; expected the index of a model in shards")
    names = sorted({str(name) for name in weight_map.values()})
    if outside := [name for name in names if Path(name).name != name]:
        raise DamageError(f"{path} names {outside[0]!r}, expected files of the same folder")
    return [path.parent / name for name in names]


class WeightFiles:
    """The tensors of a weights file or its shards, by their names in today's `transformers`; read when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        stored: dict[str, Callable[[], torch.Tensor]] = {}
        for shard in weight_shards(path):
            stored |= _open(shard)
        if path.name.endswith(".index.json") and (lost := sorted(read_json(path)["weight_map"].keys() - stored.keys())):
            raise DamageError(f"{path} lists {lost[0]}, which its shards lack ({len(lost)} such tensors)")
        self._tensors = {name: stored[old] for name, old in _current_names(stored).items()}
        bias = "cls.predictions.bias"
        if bias not in self._tensors and "cls.predictions.decoder.bias" in self._tensors:
            self._tensors[bias] = self._tensors.pop("cls.predictions.decoder.bias")

    @property
    def names(self) -> set[str]:
        """The names of all tensors but constants."""
        return {name for name in self._tensors if not name.endswith(_BUFFERS)}

    def read(
        self,
        shapes: Mapping[str, Sequence[int]],
        *,
        heads_may_lack: bool = False,
        other_shapes: tuple[str, ...] = (),
        may_be_shorter: Collection[str] = (),
    ) -> dict[str, torch.Tensor]:
        """Return the tensors of these names, which may share the file's memory, in the dtype that the file has.

        Raises `InputError` for a tensor that is missing or of another shape. With `heads_may_lack`, `HEADS` may be
        missing, each as a whole; a tensor with a prefix in `other_shapes` is left out if its shape differs; one in
        `may_be_shorter` may have fewer rows.
        """
        missing = sorted(shapes.keys() - self._tensors.keys())
        without_heads = [name for name in missing if not self._lacks_whole_head(name)]
        if heads_may_lack:
            missing = without_heads
        if missing:
            advice = "" if without_heads else ". It is an encoder: only pretraining starts from it, with new heads"
            raise InputError(
                f"{self.path} lacks tensors ({len(missing)}), such as {missing[0]}; expected the weights of the model "
                f"that its configuration describes{advice}"
            )
        tensors = {name: self._tensors[name]() for name in shapes if name in self._tensors}
        for name, tensor in list(tensors.items()):
            rows, *row = tensor.shape or (0,)
            if [rows, *row] == list(shapes[name]) or (
                name in may_be_shorter and 0 < rows < shapes[name][0] and row == list(shapes[name][1:])
            ):
                continue
            if name.startswith(other_shapes):
                del tensors[name]
            else:
                raise InputError(
                    f"{self.path}: {name} is {list(tensor.shape)}, the model configuration makes it "
                    f"{list(shapes[name])}; the checkpoint is of another shape"
                )
        return tensors

    def _lacks_whole_head(self, name: str) -> bool:
        head = next((head for head in HEADS if name.startswith(head)), None)
        return head is not None and not any(other.startswith(head) for other in self.names - _REPEATED.keys())

    def refuse_unknown(self, known: Collection[str], ignored: tuple[str, ...]) -> None:
        """Raise `InputError` for tensors that are neither `known` nor of `ignored` parts: they change the model.

        Adapters, relative positions and a decoder of its own would otherwise be dropped without notice.
        """
        unknown = sorted(self.names - set(known) - _REPEATED.keys())
        if unknown := [name for name in unknown if not name.startswith(ignored)]:
            raise InputError(
                f"{self.path} holds {list_names(unknown)}, which the model of its configuration does not "
                "have; expected BERT as its authors published it"
            )

    def refuse_own_decoder(self) -> None:
        """Raise `InputError` where the decoder's tensors differ from those that it must share."""
        for copy, original in _REPEATED.items():
            found = [self._tensors[name]() for name in (copy, original) if name in self._tensors]
            if len(found) == 2 and not torch.equal(*found):
                raise InputError(
                    f"{self.path}: {copy} differs from {original}; expected a decoder that shares them (tied weights), "
                    "as all models of this package do"
                )


def list_names(names: Sequence[str]) -> str:
    """Return the first names and the number of others, for messages."""
    more = f" and {len(names) - _NAMED} others" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def require_finite(tensors: Mapping[str, torch.Tensor], where: Path | str) -> None:
    """Raise `NonFiniteWeightsError` if a tensor of `where` contains NaN, infinity or huge values."""
    # One comparison finds NaN (which compares false), infinity, and values that any product turns into infinity.
    damaged = [name for name, values in tensors.items() if values.numel() and not values.abs().amax() < _LARGEST_WEIGHT]
    if damaged:
        others = f", as do {len(damaged) - 1} other tensors" if len(damaged) > 1 else ""
        raise NonFiniteWeightsError(
            f"{where}: {damaged[0]} contains NaN, infinity or values above {_LARGEST_WEIGHT:g}{others}; training "
            "diverged before it was saved. Use the weights of an earlier checkpoint"
        )


def as_float32(path: Path, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a weight as float32; raise `InputError`, which names it, if it is not floating point or not finite."""
    if not tensor.is_floating_point():
        raise InputError(f"{path}: {name} is of type {tensor.dtype}, expected floating point")
    tensor = tensor.float()
    require_finite({name: tensor}, path)
    return tensor


def _open(path: Path) -> dict[str, Callable[[], torch.Tensor]]:
    """Return a function for each tensor of one file that reads it, from memory-mapped pages where possible."""
    try:
        if path.suffix == ".safetensors":
            file = safe_open(path, framework="pt")
            return {name: lambda name=name: file.get_tensor(name) for name in file.keys()}  # type: ignore[misc]  # noqa: SIM118
        # weights_only: a pickle may not run code. Files from before PyTorch 1.6 are not archives and cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_archive(path))  # noqa: TID251
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; expected a checkpoint's {path.name} there") from None
    except OSError as error:
        damaged = "; it may be truncated: copy or download it again" if error.errno == errno.EINVAL else ""
        raise InputError(f"{path} cannot be read: {error.strerror or error}{damaged}") from None
    except Exception as error:  # for a damaged file PyTorch raises errors of many kinds
        reason = (str(error) or repr(error)).splitlines()[0].partition(". ")[0]  # without PyTorch's advice to trust it
        kind = "safetensors file" if path.suffix == ".safetensors" else "file of PyTorch tensors"
        raise InputError(f"{path} is damaged or not a {kind}: {reason}") from None
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise InputError(f"{path} holds a {type(content).__name__} of other things than tensors by name")
    return {str(name): lambda tensor=tensor: tensor for name, tensor in content.items()}  # type: ignore[misc]


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _current_names(stored: Collection[str]) -> dict[str, str]:
    """Return the stored name of each tensor by its name in today's `transformers`."""
    words = next((name for name in sorted(stored) if name.endswith(_WORDS)), "")
    prefix = words.removesuffix(_WORDS)
    encoder = next((name for name in _ENCODERS if f".{prefix}".endswith(f".{name}")), "")
    wrapper = prefix.removesuffix(encoder)
    added = ""
    if words and not encoder:
        added = "distilbert." if any(name.startswith(f"{wrapper}transformer.") for name in stored) else "bert."
    names = {}
    for old in stored:
        name = _OLD_NORM.sub(lambda match: match[1] + _NEW_NORM[match[2]], old.removeprefix(wrapper))
        names[added + name if name.startswith(_ENCODER_PARTS) else name] = old
    return names
