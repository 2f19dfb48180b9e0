"""Learning rates over the steps of a run, all serialisable with the optimizer.

Linear warm-up with cosine decay is the library's own `keras.optimizers.schedules.CosineDecay`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

SCHEDULES = ("cosine", "inverse_sqrt", "constant")


@keras.saving.register_keras_serializable(package="functional_models")
class InverseSquareRoot(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to `peak`, then peak * sqrt(warmup_steps / step).

    The schedule of "Attention Is All You Need", section 5.3, which is the one whose peak is
    (hidden_dim * warmup_steps)^-0.5; see `of_width`.

    Args:
        peak: the highest rate, reached at step `warmup_steps`.
        warmup_steps: steps until then, 1 or more.
    """

    def __init__(self, peak: float, warmup_steps: int) -> None:
        if warmup_steps < 1:
            raise ValueError(f"warmup_steps={warmup_steps}: must be 1 or more")
        self.peak = peak
        self.warmup_steps = warmup_steps

    @classmethod
    def of_width(cls, hidden_dim: int, warmup_steps: int = 4000) -> InverseSquareRoot:
        """Return the schedule of the paper, d^-0.5 * min(step^-0.5, step * warmup^-1.5)."""
        return cls((hidden_dim * warmup_steps) ** -0.5, warmup_steps)

    def __call__(self, step: Any) -> Any:
        """Return the rate of a step; steps count from zero, the first update being step one."""
        step = ops.cast(step, "float32") + 1
        warm = step / self.warmup_steps
        return self.peak * ops.minimum(warm, ops.rsqrt(warm))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal schedule."""
        return {"peak": self.peak, "warmup_steps": self.warmup_steps}


def schedule(name: str, *, peak: float, warmup_steps: int, steps: int) -> Any:
    """Return a Keras schedule, or a plain number for `constant` without warm-up.

    Args:
        name: `cosine` (down to a tenth of the peak at `steps`), `inverse_sqrt` or `constant`.
        peak: the highest rate.
        warmup_steps: steps of linear warm-up; not for `constant`.
        steps: steps of the whole run.

    Raises:
        ValueError: an unknown name.
    """
    match name:
        case "constant":
            return peak
        case "inverse_sqrt":
            return InverseSquareRoot(peak, max(warmup_steps, 1))
        case "cosine":
            return keras.optimizers.schedules.CosineDecay(
                # From a small rate, not from zero, so that the first step is not thrown away.
                initial_learning_rate=peak / max(warmup_steps, 1),
                decay_steps=max(steps - warmup_steps, 1),
                alpha=0.1,
                warmup_target=peak if warmup_steps else None,
                warmup_steps=warmup_steps,
            )
    raise ValueError(f"unknown schedule {name!r}; allowed: {', '.join(SCHEDULES)}")
