"""Prediction of a rank's memory, and its comparison with what is available, before training and by `doctor`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from bert_large.config.model import ModelConfig
from bert_large.config.training import MASKED_LM_PROB
from bert_large.distributed.collectives import Ranks
from bert_large.distributed.topology import control_groups, read_text
from bert_large.engines.native.functions import HEAD_ROWS
from bert_large.engines.precision import get_precision
from bert_large.errors import InputError
from bert_large.log import LOGGER
from bert_large.model.bert import skeleton
from bert_large.model.operations import Operations
from bert_large.observe.machine import peak_memory_bytes
from bert_large.optim.build import MOMENTS
from bert_large.train.checked import Run

_PROCESS_BYTES = 350 << 20
"""Memory of Python, PyTorch, the kernels and the buffers of libraries: measured."""
_ONEDNN_BYTES = 100 << 20
"""What oneDNN adds in fp32, where it compiles kernels for many sizes: measured."""
TIGHT_SHARE = 0.9
"""Share of the available memory to use at most: the prediction is accurate to about a tenth."""


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Bytes of one rank at the peak of a step."""

    state: int
    """Weights, gradients and moments in float32, and what matrix products keep: copies of weights, or their code."""
    head: int
    """Logits, and intermediate results of the vocabulary's gradient."""
    per_token: int
    """Activations and their gradients, per token of the largest micro-batch."""
    tokens: int
    longest: int
    """Tokens of the longest sequence: a micro-batch holds at least one."""

    @property
    def total(self) -> int:
        """Sum of all parts, and the process without a model."""
        return _PROCESS_BYTES + self.state + self.head + self.per_token * self.tokens

    def fitting_tokens(self, ranks: int, available: int) -> int | None:
        """Return the tokens of the largest micro-batch of `ranks` ranks that fits into `available` bytes; None if no
        micro-batch does.
        """
        most = (int(TIGHT_SHARE * available / ranks) - _PROCESS_BYTES - self.state - self.head) // self.per_token
        return most if most >= self.longest else None


def predict_memory(
    model: ModelConfig, *, precision: str, micro_batch_tokens: int, longest: int, optimizer_shards: int = 1,
    masked_share: float = MASKED_LM_PROB,
) -> MemoryNeed:  # fmt: skip
    """Return the memory of a rank with the native engine, from the tensors that its code keeps.

    A micro-batch has `micro_batch_tokens` tokens, or those of its only sequence: at most `longest`.

    With P parameters, L layers, hidden size H, intermediate size I, V words, T tokens in the largest micro-batch, and
    `a` bytes per activation (4 in fp32, 2 in bf16):

    - state: 4 P each for weights, gradients and two moments, all float32; with `--zero1`, each of `optimizer_shards`
      ranks keeps its share of the moments. In bf16, copies of all matrices of the layers and of the vocabulary.
    - activations: a layer's attention block keeps its input (H), query, key and value (3 H), the context (H) and the
      sums before the norm (H); its feed-forward block keeps its input (H), the derivative and the value of GELU (2 I)
      and the sums (H): (8 H + 2 I) * a per token and layer. After the last layer's attention, only the tokens that the
      heads read are left, of which `masked_share` are masked tokens. The backward pass of one block at a time adds
      three gradients of H: 3 H * a, once.
    - head: logits of the masked tokens, at most `HEAD_ROWS` rows at once. With more masked tokens than that, the
      vocabulary's gradient is summed in a buffer (4 V H) beside the parameter's.
    - bf16 products pack the factors of weight gradients: (H + I) * a per token.
    - the process: `_PROCESS_BYTES`, and in fp32 `_ONEDNN_BYTES`.

    All of these add up, because the engine keeps freed blocks and does not reuse them for smaller sizes. Compared with
    measured peaks of 2, 4, 12 and 24 layers of hidden size 1024 with 1024, 2048 and 4096 tokens (`bert-large bench
    train --compare`), the prediction is between 1% too low and 1% too high (BERT-large, 4096 tokens: 9.0 GiB in bf16,
    11.4 GiB in fp32). One rank was measured; several ranks are assumed to need as much each.
    """
    width = get_precision(precision).activation_dtype.itemsize
    hidden, intermediate, words = model.hidden_size, model.intermediate_size, model.vocab_size
    parameters = sum(weight.numel() for weight in skeleton(model).parameters())
    tokens = max(micro_batch_tokens, longest)
    masked = round(masked_share * tokens)
    head = width * min(masked, HEAD_ROWS) * words
    if masked > HEAD_ROWS:
        head += 4 * words * hidden
    if width == 4:
        copies, packed, libraries = 0, 0, _ONEDNN_BYTES
    else:
        matrices = model.num_hidden_layers * (4 * hidden**2 + 2 * hidden * intermediate) + words * hidden
        copies, packed, libraries = width * matrices, hidden + intermediate, 0
    layers = (model.num_hidden_layers - 1) * (8 * hidden + 2 * intermediate) + 5 * hidden
    read = round(masked_share * (7 * hidden + 2 * intermediate))
    return MemoryNeed(
        state=8 * parameters + 4 * len(MOMENTS) * parameters // optimizer_shards + copies + libraries,
        head=head,
        per_token=width * (layers + read + 3 * hidden + packed),
        tokens=tokens,
        longest=longest,
    )


