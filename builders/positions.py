"""Position schemes: one registered function for each value of the spec's `positions`.

Each takes `(scope, spec, x, positions)`, x being the token embeddings (b, t, d) and positions
int (1 or b, t), and returns what the first block reads, (b, t, d). The sum of the two is a node of
its own. A scheme that goes by `positions` alone holds for whole sequences and for decoding.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import keras
from keras import KerasTensor, ops

from builders.initializers import embedding_initializer
from builders.registry import register_component
from builders.scope import LayerScope
from builders.spec import TransformerSpec

Tensor = Any


@keras.saving.register_keras_serializable(package="builders")
class Positions(keras.layers.Layer):
    """Positions of the tokens of whole sequences: (b, t) -> int (1, t), which is 0 to t - 1.

    The tokens give only the shape. They are symbolic on purpose: a layer called on a constant is
    baked into the graph, and a table of positions would silently not be trained.
    """

    def call(self, tokens: Tensor) -> Tensor:
        return ops.arange(ops.shape(tokens)[1], dtype="int32")[None]

    def compute_output_spec(self, tokens: KerasTensor) -> KerasTensor:
        # Not 1: `Add` would take that for the size of every batch.
        return KerasTensor((None, tokens.shape[1]), dtype="int32")


def token_positions(scope: LayerScope, tokens: Tensor) -> Tensor:
    """Wire the positions of tokens (b, t), as int (1 or b, t)."""
    if scope.cache is not None:
        return scope.cache.positions(scope, tokens)
    return scope.layer("positions", Positions)(tokens)


class PositionVectors(keras.layers.Layer, ABC):
    """A vector for each position: int (1 or b, t) -> (1 or b, t, d).

    Raises:
        ValueError: the sequence is longer than `max_length` tokens.
    """

    def __init__(self, max_length: int, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_length = max_length
        self.dim = dim

    @abstractmethod
    def vectors(self, positions: Tensor) -> Tensor:
        """Return the vectors (..., d) of positions (...)."""

    def call(self, positions: Tensor) -> Tensor:
        self._check_length(positions)
        # Empty slots of a decode graph have positions below 0; no query sees what they hold.
        return self.vectors(ops.clip(positions, 0, self.max_length - 1))

    def _check_length(self, positions: Tensor) -> None:
        message = f"{self.name}: positions end at max_sequence_length={self.max_length} tokens"
        advice = "; cut the sequence, or build the model with a larger max_sequence_length"
        length = positions.shape[1]
        if length is None and keras.backend.backend() == "tensorflow":
            import tensorflow as tf  # only here is a length unknown when the graph is traced

            given = tf.shape(positions)[1]
            tf.debugging.assert_less_equal(given, self.max_length, message + advice)
        elif length is not None and length > self.max_length:
            raise ValueError(f"{message}, given a sequence of {length}{advice}")

    def compute_output_spec(self, positions: KerasTensor) -> KerasTensor:
        if positions.shape[1] is not None:
            self._check_length(positions)
        return KerasTensor((*positions.shape, self.dim), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "max_length": self.max_length, "dim": self.dim}


@keras.saving.register_keras_serializable(package="builders")
class LearnedPositions(PositionVectors):
    """Position vectors from a trained table, `embeddings` (max_sequence_length, d)."""

    def __init__(
        self,
        max_length: int,
        dim: int,
        embeddings_initializer: str | keras.Initializer = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(max_length, dim, **kwargs)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)

    def build(self, input_shape: Any) -> None:
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.max_length, self.dim),
            initializer=self.embeddings_initializer,
        )

    def vectors(self, positions: Tensor) -> Tensor:
        return ops.take(self.embeddings, positions, axis=0)

    def get_config(self) -> dict[str, Any]:
        start = keras.initializers.serialize(self.embeddings_initializer)
        return {**super().get_config(), "embeddings_initializer": start}


@keras.saving.register_keras_serializable(package="builders")
class SinusoidalPositions(PositionVectors):
    """Fixed sines and cosines of wavelengths 2 pi to 20,000 pi, in float32.

    angle(p, i) = p / 10000^(2 i / d) for i in [0, d/2) ("Attention Is All You Need", section 3.5).

    Args:
        interleaved: `True` puts sin, cos of angle i at 2 i, 2 i + 1, as the paper does; `False`
            puts all sines before all cosines.
    """

    def __init__(self, max_length: int, dim: int, interleaved: bool, **kwargs: Any) -> None:
        super().__init__(max_length, dim, **kwargs)
        self.interleaved = interleaved

    def vectors(self, positions: Tensor) -> Tensor:
        half = self.dim // 2
        frequencies = ops.exp(ops.arange(half, dtype="float32") * (-math.log(10_000) / half))
        angles = ops.cast(positions, "float32")[..., None] * frequencies  # (1 or b, t, d/2)
        if self.interleaved:
            pairs = ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1)  # (1 or b, t, d/2, 2)
            vectors = ops.reshape(pairs, (*ops.shape(positions), self.dim))
        else:
            vectors = ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)
        return ops.cast(vectors, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "interleaved": self.interleaved}


@register_component("positions", "learned")
def learned(scope: LayerScope, spec: TransformerSpec, x: Tensor, positions: Tensor) -> Tensor:
    """Add a trained vector for each position (GPT, BERT)."""
    vectors = scope.layer(
        "position_embedding",
        LearnedPositions,
        spec.max_sequence_length,
        spec.hidden_dim,
        embeddings_initializer=embedding_initializer(spec),
    )(positions)
    return _add(scope, x, vectors)


@register_component("positions", "sinusoidal")
def sinusoidal(scope: LayerScope, spec: TransformerSpec, x: Tensor, positions: Tensor) -> Tensor:
    """Add interleaved sines and cosines ("Attention Is All You Need", section 3.5)."""
    return _add(scope, x, _sinusoids(scope, spec, positions, interleaved=True))


@register_component("positions", "sinusoidal_concat")
def sinusoidal_concat(
    scope: LayerScope, spec: TransformerSpec, x: Tensor, positions: Tensor
) -> Tensor:
    """Add all sines, then all cosines (tensor2tensor; the TensorFlow text tutorial)."""
    return _add(scope, x, _sinusoids(scope, spec, positions, interleaved=False))


@register_component("positions", "none")
def none(scope: LayerScope, spec: TransformerSpec, x: Tensor, positions: Tensor) -> Tensor:
    """Add nothing: order reaches a decoder only through its causal mask."""
    return x


def _sinusoids(
    scope: LayerScope, spec: TransformerSpec, positions: Tensor, interleaved: bool
) -> Tensor:
    return scope.layer(
        "position_embedding",
        SinusoidalPositions,
        spec.max_sequence_length,
        spec.hidden_dim,
        interleaved=interleaved,
    )(positions)


def _add(scope: LayerScope, x: Tensor, vectors: Tensor) -> Tensor:
    return scope.layer("add_positions", keras.layers.Add)([x, vectors])
