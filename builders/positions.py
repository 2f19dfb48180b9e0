"""Position schemes: one registered class for each value of the spec's `positions`.

Positions can be encoded in four places. A scheme overrides the method of one:

* `embed` adds to the token embeddings: x (b, t, d), positions int (1 or b, t) -> (b, t, d);
* `enter_block` adds to what every block reads, likewise;
* `rotate` rotates the queries and keys of self-attention: (b, t, n or k, h) -> same;
* `bias` returns a bias of the scores of self-attention, which all blocks of a stack share unless
  `relative_by_block`: positions of queries (1 or b, t) and of keys (1 or b, s) ->
  (1 or b, n, t, s), or `None`.

A scheme that computes from the positions it is given works for whole sequences and for decoding,
where the keys are the slots of a cache.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import keras
from keras import KerasTensor, ops

from builders.components import component, register_component
from builders.initializers import embedding_initializer
from builders.rotary import RotaryPositions
from builders.scope import LayerScope
from builders.spec import TransformerSpec

Tensor = Any


class PositionScheme:
    """A scheme without positions, and the base class of all others; see the module docstring."""

    def embed(self, scope: LayerScope, x: Tensor, positions: Tensor) -> Tensor:
        return x

    def enter_block(self, scope: LayerScope, x: Tensor, positions: Tensor) -> Tensor:
        return x

    def rotate(self, scope: LayerScope, x: Tensor, positions: Tensor, name: str) -> Tensor:
        return x

    def bias(self, scope: LayerScope, queries: Tensor, keys: Tensor, causal: bool) -> Tensor | None:
        return None


def position_scheme(spec: TransformerSpec) -> PositionScheme:
    """Return the position scheme of a spec."""
    return component("positions", spec.positions)()


@keras.saving.register_keras_serializable(package="builders")
class Positions(keras.layers.Layer):
    """Positions 0 to t - 1 of the tokens of whole sequences: (b, t) -> int (1, t).

    Only the shape of the tokens is used. They make the positions symbolic: Keras evaluates a layer
    that is called on a constant at once, and a table of positions would silently not be trained.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bt->1t", "role": "position_ids"}

    def call(self, tokens: Tensor) -> Tensor:
        return ops.arange(ops.shape(tokens)[1], dtype="int32")[None]

    def compute_output_spec(self, tokens: KerasTensor) -> KerasTensor:
        # Not 1, which `Add` would infer as the batch size of its output.
        return KerasTensor((None, tokens.shape[1]), dtype="int32")


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
        # Empty slots of a decode graph have positions below 0; they are masked in attention.
        return self.vectors(ops.clip(positions, 0, self.max_length - 1))

    def _check_length(self, positions: Tensor) -> None:
        message = f"{self.name} has positions for max_sequence_length={self.max_length} tokens"
        advice = "; cut the sequence, or build the model with a larger max_sequence_length"
        length = positions.shape[1]
        if length is None and keras.backend.backend() == "tensorflow":
            import tensorflow as tf  # the one backend that traces graphs with unknown lengths

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

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "bt->btd",
        "products": [],
        "role": "learned_positions",
    }

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

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "bt->btd",
        "products": [],
        "role": "sinusoidal_positions",
    }

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


@keras.saving.register_keras_serializable(package="builders")
class CoordinateVectors(SinusoidalPositions):
    """Interleaved sinusoids of positions plus those of a time step, int (1 or b, t) -> (..., t, d).

    A block that is passed several times has one such layer, which is called with steps from 1 on.
    """

    graph_declaration: ClassVar[dict[str, Any]] = SinusoidalPositions.graph_declaration

    def __init__(self, max_length: int, dim: int, **kwargs: Any) -> None:
        super().__init__(max_length, dim, interleaved=True, **kwargs)

    def call(self, positions: Tensor, step: int = 1) -> Tensor:
        of_step = self.vectors(ops.full((1, 1), step, dtype="int32"))  # (1, 1, d)
        return super().call(positions) + of_step

    def compute_output_spec(self, positions: KerasTensor, step: int = 1) -> KerasTensor:
        return super().compute_output_spec(positions)

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        del config["interleaved"]
        return config


