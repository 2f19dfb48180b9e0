"""Optimizer and learning-rate schedules, serialisable with the optimizer.

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


def schedule(recipe: Recipe) -> Any:
    """Return the Keras schedule of a recipe, or a number for `constant`, which has no warm-up.

    `cosine` decays to a tenth of the peak at the last step.

    Raises:
        ValueError: the recipe has no learning rate.
    """
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
    return keras.optimizers.schedules.CosineDecay(
        # Not from zero, which would waste the first step.
        initial_learning_rate=peak / max(warmup_steps, 1),
        decay_steps=max(recipe.steps - warmup_steps, 1),
        alpha=0.1,
        warmup_target=peak if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


def make_optimizer(recipe: Recipe) -> keras.optimizers.Optimizer:
    """Return an AdamW optimizer (Loshchilov and Hutter 2019) with the recipe's schedule."""
    optimizer = keras.optimizers.AdamW(
        schedule(recipe),
        weight_decay=recipe.weight_decay,
        beta_2=recipe.beta_2,
        epsilon=1e-9,
        global_clipnorm=recipe.clip_norm,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "scale", "embeddings"])
    return optimizer
