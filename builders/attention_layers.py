"""The layers that attention is wired from, each one node of the graph."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import KerasTensor, ops

from builders.elementwise import SameShape, capped
from builders.fused import fused_softmax, is_fusing

Tensor = Any


def repeat_key_value_heads(x: Tensor, heads: int) -> Tensor:
    """Repeat the heads of keys or values for their query heads: (b, s, k, h) -> (b, s, n, h)."""
    groups = heads // x.shape[2]
    return x if groups == 1 else ops.repeat(x, groups, axis=2)


def masked_softmax(
    scores: Tensor, mask: Tensor | None, sinks: Tensor | None = None, *, dtype: str
) -> Tensor:
    """Return attention weights: (b, n, t, s), mask (1 or b, 1 or t, s) -> (b, n, t, s).

    They are computed in float32, and returned in `dtype`.

    With sinks, (1, n, 1, 1), they are those of a softmax over the scores and the sink, without the
    weight of the sink. A query whose keys are all masked gets equal weights for all keys, or zeros
    with sinks, and not NaN.
    """
    if is_fusing() and sinks is None and scores.dtype == dtype:
        return fused_softmax(scores, None if mask is None else mask[:, None])
    scores = ops.cast(scores, "float32")
    if mask is not None:
        scores = ops.where(mask[:, None], scores, -3e38)  # finite in float32
    if sinks is not None:
        sinks = ops.cast(sinks, "float32")
        largest = ops.maximum(ops.max(scores, axis=-1, keepdims=True), sinks)
        largest = ops.stop_gradient(largest)
        weights = ops.exp(scores - largest)
        total = ops.sum(weights, axis=-1, keepdims=True) + ops.exp(sinks - largest)
        weights = weights / total
    elif scores.shape[-1] == 1:  # `ops.softmax` would warn about a softmax over one key
        weights = scores * 0 + 1
    else:
        weights = ops.softmax(scores, axis=-1)
    return ops.cast(weights, dtype)


@keras.saving.register_keras_serializable(package="builders")
class MixedValue(SameShape):
    """(1 - a) v + a v_1 with one trained number a, `share`, that starts at 1/2.

    Values (b, s, k, h) of a block and of the first block -> same (Zhou et al. 2024, "Value Residual
    Learning", section 3.2; as trained in KellerJordan/modded-nanogpt).
    """

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "bskh,bskh->bskh",
        "products": [],
        "role": "add",
    }

    def build(self, *_: Any) -> None:
        self.share = self.add_weight(
            name="share", shape=(), initializer=keras.initializers.Constant(0.5)
        )

    def call(self, value: Tensor, first: Tensor) -> Tensor:
        return (1 - self.share) * value + self.share * first


@keras.saving.register_keras_serializable(package="builders")
class AttentionSinks(keras.layers.Layer):
    """The logit of the sink of each head: query (b, t, n, h) -> (1, n, 1, 1).

    They are n trained numbers, `logits`, that start at 0. Only the number of heads of the query is
    used.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "btnh->1n11", "products": []}

    def build(self, query_shape: Any) -> None:
        self.logits = self.add_weight(name="logits", shape=(query_shape[2],), initializer="zeros")

    def call(self, query: Tensor) -> Tensor:
        return self.logits[None, :, None, None]

    def compute_output_spec(self, query: KerasTensor) -> KerasTensor:
        return KerasTensor((1, query.shape[2], 1, 1), dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="builders")
