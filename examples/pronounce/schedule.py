"""The learning rate as a function of the step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Trapezoid:
    """Warm up linearly, stay, decay linearly to zero.

    Until the decay begins the rate does not depend on the length of the training, so the number of epochs
    may still be changed then; the inverse-square-root schedule of the paper's section 5.3 never reaches the
    low rates at which most of the error falls unless the training is very long.

    Attributes:
        peak: The rate of the constant part.
        warmup_steps: Steps of the linear rise.
        total_steps: All steps; the rate is zero after the last.
        decay_fraction: Part of `total_steps` in which the rate falls.
    """

    peak: float
    warmup_steps: int
    total_steps: int
    decay_fraction: float

    def rate(self, step: int) -> float:
        """The rate of a step, the first one being 0."""
        rise = (step + 1) / max(1, self.warmup_steps)
        fall = (self.total_steps - step) / max(1.0, self.total_steps * self.decay_fraction)
        return self.peak * max(0.0, min(1.0, rise, fall))