@keras.saving.register_keras_serializable(package="builders")
class ALiBiBias(keras.layers.Layer):
    """Bias of attention scores by distance: -slope * distance, in float32 (ALiBi).

    Positions of queries, int (1 or b, t), and of keys, int (1 or b, s) -> (1 or b, n, t, s). Head
    i of n has the slope 2^(-8 (i + 1) / n); where n is not a power of two, the slopes for the power
    below it, and then every other one for the power above it (Press et al. 2022, section 3, and
    the authors' code).
    """

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "bt,bs->bnts",
        "products": [],
        "role": "alibi_positions",
    }

    def __init__(self, num_heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        power = 2 ** int(math.log2(num_heads))
        slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
        between = [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * power, 2)]
        self._slopes = (slopes + between)[:num_heads]

    def call(self, queries: Tensor, keys: Tensor) -> Tensor:
        distance = ops.abs(queries[:, None, :, None] - keys[:, None, None, :])  # (1 or b, 1, t, s)
        slopes = ops.convert_to_tensor(self._slopes, dtype="float32")[None, :, None, None]
        return -slopes * ops.cast(distance, "float32")

    def compute_output_spec(self, queries: KerasTensor, keys: KerasTensor) -> KerasTensor:
        shape = (queries.shape[0], self.num_heads, queries.shape[1], keys.shape[1])
        return KerasTensor(shape, dtype="float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_heads": self.num_heads}


