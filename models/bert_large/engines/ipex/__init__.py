"""The IPEX engine: eager, with those kernels of Intel Extension for PyTorch that keep this package's guarantees.

Used from IPEX, on the model's own fp32 parameters:

- In bf16 and bf32: linear layers on weights in oneDNN's blocked layout, packed once per update, where PyTorch's own
  repack them at every call (`packed`). Weight gradients are computed by PyTorch, since IPEX returns them in the blocked
  layout. In fp32, packed layers are slower than MKL's (IPEX does not pack them either), so PyTorch's are used.
- The fused pass of its LAMB over weights, gradients and moments (`lamb`).
- What its import changes in PyTorch itself, such as which operations autocast computes in bf16.

Not used, and why:

- Split master weights (the upper half of the fp32 bits is the bf16 weight, the lower half is stored beside it). The
  upper half is truncated, not rounded, so the model computes with weights 0.28% too small on average (rounded:
  0.0004%). Gradients would be bf16 in `.grad`, where micro-batches and ranks are added up: a sum of 56 was off by 0.8%,
  against 0.07% for the float32 sum of the same gradients. A step would depend on how its batch is split. Here weights,
  gradients and moments are fp32, and checkpoints are the same for all engines.
- The libxsmm layers of `fast_bert`. Their dropout draws from one generator per thread and accepts no mask, so a run
  would depend on the numbers of ranks and threads, on micro-batches, and on where it was stopped. The only layer
  without dropout, dense with GELU, has an error of 1e-5 in fp32 (5e-5 in its gradients), only the erf form, and was no
  faster once the copies to and from its blocked layout were counted.
- `ipex.optimize`, which replaces model and optimizer by modified copies: our schedules, hooks and checkpoints would
  still refer to the originals.

fp16 is refused, because IPEX trains in fp16 only with its own loss scaling. IPEX 2.8 (August 2025) is its last release.
"""

from __future__ import annotations

import torch

from bert_large.engines.eager import EagerEngine
from bert_large.engines.ipex.lamb import update_together
from bert_large.engines.ipex.library import find_fault, ipex_version, load_ipex
from bert_large.engines.ipex.packed import PackedLinears
from bert_large.engines.precision import Precision

__all__ = ["DTYPES", "find_fault", "load_ipex", "make_engine"]
DTYPES = (torch.float32, torch.bfloat16)
"""Types of activations it supports."""


def make_engine(precision: Precision) -> tuple[EagerEngine, str]:
    """Return the engine and its description; `find_fault` must have found none."""
    linears = PackedLinears(load_ipex(), bf32=precision.matmul_precision == "medium")
    return EagerEngine("ipex", linears.linear, update_together), (
        f"Intel Extension for PyTorch {ipex_version()}: its linear layers in bf16 and bf32, its fused LAMB, the rest "
        "plain PyTorch"
    )
