"""Learning-rate schedules, serialisable with the optimizer.

Linear warm-up with cosine decay is `keras.optimizers.schedules.CosineDecay`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from functional_models.recipe import Recipe


@keras.saving.register_keras_serializable(package="functional_models")
class InverseSquareRoot(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to `peak`, then peak * sqrt(warmup_steps / step).

    With peak = (hidden_dim * warmup_steps)^-0.5 this is the schedule of "Attention Is All You
    Need", section 5.3.

    Args:
        peak: maximum rate, reached at step `warmup_steps`.
        warmup_steps: steps of linear warm-up, 1 or more.
    """

    def __init__(self, peak: float, warmup_steps: int) -> None:
        if warmup_steps < 1:
            raise ValueError(f"warmup_steps={warmup_steps}: must be 1 or more")
        self.peak = peak
        self.warmup_steps = warmup_steps

    def __call__(self, step: Any) -> Any:
        """Return the rate of a step; Keras counts steps from zero, the paper from one."""
        step = ops.cast(step, "float32") + 1
        warm = step / self.warmup_steps
        return self.peak * ops.minimum(warm, ops.rsqrt(warm))

    def __repr__(self) -> str:
        return f"InverseSquareRoot(peak={self.peak}, warmup_steps={self.warmup_steps})"

    def get_config(self) -> dict[str, Any]:
        return {"peak": self.peak, "warmup_steps": self.warmup_steps}


@keras.saving.register_keras_serializable(package="functional_models")
class WarmupStableDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to `peak`, which stays until the last steps, in which it decays to zero.

    The decay is peak * (1 - sqrt(share of the decay)) (Hägele et al. 2024, arXiv 2405.18392).

    Args:
        peak: maximum rate.
        warmup_steps: steps of linear warm-up.
        steps: all steps.
        decay_steps: the last of them, in which the rate decays, 1 or more.
    """

    def __init__(self, peak: float, warmup_steps: int, steps: int, decay_steps: int) -> None:
        if decay_steps < 1:
            raise ValueError(f"decay_steps={decay_steps}: must be 1 or more")
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.steps = steps
        self.decay_steps = decay_steps

    def __call__(self, step: Any) -> Any:
        """Return the rate of a step, counted from zero."""
        step = ops.cast(step, "float32")
        warm = ops.minimum((step + 1) / max(self.warmup_steps, 1), 1.0)
        decay = ops.clip((step - (self.steps - self.decay_steps)) / self.decay_steps, 0.0, 1.0)
        return self.peak * ops.minimum(warm, 1 - ops.sqrt(decay))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in self.get_config().items())
        return f"WarmupStableDecay({values})"

    def get_config(self) -> dict[str, Any]:
        names = ("peak", "warmup_steps", "steps", "decay_steps")
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="functional_models")
class OfUpdates(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule whose steps are weight updates, for an optimizer that accumulates gradients.

    Keras counts the parts of the batches.

    Args:
        schedule: the schedule.
        parts: parts of a batch.
    """

    def __init__(self, schedule: Any, parts: int) -> None:
        self.schedule = schedule
        self.parts = parts

    def __call__(self, step: Any) -> Any:
        return self.schedule(ops.floor_divide(ops.cast(step, "int32"), self.parts))

    def __repr__(self) -> str:
        return f"OfUpdates({self.schedule!r}, parts={self.parts})"

    def get_config(self) -> dict[str, Any]:
        inner = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": inner, "parts": self.parts}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> OfUpdates:
        inner = keras.optimizers.schedules.deserialize(config["schedule"], custom_objects)
        return cls(inner, config["parts"])


def schedule(recipe: Recipe) -> Any:
    """Return the Keras schedule of a recipe, or a number for `constant`, which has no warm-up.

    `cosine` decays to a tenth of the peak at the last step. Steps are weight updates.

    Raises:
        ValueError: the recipe has no learning rate.
    """
    found = _schedule(recipe)
    parts = recipe.gradient_accumulation
    return OfUpdates(found, parts) if parts > 1 and recipe.schedule != "constant" else found


def _schedule(recipe: Recipe) -> Any:
    peak, warmup_steps = recipe.learning_rate, recipe.warmup_steps
    if peak is None or warmup_steps is None:
        raise ValueError(
            "the recipe leaves learning_rate or warmup_steps to the width of the model; use "
            "Recipe(...).for_width(hidden_dim)"
        )
    match recipe.schedule:
        case "constant":
            return peak
        case "inverse_sqrt":
            return InverseSquareRoot(peak, max(warmup_steps, 1))
        case "warmup_stable_decay":
            decay_steps = recipe.decay_steps or max(recipe.steps // 5, 1)
            return WarmupStableDecay(peak, warmup_steps, recipe.steps, decay_steps)
    return keras.optimizers.schedules.CosineDecay(
        # Not from zero, which would waste the first step.
        initial_learning_rate=peak / max(warmup_steps, 1),
        decay_steps=max(recipe.steps - warmup_steps, 1),
        alpha=0.1,
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