def predict_run_memory(run: Run, world_size: int) -> MemoryNeed:
    """Return the memory of a rank of a run with the native engine."""
    longest = run.data.max_seq_length
    own_sequences = -(-run.train.global_batch_size // world_size)
    return predict_memory(
        run.model,
        precision=run.train.precision,
        micro_batch_tokens=min(run.train.micro_batch_tokens, own_sequences * longest),
        longest=longest,
        optimizer_shards=world_size if run.ranks.zero1 else 1,
        masked_share=run.data.masking_rate if run.data.dynamic_masking else MASKED_LM_PROB,
    )


def read_available_bytes(root: Path = Path("/")) -> int | None:
    """Return the memory available to this process; None if the system does not report it.

    That is the available memory of the machine, or less if a control group has a limit. Inactive pages of files that a
    group has read count as available.
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


def read_free_swap_bytes(root: Path = Path("/")) -> int:
    """Return the free swap space of the machine, 0 if the system does not report it."""
    found = re.search(r"^SwapFree:\s+(\d+) kB$", read_text(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def compare_memory(need: MemoryNeed, ranks: int, available: int | None) -> tuple[str, str]:
    """Return what `ranks` ranks of this machine need beside what is available, and the remedy if that is not enough."""
    total = need.total * ranks
    found = f"{_gib(total)} predicted" + (f" ({ranks} ranks of {_gib(need.total)})" if ranks > 1 else "")
    found += f" for micro-batches of {need.tokens} tokens, native engine, without the loader's processes"
    if available is None:
        return f"{found}; the system does not report what is available", "check that it is enough"
    found += f"; {_gib(available)} available"
    if total <= TIGHT_SHARE * available:
        return found, ""
    if (most := need.fitting_tokens(ranks, available)) is not None:
        return found, f"MICRO_BATCH_TOKENS={most} fits; it does not change the results"
    return found, (
        "no micro-batch is small enough: start fewer ranks (RANKS_PER_NODE), end other processes, use a smaller model, "
        "or raise the container's or job's memory limit"
    )


def require_memory(run: Run, ranks: Ranks, engine: Operations) -> None:
    """Log a warning if this host's ranks may run out of memory; raise `InputError` if they certainly would.

    The kernel kills a process whose control group or machine has no memory left, without a message. What the ranks of
    this host hold already counts as available to them, and so does free swap space before a run is refused. Nothing is
    predicted for engines other than the native one, and where the system does not report what is available.
    """
    warning, error = "", None
    available = read_available_bytes()
    if available is not None and engine.name == "native":
        need = predict_run_memory(run, ranks.world_size)
        local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if ranks.world_size > 1 else 1
        available += local_ranks * peak_memory_bytes()
        found, remedy = compare_memory(need, local_ranks, available)
        if TIGHT_SHARE * need.total * local_ranks > available + read_free_swap_bytes():
            error = InputError(f"not enough memory: {found}; {remedy}")
        elif remedy:
            warning = f"warning: memory: {found}; {remedy}"
    with ranks.failing_together():
        if error is not None:
            raise error
    for line in dict.fromkeys(filter(None, ranks.gather(warning))):
        LOGGER.warning(line)


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
