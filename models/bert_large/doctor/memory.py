"""How much memory training takes on a rank, and whether the machine has it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bert_large.config.model import ModelConfig
from bert_large.distributed.topology import control_groups, read_text
from bert_large.doctor.finding import OK, PROBLEM, WARNING, Finding
from bert_large.engines.native.functions import HEAD_ROWS
from bert_large.engines.precision import get_precision
from bert_large.model.bert import skeleton
from bert_large.optim.build import MOMENTS

_MASKED_SHARE = 0.15
_LEAST_TOKENS = 512
"""The longest sequence of phase 2: a micro-batch holds one at least."""
_PROCESS_BYTES = 360 << 20
"""Of Python, PyTorch, the kernels and what libraries keep for themselves: measured."""
_ONEDNN_BYTES = 100 << 20
"""What oneDNN keeps for bf16 products of many sizes: measured."""
_TIGHT_SHARE = 0.9
"""Of what is available: the prediction is right to a tenth or so, and others need memory too."""


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Bytes of one rank at the peak of a step."""

    state: int
    """Weights, gradients and moments, in float32, and the copies of weights that matrix products read."""
    head: int
    """Logits, and what becomes of the vocabulary's gradient on its way."""
    per_token: int
    """Activations and their gradients, for each token of the largest micro-batch."""
    tokens: int

    @property
    def total(self) -> int:
        """All of it, with what the process needs before there is a model."""
        return _PROCESS_BYTES + self.state + self.head + self.per_token * self.tokens

    def most_tokens(self, available: int) -> int:
        """Return the largest micro-batch that fits into so many bytes, in tokens; 0 or less if none does."""
        return (available - _PROCESS_BYTES - self.state - self.head) // self.per_token


def predict_memory(model: ModelConfig, *, precision: str, micro_batch_tokens: int) -> MemoryNeed:
    """Return what a rank of the native engine needs, from the tensors that its code keeps.

    With P parameters, L layers, hidden size H, intermediate size I, V words, T tokens in the largest micro-batch, and a
    bytes for an activation (4 in fp32, 2 in bf16):

    - state: 4 P each for weights, gradients and two moments, all float32. Copies of weights: in fp32 query, key and
      value as one matrix, 4 * 3 H^2 a layer; in bf16 all matrices of the layers and the vocabulary's.
    - activations: a layer's attention block keeps its input (H), query, key and value (3 H), their mix (H) and the
      sums before the norm (H); its feed-forward block its input (H), GELU's derivative and value (2 I) and the sums
      (H): (8 H + 2 I) a a token and layer. The backward pass of one block at a time adds three gradients of H, and
      where blocks of that size do not wait yet from earlier ones, that of query, key and value (3 H) and one more: 7 H
      a in all, once.
    - head: `HEAD_ROWS` rows of logits at once; with more masked tokens than these, the vocabulary's gradient is added
      up (4 V H) apart from the parameter's. In bf16 a product of that size is made in bf16 (2 V H), from a transposed
      copy of the logits, and oneDNN reorders the words once more (2 V H).
      oneDNN keeps `_ONEDNN_BYTES` for such products, and its scratch memory grows with the tokens: 10 I bytes each;
      both are measured.
    - the process: `_PROCESS_BYTES`.

    All of these add up: the engine keeps freed blocks, and those of different sizes do not serve each other.
    Against measured peaks of two and four layers of hidden size 1024, in fp32 and bf16, with 1024, 2048 and 4096 tokens
    (`bert-large bench train --compare`, one thread), it was 4% too low at worst, and with micro-batches all of one size
    9% too high; of BERT-large in fp32 with 4096 tokens, 11.58 GiB, 3% too high. One rank was measured: of several, each
    is taken to need as much.
    """
    width = get_precision(precision).activation_dtype.itemsize
    hidden, intermediate, words = model.hidden_size, model.intermediate_size, model.vocab_size
    parameters = sum(weight.numel() for weight in skeleton(model).parameters())
    if width == 4:
        copies = 4 * model.num_hidden_layers * 3 * hidden**2
    else:
        copies = width * (model.num_hidden_layers * (4 * hidden**2 + 2 * hidden * intermediate) + words * hidden)
    head = HEAD_ROWS * words * width
    if _MASKED_SHARE * micro_batch_tokens > HEAD_ROWS:
        head += 4 * words * hidden
    if width < 4:
        head += width * (HEAD_ROWS * words + 2 * words * hidden) + _ONEDNN_BYTES
    layers = model.num_hidden_layers * (8 * hidden + 2 * intermediate)
    scratch = 0 if width == 4 else 10 * intermediate
    return MemoryNeed(
        state=4 * (2 + len(MOMENTS)) * parameters + copies,
        head=head,
        per_token=width * (layers + 7 * hidden) + scratch,
        tokens=micro_batch_tokens,
    )


def read_available_bytes(root: Path = Path("/")) -> int | None:
    """Return the memory that is free or can be made free, for this process; None where the system does not tell.

    That is the machine's, or less where a control group has a limit. What a group reads from files and has not used
    lately (inactive pages) counts as free.
    """
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", read_text(root / "proc/meminfo"), re.MULTILINE)
    available = [int(found[1]) * 1024] if found else []
    for folder in control_groups(root, "memory"):
        for limit, usage, pages in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            most, used = read_text(folder / limit).strip(), read_text(folder / usage).strip()
            if most.isdecimal() and used.isdecimal():
                reclaimable = re.search(rf"^{pages} (\d+)$", read_text(folder / "memory.stat"), re.MULTILINE)
                available.append(int(most) - int(used) + (int(reclaimable[1]) if reclaimable else 0))
    return min(available, default=None)


def no_prediction(precision: str) -> Finding:
    """Tell that nothing is known of a precision that the native engine has no kernels for."""
    return Finding(
        WARNING, "memory", f"not predicted: {precision} takes the eager engine, which needs more than the native one",
        "watch its peak in the first steps, and lower MICRO_BATCH_TOKENS where it is too high",
    )  # fmt: skip


def check_memory(need: MemoryNeed, ranks: int, available: int | None) -> Finding:
    """Tell whether `ranks` ranks of this machine have the memory that training needs."""
    topic, total = "memory", need.total * ranks
    found = f"{_gib(total)} predicted" + (f" ({ranks} ranks of {_gib(need.total)})" if ranks > 1 else "")
    found += f" for micro-batches of {need.tokens} tokens, native engine, without the loader's processes"
    if available is None:
        return Finding(WARNING, topic, f"{found}; the system does not tell what is available", "compare it yourself")
    found += f"; {_gib(available)} available"
    if total <= _TIGHT_SHARE * available:
        return Finding(OK, topic, found)
    most = need.most_tokens(int(_TIGHT_SHARE * available / ranks))
    remedy = (
        f"MICRO_BATCH_TOKENS={most} fits: it does not change what is computed"
        if most >= _LEAST_TOKENS
        else "no micro-batch is small enough: start fewer ranks (RANKS_PER_NODE), end other processes, or take a "
        "smaller model or a machine with more memory"
    )
    return Finding(PROBLEM if total > available else WARNING, topic, found, remedy)


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