@keras.saving.register_keras_serializable(package="builders")
class RelativePositionBias(keras.layers.Layer):
    """Trained bias of attention scores by head and distance bucket (Raffel et al. 2020, 2.1).

    Positions of queries, int (1 or b, t), and of keys, int (1 or b, s) -> (1 or b, n, t, s), from a
    table `embeddings` (buckets, n). Half of the buckets hold one distance each, the others ranges
    that grow by a constant factor up to `max_distance`; the last holds all larger distances.

    Args:
        causal: whether keys after the query share the bucket of distance 0; otherwise half of all
            buckets are for them.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "bt,bs->bnts",
        "products": [],
        "role": "relative_positions",
    }

    def __init__(
        self,
        num_heads: int,
        num_buckets: int,
        max_distance: int,
        causal: bool,
        embeddings_initializer: str | keras.Initializer = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.causal = causal
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)

    def build(self, *input_shapes: Any) -> None:
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.num_buckets, self.num_heads),
            initializer=self.embeddings_initializer,
        )

    def call(self, queries: Tensor, keys: Tensor) -> Tensor:
        ahead = keys[:, None, :] - queries[:, :, None]  # (1 or b, t, s)
        number = self.num_buckets if self.causal else self.num_buckets // 2
        distance = ops.maximum(-ahead, 0) if self.causal else ops.abs(ahead)
        exact = number // 2
        # In float32 and in the authors' order: where the result is a whole number, rounding decides
        # between two buckets.
        ratio = ops.cast(ops.maximum(distance, 1), "float32") / exact
        share = ops.log(ratio) / math.log(self.max_distance / exact)
        far = exact + ops.cast(share * (number - exact), "int32")
        bucket = ops.where(distance < exact, distance, ops.minimum(far, number - 1))
        if not self.causal:
            bucket = bucket + ops.where(ahead > 0, number, 0)
        return ops.transpose(ops.take(self.embeddings, bucket, axis=0), (0, 3, 1, 2))

    def compute_output_spec(self, queries: KerasTensor, keys: KerasTensor) -> KerasTensor:
        shape = (queries.shape[0], self.num_heads, queries.shape[1], keys.shape[1])
        return KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_buckets": self.num_buckets,
            "max_distance": self.max_distance,
            "causal": self.causal,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }


register_component("positions", "none")(PositionScheme)


@register_component("positions", "learned")
class Learned(PositionScheme):
    """Add a trained vector for each position (GPT, BERT)."""

    def embed(self, scope: LayerScope, x: Tensor, positions: Tensor) -> Tensor:
        spec = scope.spec
        vectors = scope.layer(
            "position_embedding",
            LearnedPositions,
            spec.max_sequence_length,
            x.shape[-1],
            embeddings_initializer=embedding_initializer(scope, "position_embedding"),
        )(positions)
        return _add(scope, x, vectors)


@register_component("positions", "sinusoidal")
class Sinusoidal(PositionScheme):
    """Add interleaved sines and cosines ("Attention Is All You Need", section 3.5)."""

    interleaved = True

    def embed(self, scope: LayerScope, x: Tensor, positions: Tensor) -> Tensor:
        spec = scope.spec
        vectors = scope.layer(
            "position_embedding",
            SinusoidalPositions,
            spec.max_sequence_length,
            x.shape[-1],
            interleaved=self.interleaved,
        )(positions)
        return _add(scope, x, vectors)


@register_component("positions", "sinusoidal_concat")
class SinusoidalConcat(Sinusoidal):
    """Add all sines, then all cosines (tensor2tensor; the TensorFlow text tutorial)."""

    interleaved = False


@register_component("positions", "coordinates")
class Coordinates(PositionScheme):
    """Add sinusoids of the position and of the block's number before every block.

    Dehghani et al. 2019, "Universal Transformers", equations 4 to 6, where the number is that of
    the pass through one block.
    """

    def enter_block(self, scope: LayerScope, x: Tensor, positions: Tensor) -> Tensor:
        spec = scope.spec
        layer = scope.layer(
            "coordinates", CoordinateVectors, spec.max_sequence_length, spec.hidden_dim
        )
        vectors = layer(positions, step=scope.block_index + 1)
        return scope.layer("add_coordinates", keras.layers.Add)([x, vectors])


@register_component("positions", "rotary")
class Rotary(PositionScheme):
    """Rotate queries and keys by angles proportional to the position (Su et al. 2021, RoFormer)."""

    def rotate(self, scope: LayerScope, x: Tensor, positions: Tensor, name: str) -> Tensor:
        spec = scope.spec
        frequencies, magnitude, *longer = component("rotary_scaling", spec.rotary_scaling)(spec)
        scaling = frequencies, spec.rotary_magnitude or magnitude, *longer
        layer = scope.layer(f"{name}_rotary", RotaryPositions, *scaling)
        of_length = {"slots": scope.slots, "starts": scope.starts} if longer else {}
        given = {name: value for name, value in of_length.items() if value is not None}
        return layer(x, positions, **given)


@register_component("positions", "alibi")
class ALiBi(PositionScheme):
    """Subtract a multiple of the distance from the scores (Press et al. 2022)."""

    def bias(self, scope: LayerScope, queries: Tensor, keys: Tensor, causal: bool) -> Tensor | None:
        return scope.layer("alibi_bias", ALiBiBias, scope.spec.num_heads)(queries, keys)


@register_component("positions", "relative")
class Relative(PositionScheme):
    """Add a trained bias for each distance bucket to the scores (T5)."""

    def bias(self, scope: LayerScope, queries: Tensor, keys: Tensor, causal: bool) -> Tensor | None:
        spec = scope.spec
        return scope.layer(
            "relative_position_bias",
            RelativePositionBias,
            spec.num_heads,
            spec.relative_buckets,
            spec.relative_max_distance,
            causal,
            embeddings_initializer=embedding_initializer(scope, "relative_position_bias"),
        )(queries, keys)


def _add(scope: LayerScope, x: Tensor, vectors: Tensor) -> Tensor:
    return scope.layer("add_positions", keras.layers.Add)([x, vectors])