class AttentionTemperature(SameShape):
    """q (1 + a ln(1 + floor((p + 1) / f))): query (b, t, n, h), p int (1 or b, t) -> (b, t, n, h).

    The softmax of longer sequences stays as sharp as that of short ones (Nakanishi 2025,
    "Scalable-Softmax Is Superior for Attention"; as in Llama 4).

    Args:
        strength: a.
        floor: f.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "btnh,bt->btnh", "products": []}

    def __init__(self, strength: float, floor: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strength = strength
        self.floor = floor

    def call(self, query: Tensor, positions: Tensor) -> Tensor:
        # Tokens before the start of a row have positions below 0; they are masked in attention.
        steps = ops.floor_divide(ops.maximum(positions + 1, 0), self.floor)
        factor = 1 + self.strength * ops.log1p(ops.cast(steps, "float32"))  # (1 or b, t)
        return query * ops.cast(factor, query.dtype)[:, :, None, None]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "strength": self.strength, "floor": self.floor}


class Scaled(keras.layers.Layer):
    """Base class of layers that scale the scores q k^T; `None`: by 1 / sqrt(h)."""

    def __init__(self, scale: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale

    def scaled(self, query: Tensor) -> Tensor:
        # Scaling the query takes t * h multiplications per head, scaling the scores t * s.
        return query * (query.shape[-1] ** -0.5 if self.scale is None else self.scale)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable(package="builders")
class DotProductAttention(Scaled):
    """softmax(q k^T scale) v in one fused operation that does not return the weights.

    query (b, t, n, h), key (b, s, k, h), value (b, s, k, u), mask bool (1 or b, 1 or t, s), sinks
    (1, n, 1, 1) -> (b, t, n, u).
    """

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "btnh,bskh,bsku,bts,1n11->btnu",
        "products": ["btnh,bskh->bnts", "bnts,bsku->btnu"],
        "role": "attention",
    }

    def call(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        key, value = (repeat_key_value_heads(x, query.shape[2]) for x in (key, value))
        is_fused = sinks is None and value.shape[-1] == query.shape[-1]
        if keras.backend.backend() == "tensorflow" or not is_fused:
            # Keras has no fused attention there or with sinks, and JAX none for values of another
            # width. With the heads first, it takes two thirds.
            query, key, value = (ops.swapaxes(x, 1, 2) for x in (self.scaled(query), key, value))
            scores = ops.einsum("bnth,bnsh->bnts", query, key)
            weights = masked_softmax(scores, mask, sinks, dtype=value.dtype)
            return ops.swapaxes(ops.matmul(weights, value), 1, 2)
        if mask is not None:
            mask = mask[:, None]  # the same for every head
        return ops.dot_product_attention(query, key, value, mask=mask, scale=self.scale)

    def compute_output_spec(
        self,
        query: KerasTensor,
        key: KerasTensor,
        value: KerasTensor,
        *others: KerasTensor | None,
        **more: KerasTensor | None,
    ) -> KerasTensor:
        return KerasTensor((*query.shape[:-1], value.shape[-1]), dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="builders")
class AttentionScores(Scaled):
    """q k^T scale: query (b, t, n, h), key (b, s, k, h) -> (b, n, t, s)."""

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "btnh,bskh->bnts",
        "products": ["btnh,bskh->bnts"],
        "role": "attention_scores",
    }

    def call(self, query: Tensor, key: Tensor) -> Tensor:
        query = self.scaled(query)
        key = repeat_key_value_heads(key, query.shape[2])
        return ops.einsum("btnh,bsnh->bnts", query, key)

    def compute_output_spec(self, query: KerasTensor, key: KerasTensor) -> KerasTensor:
        b, t, n, _ = query.shape
        return KerasTensor((b, n, t, key.shape[1]), dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="builders")
class BiasedScores(keras.layers.Layer):
    """Scores plus a bias, in float32: (b, n, t, s), (1 or b, n, t, s) -> (b, n, t, s)."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bnts,bnts->bnts", "products": []}

    def call(self, scores: Tensor, bias: Tensor) -> Tensor:
        return ops.cast(scores, "float32") + ops.cast(bias, "float32")

    def compute_output_spec(self, scores: KerasTensor, bias: KerasTensor) -> KerasTensor:
        return KerasTensor(scores.shape, dtype="float32")


@keras.saving.register_keras_serializable(package="builders")
class MaskedSoftmax(SameShape):
    """`masked_softmax` in the precision of the model."""

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "bnts,bts,1n11->bnts",
        "products": [],
        "role": "attention_weights",
    }

    def call(
        self, scores: Tensor, mask: Tensor | None = None, sinks: Tensor | None = None
    ) -> Tensor:
        return masked_softmax(scores, mask, sinks, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="builders")
class WeightedValues(keras.layers.Layer):
    """Sums of values, weighted by attention: (b, n, t, s), (b, s, k, u) -> (b, t, n, u)."""

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "bnts,bskh->btnh",  # the width of a head of the values
        "products": ["bnts,bskh->btnh"],
    }

    def call(self, weights: Tensor, value: Tensor) -> Tensor:
        value = repeat_key_value_heads(value, weights.shape[1])
        return ops.einsum("bnts,bsnh->btnh", weights, value)

    def compute_output_spec(self, weights: KerasTensor, value: KerasTensor) -> KerasTensor:
        b, n, t, _ = weights.shape
        return KerasTensor((b, t, n, value.shape[-1]), dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="builders")
class AttendToCache(DotProductAttention):
    """softmax(q k^T scale) v over the slots of a cache, the weights in float32.

    query (b, t, n, h), key (b, k, h, c), value (b, k, c, h), mask bool (b, 1 or t, c), sinks
    (1, n, 1, 1), bias (1 or b, n, t, c) -> (b, t, n, h). Query heads stay in groups of n / k, so
    that the keys of a group are read once and not repeated.

    Args:
        scale: of the scores; `None`: 1 / sqrt(h).
        soft_cap: of the scores; `None`: none.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "btnh,bkhs,bksh,bts,1n11,bnts->btnh",
        "products": ["btnh,bkhs->bnts", "bnts,bksh->btnh"],
        "role": "attention",
    }

    def __init__(
        self, scale: float | None = None, soft_cap: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(scale, **kwargs)
        self.soft_cap = soft_cap

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "soft_cap": self.soft_cap}

    def call(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        sinks: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        b, t, n, h = ops.shape(query)
        k, c = key.shape[1], ops.shape(key)[3]
        query = ops.reshape(ops.swapaxes(self.scaled(query), 1, 2), (b, k, n // k * t, h))
        scores = ops.reshape(ops.matmul(query, key), (b, n, t, c))
        weights = self.weights_of_slots(scores, mask, sinks, bias)
        weights = ops.reshape(weights, (b, k, n // k * t, c))
        mixed = ops.reshape(ops.matmul(weights, value), (b, n, t, h))
        return ops.swapaxes(mixed, 1, 2)

    def weights_of_slots(
        self, scores: Tensor, mask: Tensor | None, sinks: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        """Return the softmax of scores (b, n, t, c) after their cap, bias and mask."""
        scores = ops.cast(scores, "float32")
        if self.soft_cap is not None:
            scores = capped(scores, self.soft_cap)
        if bias is not None:
            scores = scores + ops.cast(bias, "float32")
        return masked_softmax(scores, mask, sinks, dtype=self.compute_dtype)
