"""Rotary positions: the layer that rotates queries and keys, and its frequencies.

Each value of `rotary_scaling` is a registered function that takes the spec and returns the
frequencies of the channel pairs, (rotary_dim / 2,), in radians per position, and a factor for
queries and keys. If longer sequences have other frequencies, it also returns these, and the length
above which they are used.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from builders.components import register_component
from builders.documents import of_same_document
from builders.elementwise import SameShape
from builders.spec import TransformerSpec

Tensor = Any
Scaling = tuple[list[float], float] | tuple[list[float], float, list[float], int]


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
    # Both are 1 in Llama 4 Scout, where no frequency is interpolated.
    kept = np.clip((rotations - low) / (high - low), 0, 1) if high > low else rotations >= low
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

    first = pair_with_rotations(spec.rotary_high_freq_factor)
    last = pair_with_rotations(spec.rotary_low_freq_factor)
    if spec.rotary_whole_pairs:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, r - 1)
    # As in the authors' code, also if all pairs turn more or less often than both limits, so that
    # the last pair comes before the first.
    scaled = np.clip((np.arange(r // 2) - first) / ((last - first) or 1e-3), 0, 1)
    frequencies = plain_frequencies(spec) * (1 - scaled + scaled / spec.rotary_factor)
    return frequencies.tolist(), 0.1 * math.log(spec.rotary_factor) + 1


@register_component("rotary_scaling", "longrope")
def longrope(spec: TransformerSpec) -> Scaling:
    """Divide each frequency by a factor of its own, and by another in long sequences; scale scores.

    Ding et al. 2024, "LongRoPE", and the code of Phi-3: queries and keys are multiplied by
    sqrt(1 + ln(factor) / ln(original length)), whatever the length is.

    A sequence is long if it has more tokens than the original length, with padding. In a decode
    graph the number of slots of the cache counts, which is the longest sequence that it holds: so
    all keys in a cache are rotated alike, and decoding equals the model on sequences as long as the
    cache, and on any if the cache has at most the original length. Transformers chooses by the
    tokens read so far, and reads all of them again once they are more than the original length;
    its results are those of a cache with at most that many slots before, and with more thereafter.
    """
    frequencies, original = plain_frequencies(spec), spec.rotary_original_length
    short, long = (
        (frequencies / np.array(factors)).tolist()
        for factors in (spec.rotary_short_factors, spec.rotary_long_factors)
    )
    magnitude = math.sqrt(1 + math.log(spec.rotary_factor) / math.log(original))
    return short, magnitude, long, original


@keras.saving.register_keras_serializable(package="builders")
class RotaryPositions(SameShape):
    """Rotate queries or keys by position: (b, t, n, h), int (1 or b, t) -> (b, t, n, h).

    Channel i and channel i + r/2 are the two coordinates of pair i of r/2 (the order of GPT-NeoX
    and Llama); channels from r on are unchanged. Computes angles in float32.

    In a decode graph, `slots`, int (b, c), has a column for each slot of the cache. Only its shape
    is used, in place of the number of positions. In a packed graph, `starts`, int (b, t), has the
    starts of documents, whose own lengths count.

    Args:
        frequencies: frequency of each pair, (r/2,), in radians per position.
        magnitude: factor applied to the rotated channels.
        long_frequencies: frequencies in sequences longer than `original_length`; `None`: the same.
        original_length: in tokens.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "btnh,bt,bs,bt->btnh",
        "products": [],
        "role": "rotary_positions",
    }

    def __init__(
        self,
        frequencies: list[float],
        magnitude: float = 1.0,
        long_frequencies: list[float] | None = None,
        original_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.frequencies = list(frequencies)
        self.magnitude = magnitude
        self.long_frequencies = long_frequencies
        self.original_length = original_length

    def call(
        self,
        x: Tensor,
        positions: Tensor,
        slots: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> Tensor:
        half = len(self.frequencies)
        frequencies = ops.convert_to_tensor(self.frequencies, dtype="float32")
        if self.long_frequencies is not None:
            long = ops.convert_to_tensor(self.long_frequencies, dtype="float32")
            if starts is None:
                length = ops.shape(positions if slots is None else slots)[1]
            else:
                of_document = ops.cast(of_same_document(starts), "int32")
                length = ops.sum(of_document, axis=2)[..., None]  # (b, t, 1)
            frequencies = ops.where(length > self.original_length, long, frequencies)
        angles = ops.cast(positions, "float32")[..., None] * frequencies  # (1 or b, t, r/2)
        cos, sin = ops.cos(angles)[:, :, None], ops.sin(angles)[:, :, None]
        first = ops.cast(x[..., :half], "float32")
        second = ops.cast(x[..., half : 2 * half], "float32")
        rotated = ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
        rotated = ops.cast(rotated * self.magnitude, x.dtype)
        if 2 * half == x.shape[-1]:
            return rotated
        return ops.concatenate([rotated, x[..., 2 * half :]], axis=-1)

    def get_config(self) -> dict[str, Any]:
        own = {"frequencies": self.frequencies, "magnitude": self.magnitude}
        if self.long_frequencies is not None:
            own["long_frequencies"] = self.long_frequencies
            own["original_length"] = self.original_length
        return {**super().get_config(), **own}
