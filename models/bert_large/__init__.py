"""BERT pretraining on CPUs: text or TFRecords in, a Hugging Face checkpoint out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bert_large.hugging_face.swap import accelerate, restore

__version__ = "0.1.0"
__all__ = ["__version__", "accelerate", "restore"]


def __getattr__(name: str) -> Any:
    """Return a public function. It is imported when it is used, because PyTorch and `transformers` take seconds."""
    if name not in ("accelerate", "restore"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from bert_large.hugging_face import swap
    except ImportError as error:
        from bert_large.extras import missing_extra

        raise missing_extra(f"bert_large.{name}", "finetune", error) from error
    return getattr(swap, name)
