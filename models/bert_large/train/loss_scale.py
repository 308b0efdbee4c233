"""Dynamic loss scaling: multiplying the loss keeps gradients that fp16 would round to 0.

Micikevicius et al. 2018, "Mixed Precision Training"; the constants are those of PyTorch's `GradScaler`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

INITIAL_SCALE = 65536.0
GROWTH_INTERVAL = 2000


@dataclass(frozen=True)
class LossScale:
    """The factor of the loss, and the state that determines the next one. Powers of 2, so that scaling is exact."""

    scale: float = INITIAL_SCALE
    good_steps: int = 0
    """Number of updates since the scale last changed."""

    def after_update(self) -> LossScale:
        """Return the scale after a step with an update: doubled after `GROWTH_INTERVAL` updates at the same scale."""
        if self.good_steps + 1 < GROWTH_INTERVAL:
            return replace(self, good_steps=self.good_steps + 1)
        return replace(self, scale=self.scale * 2, good_steps=0)

    def after_overflow(self) -> LossScale | None:
        """Return the scale after a step whose update was skipped: half, or None if that would be below 1."""
        if self.scale < 2:
            return None
        return LossScale(self.scale / 2)
