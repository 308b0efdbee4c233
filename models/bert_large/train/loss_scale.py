"""Dynamic loss scaling: gradients that fp16 would round to 0 are kept, by computing those of a multiple of the loss.

Micikevicius et al. 2018, "Mixed Precision Training"; the constants are those of PyTorch's `GradScaler`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

INITIAL_SCALE = 65536.0
GROWTH_INTERVAL = 2000


@dataclass(frozen=True)
class LossScale:
    """What the loss is multiplied by, and what decides the next one. Powers of 2, so that scaling rounds nothing."""

    scale: float = INITIAL_SCALE
    good_steps: int = 0
    """Updates made since the scale last changed."""

    def after_update(self) -> LossScale:
        """Return the next step's scale when this step's figures were finite: doubled after `GROWTH_INTERVAL` such."""
        if self.good_steps + 1 < GROWTH_INTERVAL:
            return replace(self, good_steps=self.good_steps + 1)
        return replace(self, scale=self.scale * 2, good_steps=0)

    def after_overflow(self) -> LossScale | None:
        """Return the next step's scale when this step's update was skipped: half, None if that would be below 1."""
        if self.scale < 2:
            return None
        return LossScale(self.scale / 2)
