"""Rotary positions: the layer that rotates queries and keys, and its frequencies.

Each value of `rotary_scaling` is a registered function that takes the spec and returns the
frequencies of the channel pairs, (rotary_dim / 2,), in radians per position, and a factor for
queries and keys.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
import numpy as np
from keras import KerasTensor, ops

from builders.components import register_component
from builders.spec import TransformerSpec

Tensor = Any
Scaling = tuple[list[float], float]


def plain_frequencies(spec: TransformerSpec) -> np.ndarray:
    """Return base^(-2 i / r) for pair i of r rotary channels (Su et al. 2021, section 3.2.2)."""
    return spec.rotary_base ** (-np.arange(0, spec.rotary_dim, 2) / spec.rotary_dim)


@register_component("rotary_scaling", "none")
def unscaled(spec: TransformerSpec) -> Scaling:
    """Return the unscaled frequencies."""
    return plain_frequencies(spec).tolist(), 1.0


@register_component("rotary_scaling", "linear")
def linear(spec: TransformerSpec) -> Scaling:
    """Divide all frequencies by the factor (Chen et al. 2023, section 2.3)."""
    return (plain_frequencies(spec) / spec.rotary_factor).tolist(), 1.0


@register_component("rotary_scaling", "llama3")
def llama3(spec: TransformerSpec) -> Scaling:
    """Divide low frequencies by the factor, keep high ones, interpolate between (Llama 3.1).

    A frequency is low if its pair makes fewer than `rotary_low_freq_factor` rotations within the
    original length, and high if it makes more than `rotary_high_freq_factor`.
    """
    frequencies = plain_frequencies(spec)
    rotations = frequencies * spec.rotary_original_length / (2 * math.pi)
    low, high = spec.rotary_low_freq_factor, spec.rotary_high_freq_factor
    kept = np.clip((rotations - low) / (high - low), 0, 1)
    return (frequencies * (kept + (1 - kept) / spec.rotary_factor)).tolist(), 1.0


@register_component("rotary_scaling", "yarn")
def yarn(spec: TransformerSpec) -> Scaling:
    """Like `llama3`, but interpolate by the index of the pair and scale the scores.

    Peng et al. 2023, "YaRN", sections 3.2 and 3.4, and the authors' code.
    """
    r = spec.rotary_dim

    def pair_with_rotations(rotations: float) -> float:
        length = spec.rotary_original_length / (2 * math.pi * rotations)
        return r * math.log(length) / (2 * math.log(spec.rotary_base))

    first = max(math.floor(pair_with_rotations(spec.rotary_high_freq_factor)), 0)
    last = min(math.ceil(pair_with_rotations(spec.rotary_low_freq_factor)), r - 1)
    # Avoid a division by zero if both are the same pair.
    scaled = np.clip((np.arange(r // 2) - first) / max(last - first, 1e-3), 0, 1)
    frequencies = plain_frequencies(spec) * (1 - scaled + scaled / spec.rotary_factor)
    return frequencies.tolist(), 0.1 * math.log(spec.rotary_factor) + 1


@keras.saving.register_keras_serializable(package="builders")
class RotaryPositions(keras.layers.Layer):
    """Rotate queries or keys by position: (b, t, n, h), int (1 or b, t) -> (b, t, n, h).

    Channel i and channel i + r/2 are the two coordinates of pair i of r/2 (the order of GPT-NeoX
    and Llama); channels from r on are unchanged. Computes angles in float32.

    Args:
        frequencies: frequency of each pair, (r/2,), in radians per position.
        magnitude: factor applied to the rotated channels.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "btnh,bt->btnh",
        "products": [],
        "role": "rotary_positions",
    }

    def __init__(self, frequencies: list[float], magnitude: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.frequencies = list(frequencies)
        self.magnitude = magnitude

    def call(self, x: Tensor, positions: Tensor) -> Tensor:
        half = len(self.frequencies)
        frequencies = ops.convert_to_tensor(self.frequencies, dtype="float32")
        angles = ops.cast(positions, "float32")[..., None] * frequencies  # (1 or b, t, r/2)
        cos, sin = ops.cos(angles)[:, :, None], ops.sin(angles)[:, :, None]
        first = ops.cast(x[..., :half], "float32")
        second = ops.cast(x[..., half : 2 * half], "float32")
        rotated = ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
        rotated = ops.cast(rotated * self.magnitude, x.dtype)
        if 2 * half == x.shape[-1]:
            return rotated
        return ops.concatenate([rotated, x[..., 2 * half :]], axis=-1)

    def compute_output_spec(self, x: KerasTensor, positions: KerasTensor) -> KerasTensor:
        return KerasTensor(x.shape, dtype=x.dtype)

    def get_config(self) -> dict[str, Any]:
        own = {"frequencies": self.frequencies, "magnitude": self.magnitude}
        return {**super().get_config(), **own}
