"""Attention, wired node by node or as one library layer.

One registered function for each value of the spec's `attention`. Each takes
`(scope, spec, x, memory, mask, sublayers)`: queries come from x (b, t, d), keys and values from
memory (b, s, d), mask is bool (1 or b, 1 or t, s) or `None`, `sublayers` counts those on the
residual stream; each returns (b, t, d).

Whichever it is, decode and probe graphs are wired node by node, from the four projections.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import KerasTensor, ops

from builders.cache import SLOT_AXIS
from builders.feedforward import dropout
from builders.initializers import initializer
from builders.registry import component, register_component
from builders.scope import LayerScope
from builders.spec import TransformerSpec

Tensor = Any


def attention(
    scope: LayerScope,
    spec: TransformerSpec,
    x: Tensor,
    memory: Tensor | None,
    mask: Tensor | None,
    sublayers: int,
) -> Tensor:
    """Wire one attention sublayer: (b, t, d), (b, s, d) -> (b, t, d).

    Without a memory, keys and values are those in the cache of a decode graph.
    """
    by_node = scope.cache is not None or scope.shows_scores
    wire = component("attention", "graph" if by_node else spec.attention)
    return dropout(scope, spec.dropout, wire(scope, spec, x, memory, mask, sublayers))


@register_component("attention", "graph")
def graph_attention(
    scope: LayerScope,
    spec: TransformerSpec,
    x: Tensor,
    memory: Tensor | None,
    mask: Tensor | None,
    sublayers: int,
) -> Tensor:
    """Wire every step as a node ("Attention Is All You Need", section 3.2)."""
    query = project(scope, spec, "query", x)  # (b, t, n, h)
    if scope.cache is not None:
        mixed = attend_to_cache(scope, spec, query, memory, mask)  # (b, t, n, h)
    else:
        key = project(scope, spec, "key", memory)  # (b, s, k, h)
        value = project(scope, spec, "value", memory)  # (b, s, k, h)
        mixed = attend(scope, spec, query, key, value, mask)  # (b, t, n, h)
    n, h, d = spec.num_heads, spec.head_dim, spec.hidden_dim
    # Heads are `i` and their channels `j` here: JAX sums in the order of the alphabet, and to sum
    # over `h` before `n` it would transpose both sides.
    return scope.layer(
        "output",
        keras.layers.EinsumDense,
        "btij,ijd->btd",
        output_shape=(None, d),
        bias_axes="d" if spec.attention_bias else None,
        kernel_initializer=initializer(spec, fan_in=n * h, fan_out=d, sublayers=sublayers),
    )(mixed)


def project(scope: LayerScope, spec: TransformerSpec, role: str, x: Tensor) -> Tensor:
    """Wire the query (b, t, n, h), or the key or value (b, s, k, h), of x (b, t or s, d)."""
    heads = spec.num_heads if role == "query" else spec.num_key_value_heads
    h, d = spec.head_dim, spec.hidden_dim
    return scope.layer(
        role,
        keras.layers.EinsumDense,
        "btd,dnh->btnh",
        output_shape=(None, heads, h),
        bias_axes="nh" if spec.attention_bias else None,
        kernel_initializer=initializer(spec, fan_in=d, fan_out=heads * h),
    )(x)


def attend(
    scope: LayerScope,
    spec: TransformerSpec,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
) -> Tensor:
    """Wire softmax(q k^T / sqrt(h)) v: in one node, or in steps where the weights are wanted."""
    if not (spec.attention_dropout or scope.shows_scores):
        return scope.layer("attend", DotProductAttention)(query, key, value, mask)
    scores = scope.layer("scores", AttentionScores)(query, key)  # (b, n, t, s)
    weights = scope.layer("softmax", MaskedSoftmax)(scores, mask)
    weights = dropout(scope, spec.attention_dropout, weights, "weights_dropout")
    return scope.layer("mix", MixValues)(weights, value)  # (b, t, n, h)


def attend_to_cache(
    scope: LayerScope,
    spec: TransformerSpec,
    query: Tensor,
    memory: Tensor | None,
    mask: Tensor | None,
) -> Tensor:
    """Wire attention to the cache, to which memory (b, t, d), if there is one, is added first."""
    assert scope.cache is not None
    cached = []
    for role in ("key", "value"):
        name = f"{role}_cache"
        if memory is None:
            cached.append(scope.cache.read(scope, name))
        else:
            new = heads_first(scope, spec, role, memory)
            cached.append(scope.cache.append(scope, name, new, SLOT_AXIS[role]))
    key, value = cached  # (b, k, h, c), (b, k, c, h)
    return scope.layer("attend_to_cache", AttendToCache)(query, key, value, mask)


def heads_first(scope: LayerScope, spec: TransformerSpec, role: str, x: Tensor) -> Tensor:
    """Wire the key (b, k, h, s) or value (b, k, s, h) of x (b, s, d), in the layout of a cache."""
    order = {"key": (2, 3, 1), "value": (2, 1, 3)}[role]
    layer = scope.layer(f"{role}_heads_first", keras.layers.Permute, order)
    return layer(project(scope, spec, role, x))


@register_component("attention", "layer")
def layer_attention(
    scope: LayerScope,
    spec: TransformerSpec,
    x: Tensor,
    memory: Tensor | None,
    mask: Tensor | None,
    sublayers: int,
) -> Tensor:
    """Wire the library's own layer as one node; its kernels have the same shapes.

    The layer has one initialiser for its four kernels, so `depth_scaled` starts as `normal`.
    """
    import keras_hub  # takes seconds to import, and only this wiring needs it

    n, h, d = spec.num_heads, spec.head_dim, spec.hidden_dim
    layer = scope.layer(
        "attention",
        keras_hub.layers.CachedMultiHeadAttention,
        num_heads=n,
        key_dim=h,
        dropout=spec.attention_dropout,
        use_bias=spec.attention_bias,
        kernel_initializer=initializer(spec, fan_in=d, fan_out=n * h),
    )
    return layer(x, memory, attention_mask=mask)


def for_every_query_head(x: Tensor, heads: int) -> Tensor:
    """Repeat the heads of keys or values for the queries that share them: (b, s, k, h) -> n."""
    groups = heads // x.shape[2]
    return x if groups == 1 else ops.repeat(x, groups, axis=2)


def softmax_over_keys(scores: Tensor) -> Tensor:
    """Softmax over the last axis, which may have one key; `ops.softmax` warns of that."""
    return scores * 0 + 1 if scores.shape[-1] == 1 else ops.softmax(scores, axis=-1)


@keras.saving.register_keras_serializable(package="builders")
class DotProductAttention(keras.layers.Layer):
    """softmax(q k^T / sqrt(h)) v in one fused operation, where nobody looks at the weights.

    query (b, t, n, h), key and value (b, s, k, h), mask bool (1 or b, 1 or t, s)
    -> (b, t, n, h).
    """

    def call(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            mask = mask[:, None]  # the same for every head
        key, value = (for_every_query_head(x, query.shape[2]) for x in (key, value))
        return ops.dot_product_attention(query, key, value, mask=mask)

    def compute_output_spec(
        self,
        query: KerasTensor,
        key: KerasTensor,
        value: KerasTensor,
        mask: KerasTensor | None = None,
    ) -> KerasTensor:
        return KerasTensor(query.shape, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="builders")
class AttentionScores(keras.layers.Layer):
    """q k^T / sqrt(h): query (b, t, n, h), key (b, s, k, h) -> (b, n, t, s)."""

    def call(self, query: Tensor, key: Tensor) -> Tensor:
        # Scaling the query touches t * h numbers a head, scaling the scores t * s.
        query = query * (query.shape[-1] ** -0.5)
        key = for_every_query_head(key, query.shape[2])
        return ops.einsum("btnh,bsnh->bnts", query, key)

    def compute_output_spec(self, query: KerasTensor, key: KerasTensor) -> KerasTensor:
        b, t, n, _ = query.shape
        return KerasTensor((b, n, t, key.shape[1]), dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="builders")
class MaskedSoftmax(keras.layers.Layer):
    """Attention weights, computed in float32: (b, n, t, s), mask (1 or b, 1 or t, s) -> same.

    A query that may look nowhere gets equal weights everywhere, and not NaN.
    """

    def call(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = ops.cast(scores, "float32")
        if mask is not None:
            scores = ops.where(mask[:, None], scores, -3e38)  # finite in float32
        return ops.cast(softmax_over_keys(scores), self.compute_dtype)

    def compute_output_spec(
        self, scores: KerasTensor, mask: KerasTensor | None = None
    ) -> KerasTensor:
        return KerasTensor(scores.shape, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="builders")
class MixValues(keras.layers.Layer):
    """Values mixed by the weights: (b, n, t, s), (b, s, k, h) -> (b, t, n, h)."""

    def call(self, weights: Tensor, value: Tensor) -> Tensor:
        value = for_every_query_head(value, weights.shape[1])
        return ops.einsum("bnts,bsnh->btnh", weights, value)

    def compute_output_spec(self, weights: KerasTensor, value: KerasTensor) -> KerasTensor:
        b, n, t, _ = weights.shape
        return KerasTensor((b, t, n, value.shape[-1]), dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="builders")
class AttendToCache(DotProductAttention):
    """softmax(q k^T / sqrt(h)) v over the slots of a cache, the weights in float32.

    query (b, t, n, h), key (b, k, h, c), value (b, k, c, h), mask bool (b, 1 or t, c)
    -> (b, t, n, h). The heads of the queries stay in groups of n / k, so that grouped keys are
    read once and not repeated.
    """

    def call(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        b, t, n, h = ops.shape(query)
        k, c = key.shape[1], ops.shape(key)[3]
        query = ops.reshape(ops.swapaxes(query * h**-0.5, 1, 2), (b, k, n // k * t, h))
        scores = ops.cast(ops.matmul(query, key), "float32")
        if mask is not None:
            scores = ops.reshape(scores, (b, n, t, c))
            scores = ops.where(mask[:, None], scores, -3e38)  # finite in float32
            scores = ops.reshape(scores, (b, k, n // k * t, c))
        weights = ops.cast(softmax_over_keys(scores), self.compute_dtype)
        mixed = ops.reshape(ops.matmul(weights, value), (b, n, t, h))
        return ops.swapaxes(mixed, 1, 2)
