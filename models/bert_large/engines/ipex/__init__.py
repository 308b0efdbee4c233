"""The IPEX engine: eager, on Intel Extension for PyTorch's kernels where they keep what this package promises.

What is taken of IPEX, and works on the model's own fp32 parameters:

- In bf16 and bf32, linear layers on weights that IPEX has put into oneDNN's layout once an update, which PyTorch's own
  do at every call (`packed`). Weight gradients stay PyTorch's: theirs come back in that layout and would have to be
  taken out of it. In fp32 the packed layers are slower than MKL's and IPEX does not pack them either: plain PyTorch.
- The pass of its fused LAMB over weights, gradients and moments (`lamb`).
- What its import changes in PyTorch itself, such as which operations autocast computes in bf16.

What is not, and why:

- Split master weights (the upper half of the fp32 bits as the bf16 weight, the lower half kept beside it). The halves
  do make up the fp32 weight, but the upper half is cut off, not rounded, so that the model computes with weights 0.28%
  too small on average (rounded: 0.0004%). And gradients are then bf16 in `.grad`, where micro-batches and ranks add
  them up: 56 of them, added so, were off by 0.8% where float32 sums of the same were off by 0.07%. A step would depend
  on how it is cut. Here weights, gradients and moments are fp32, and a checkpoint is one of any engine's.
- The libxsmm layers of `fast_bert`. Their dropout draws from IPEX's own generator, one a thread, and their kernels take
  no mask from outside: a run would depend on the number of ranks and threads, on the cut into micro-batches, and on
  where it was stopped. Its dense layer with GELU, the only one without dropout, is off by 1e-5 in fp32 (5e-5 in its
  gradients), knows only the form with erf, and was no faster with the copies into its blocks and back.
- `ipex.optimize`, which does the above to a copy of model and optimizer: schedules, hooks and checkpoints of ours would
  go on working on the original.

fp16 is refused: IPEX trains in it only with a loss scaling of its own. IPEX 2.8 of August 2025 is its last release.
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
"""Of activations."""


def make_engine(precision: Precision) -> tuple[EagerEngine, str]:
    """Return the engine, where `find_fault` finds none, and what it is."""
    linears = PackedLinears(load_ipex(), bf32=precision.matmul_precision == "medium")
    return EagerEngine("ipex", linears.linear, update_together), (
        f"Intel Extension for PyTorch {ipex_version()}: its linear layers in bf16 and bf32, its fused LAMB, the rest "
        "plain PyTorch"
    )
