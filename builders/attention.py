"""Attention, wired node by node or as one library layer.

One registered function for each value of the spec's `attention`. Each takes
`(scope, spec, x, memory, mask, sublayers)`: queries come from x (b, t, d), keys and values from
memory (b, s, d), mask is bool (1 or b, 1 or t, s) or `None`, `sublayers` counts those on the
residual stream; each returns (b, t, d).
"""

from __future__ import annotations

from typing import Any

import keras
from keras import KerasTensor, ops

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
    memory: Tensor,
    mask: Tensor | None,
    sublayers: int,
) -> Tensor:
    """Wire one attention sublayer: (b, t, d), (b, s, d) -> (b, t, d)."""
    wire = component("attention", spec.attention)
    return dropout(scope, spec.dropout, wire(scope, spec, x, memory, mask, sublayers))


@register_component("attention", "graph")
def graph_attention(
    scope: LayerScope,
    spec: TransformerSpec,
    x: Tensor,
    memory: Tensor,
    mask: Tensor | None,
    sublayers: int,
) -> Tensor:
    """Wire every step as a node ("Attention Is All You Need", section 3.2)."""
    query = _project(scope, spec, "query", x)  # (b, t, n, h)
    key = _project(scope, spec, "key", memory)  # (b, s, n, h)
    value = _project(scope, spec, "value", memory)  # (b, s, n, h)
    if spec.attention_dropout:
        scores = scope.layer("scores", AttentionScores)(query, key)  # (b, n, t, s)
        weights = scope.layer("softmax", MaskedSoftmax)(scores, mask)
        weights = dropout(scope, spec.attention_dropout, weights, "weights_dropout")
        mixed = scope.layer("mix", MixValues)(weights, value)  # (b, t, n, h)
    else:
        mixed = scope.layer("attend", DotProductAttention)(query, key, value, mask)
    n, h, d = spec.num_heads, spec.head_dim, spec.hidden_dim
    return scope.layer(
        "output",
        keras.layers.EinsumDense,
        "btnh,nhd->btd",
        output_shape=(None, d),
        bias_axes="d" if spec.attention_bias else None,
        kernel_initializer=initializer(spec, fan_in=n * h, fan_out=d, sublayers=sublayers),
    )(mixed)


def _project(scope: LayerScope, spec: TransformerSpec, name: str, x: Tensor) -> Tensor:
    n, h, d = spec.num_heads, spec.head_dim, spec.hidden_dim
    return scope.layer(
        name,
        keras.layers.EinsumDense,
        "btd,dnh->btnh",
        output_shape=(None, n, h),
        bias_axes="nh" if spec.attention_bias else None,
        kernel_initializer=initializer(spec, fan_in=d, fan_out=n * h),
    )(x)


@register_component("attention", "layer")
def layer_attention(
    scope: LayerScope,
    spec: TransformerSpec,
    x: Tensor,
    memory: Tensor,
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


@keras.saving.register_keras_serializable(package="builders")
class DotProductAttention(keras.layers.Layer):
    """softmax(q k^T / sqrt(h)) v in one fused operation, where nobody looks at the weights.

    query (b, t, n, h), key and value (b, s, n, h), mask bool (1 or b, 1 or t, s)
    -> (b, t, n, h).
    """

    def call(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            mask = mask[:, None]  # the same for every head
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
    """q k^T / sqrt(h): query (b, t, n, h), key (b, s, n, h) -> (b, n, t, s)."""

    def call(self, query: Tensor, key: Tensor) -> Tensor:
        # Scaling the query touches t * h numbers a head, scaling the scores t * s.
        query = query * (query.shape[-1] ** -0.5)
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
        return ops.cast(ops.softmax(scores, axis=-1), self.compute_dtype)

    def compute_output_spec(
        self, scores: KerasTensor, mask: KerasTensor | None = None
    ) -> KerasTensor:
        return KerasTensor(scores.shape, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="builders")
class MixValues(keras.layers.Layer):
    """Values mixed by the weights: (b, n, t, s), (b, s, n, h) -> (b, t, n, h)."""

    def call(self, weights: Tensor, value: Tensor) -> Tensor:
        return ops.einsum("bnts,bsnh->btnh", weights, value)

    def compute_output_spec(self, weights: KerasTensor, value: KerasTensor) -> KerasTensor:
        b, n, t, _ = weights.shape
        return KerasTensor((b, t, n, value.shape[-1]), dtype=self.compute_dtype)
