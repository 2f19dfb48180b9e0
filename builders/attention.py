"""Attention, wired node by node or as one library layer.

One registered function for each value of the spec's `attention`. Each takes
`(scope, spec, x, memory, view, sublayers)`: queries come from x (b, t, d), keys and values from
memory (b, s, d), `view` says what a query may look at, `sublayers` counts those on the residual
stream; each returns (b, t, d).

Whichever it is, decode and probe graphs are wired node by node, from the four projections.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import KerasTensor, ops

from builders.cache import SLOT_AXIS
from builders.feedforward import dropout
from builders.initializers import initializer
from builders.masks import AttentionContext
from builders.norms import norm
from builders.positions import PositionScheme, position_scheme
from builders.registry import component, register_component
from builders.scope import LayerScope
from builders.spec import TransformerSpec

Tensor = Any


def attention(
    scope: LayerScope,
    spec: TransformerSpec,
    x: Tensor,
    memory: Tensor | None,
    view: AttentionContext,
    sublayers: int,
) -> Tensor:
    """Wire one attention sublayer: (b, t, d), (b, s, d) -> (b, t, d).

    Without a memory, keys and values are those in the cache of a decode graph.
    """
    by_node = scope.cache is not None or scope.shows_scores
    wire = component("attention", "graph" if by_node else spec.attention)
    return dropout(scope, spec.dropout, wire(scope, spec, x, memory, view, sublayers))


@register_component("attention", "graph")
def graph_attention(
    scope: LayerScope,
    spec: TransformerSpec,
    x: Tensor,
    memory: Tensor | None,
    view: AttentionContext,
    sublayers: int,
) -> Tensor:
    """Wire every step as a node ("Attention Is All You Need", section 3.2)."""
    query = project(scope, spec, "query", x, view.positions)  # (b, t, n, h)
    if scope.cache is not None:
        mixed = attend_to_cache(scope, spec, query, memory, view)  # (b, t, n, h)
    else:
        key = project(scope, spec, "key", memory, view.positions)  # (b, s, k, h)
        value = project(scope, spec, "value", memory)  # (b, s, k, h)
        mixed = attend(scope, spec, query, key, value, view)  # (b, t, n, h)
    n, h, d = spec.num_heads, spec.head_dim, spec.hidden_dim
    # Heads are `i` and their channels `j` here: JAX sums in the order of the alphabet, and to sum
    # over `h` before `n` it would transpose both sides.
    return scope.layer(
        "output",
        keras.layers.EinsumDense,
        "btij,ijd->btd",
        output_shape=(None, d),
        bias_axes="d" if spec.attention_output_bias else None,
        kernel_initializer=initializer(
            spec, "output", fan_in=n * h, fan_out=d, sublayers=sublayers
        ),
    )(mixed)


def project(
    scope: LayerScope,
    spec: TransformerSpec,
    role: str,
    x: Tensor,
    positions: Tensor | None = None,
) -> Tensor:
    """Wire the query (b, t, n, h), or the key or value (b, s, k, h), of x (b, t or s, d).

    Queries and keys at positions, int (1 or b, t or s), are turned by them where the spec says so.
    """
    heads = spec.num_heads if role == "query" else spec.num_key_value_heads
    h, d = spec.head_dim, spec.hidden_dim
    x = scope.layer(
        role,
        keras.layers.EinsumDense,
        "btd,dnh->btnh",
        output_shape=(None, heads, h),
        bias_axes="nh" if spec.attention_bias else None,
        kernel_initializer=initializer(spec, role, fan_in=d, fan_out=heads * h),
    )(x)
    if spec.qk_norm and role != "value":
        x = norm(scope, spec, x, f"{role}_norm")
    if positions is not None:
        x = position_scheme(spec).rotate(scope, spec, x, positions, role)
    return x


def soft_cap(scope: LayerScope, cap: float | None, x: Tensor, name: str = "soft_cap") -> Tensor:
    """Wire cap * tanh(x / cap), which keeps x between -cap and cap, or nothing without a cap."""
    return x if cap is None else scope.layer(name, SoftCap, cap)(x)


def attend(
    scope: LayerScope,
    spec: TransformerSpec,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    view: AttentionContext,
) -> Tensor:
    """Wire softmax(q k^T scale + bias) v: in one node, or in steps where one is wanted."""
    changes_scores = spec.attention_soft_cap is not None or view.bias is not None
    if not (spec.attention_dropout or changes_scores or scope.shows_scores):
        layer = scope.layer("attend", DotProductAttention, spec.attention_scale)
        return layer(query, key, value, view.mask)
    scores = scope.layer("scores", AttentionScores, spec.attention_scale)(query, key)
    scores = soft_cap(scope, spec.attention_soft_cap, scores)  # (b, n, t, s)
    if view.bias is not None:
        scores = scope.layer("biased_scores", BiasedScores)(scores, view.bias)
    masked = () if view.mask is None else (view.mask,)  # Keras passes on a mask of None twice
    weights = scope.layer("softmax", MaskedSoftmax)(scores, *masked)
    weights = dropout(scope, spec.attention_dropout, weights, "weights_dropout")
    return scope.layer("weighted_values", WeightedValues)(weights, value)  # (b, t, n, h)


def attend_to_cache(
    scope: LayerScope,
    spec: TransformerSpec,
    query: Tensor,
    memory: Tensor | None,
    view: AttentionContext,
) -> Tensor:
    """Wire attention to the cache, to which memory (b, t, d), if there is one, is added first."""
    assert scope.cache is not None
    cached = []
    for role in ("key", "value"):
        name = f"{role}_cache"
        if memory is None:
            cached.append(scope.cache.read(scope, name))
        else:
            positions = view.positions if role == "key" else None
            new = heads_first(scope, spec, role, memory, positions)
            cached.append(scope.cache.append(scope, name, new, SLOT_AXIS[role], view.window))
    key, value = cached  # (b, k, h, c), (b, k, c, h)
    attend = scope.layer(
        "attend_to_cache", AttendToCache, spec.attention_scale, spec.attention_soft_cap
    )
    return attend(query, key, value, view.mask, view.bias)


def heads_first(
    scope: LayerScope,
    spec: TransformerSpec,
    role: str,
    x: Tensor,
    positions: Tensor | None = None,
) -> Tensor:
    """Wire the key (b, k, h, s) or value (b, k, s, h) of x (b, s, d), in the layout of a cache."""
    order = {"key": (2, 3, 1), "value": (2, 1, 3)}[role]
    layer = scope.layer(f"{role}_heads_first", keras.layers.Permute, order)
    return layer(project(scope, spec, role, x, positions))


@register_component("attention", "layer")
def layer_attention(
    scope: LayerScope,
    spec: TransformerSpec,
    x: Tensor,
    memory: Tensor | None,
    view: AttentionContext,
    sublayers: int,
) -> Tensor:
    """Wire the library's own layer as one node; its kernels have the same shapes.

    The layer has one initialiser for its four kernels, so `depth_scaled` starts as `normal`.

    Raises:
        ValueError: a position scheme that turns queries and keys, or adds to the scores.
    """
    turns = type(position_scheme(spec)).rotate is not PositionScheme.rotate
    if turns or view.bias is not None:
        raise ValueError(
            f"positions={spec.positions!r} reaches inside attention, which attention='layer' "
            "leaves closed; use attention='graph'"
        )
    import keras_hub  # takes seconds to import, and only this wiring needs it

    n, h, d = spec.num_heads, spec.head_dim, spec.hidden_dim
    layer = scope.layer(
        "attention",
        keras_hub.layers.CachedMultiHeadAttention,
        num_heads=n,
        key_dim=h,
        dropout=spec.attention_dropout,
        use_bias=spec.attention_bias,
        kernel_initializer=initializer(spec, "attention", fan_in=d, fan_out=n * h),
    )
    return layer(x, memory, attention_mask=view.mask)


def for_every_query_head(x: Tensor, heads: int) -> Tensor:
    """Repeat the heads of keys or values for the queries that share them: (b, s, k, h) -> n."""
    groups = heads // x.shape[2]
    return x if groups == 1 else ops.repeat(x, groups, axis=2)


def capped(x: Tensor, cap: float) -> Tensor:
    """Return cap * tanh(x / cap) in float32."""
    return cap * ops.tanh(ops.cast(x, "float32") / cap)


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return attention weights in float32: (b, n, t, s), mask (1 or b, 1 or t, s) -> same.

    A query that may look nowhere gets equal weights everywhere, and not NaN.
    """
    scores = ops.cast(scores, "float32")
    if mask is not None:
        scores = ops.where(mask[:, None], scores, -3e38)  # finite in float32
    # Of a softmax over one key `ops.softmax` would warn.
    return scores * 0 + 1 if scores.shape[-1] == 1 else ops.softmax(scores, axis=-1)


class Scaled(keras.layers.Layer):
    """A layer with scores q k^T times a scale; `None`: 1 / sqrt(h)."""

    def __init__(self, scale: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = scale

    def scaled(self, query: Tensor) -> Tensor:
        # Scaling the query touches t * h numbers a head, scaling the scores t * s.
        return query * (query.shape[-1] ** -0.5 if self.scale is None else self.scale)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable(package="builders")
class DotProductAttention(Scaled):
    """softmax(q k^T scale) v in one fused operation, where nobody looks at the weights.

    query (b, t, n, h), key and value (b, s, k, h), mask bool (1 or b, 1 or t, s)
    -> (b, t, n, h).
    """

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "btnh,bskh,bskh,bts->btnh",
        "products": ["btnh,bskh->bnts", "bnts,bskh->btnh"],
        "role": "attention",
    }

    def call(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            mask = mask[:, None]  # the same for every head
        key, value = (for_every_query_head(x, query.shape[2]) for x in (key, value))
        return ops.dot_product_attention(query, key, value, mask=mask, scale=self.scale)

    def compute_output_spec(self, query: KerasTensor, *others: KerasTensor | None) -> KerasTensor:
        return KerasTensor(query.shape, dtype=self.compute_dtype)


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
        key = for_every_query_head(key, query.shape[2])
        return ops.einsum("btnh,bsnh->bnts", query, key)

    def compute_output_spec(self, query: KerasTensor, key: KerasTensor) -> KerasTensor:
        b, t, n, _ = query.shape
        return KerasTensor((b, n, t, key.shape[1]), dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="builders")
class SoftCap(keras.layers.Layer):
    """cap * tanh(x / cap), computed in float32 (Gemma 2, section 2): any shape -> same."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "...->...", "products": []}

    def __init__(self, cap: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cap = cap

    def call(self, x: Tensor) -> Tensor:
        return ops.cast(capped(x, self.cap), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "cap": self.cap}


@keras.saving.register_keras_serializable(package="builders")
class BiasedScores(keras.layers.Layer):
    """Scores plus a bias, in float32: (b, n, t, s), (1 or b, n, t, s) -> (b, n, t, s)."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bnts,bnts->bnts", "products": []}

    def call(self, scores: Tensor, bias: Tensor) -> Tensor:
        return ops.cast(scores, "float32") + ops.cast(bias, "float32")

    def compute_output_spec(self, scores: KerasTensor, bias: KerasTensor) -> KerasTensor:
        return KerasTensor(scores.shape, dtype="float32")


@keras.saving.register_keras_serializable(package="builders")
class MaskedSoftmax(keras.layers.Layer):
    """Attention weights as of `masked_softmax`, in the precision of the model."""

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "bnts,bts->bnts",
        "products": [],
        "role": "attention_weights",
    }

    def call(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        return ops.cast(masked_softmax(scores, mask), self.compute_dtype)

    def compute_output_spec(
        self, scores: KerasTensor, mask: KerasTensor | None = None
    ) -> KerasTensor:
        return KerasTensor(scores.shape, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="builders")
class WeightedValues(keras.layers.Layer):
    """Values mixed by the weights: (b, n, t, s), (b, s, k, h) -> (b, t, n, h)."""

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "bnts,bskh->btnh",
        "products": ["bnts,bskh->btnh"],
    }

    def call(self, weights: Tensor, value: Tensor) -> Tensor:
        value = for_every_query_head(value, weights.shape[1])
        return ops.einsum("bnts,bsnh->btnh", weights, value)

    def compute_output_spec(self, weights: KerasTensor, value: KerasTensor) -> KerasTensor:
        b, n, t, _ = weights.shape
        return KerasTensor((b, t, n, value.shape[-1]), dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="builders")
class AttendToCache(DotProductAttention):
    """softmax(q k^T scale) v over the slots of a cache, the weights in float32.

    query (b, t, n, h), key (b, k, h, c), value (b, k, c, h), mask bool (b, 1 or t, c), bias
    (1 or b, n, t, c) -> (b, t, n, h). The heads of the queries stay in groups of n / k, so that
    grouped keys are read once and not repeated.

    Args:
        scale: of the scores; `None`: 1 / sqrt(h).
        soft_cap: of the scores; `None`: none.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "btnh,bkhs,bksh,bts,bnts->btnh",
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
        bias: Tensor | None = None,
    ) -> Tensor:
        b, t, n, h = ops.shape(query)
        k, c = key.shape[1], ops.shape(key)[3]
        query = ops.reshape(ops.swapaxes(self.scaled(query), 1, 2), (b, k, n // k * t, h))
        scores = ops.cast(ops.matmul(query, key), "float32")
        if self.soft_cap is not None:
            scores = capped(scores, self.soft_cap)
        scores = ops.reshape(scores, (b, n, t, c))
        if bias is not None:
            scores = scores + ops.cast(bias, "float32")
        weights = ops.cast(masked_softmax(scores, mask), self.compute_dtype)
        weights = ops.reshape(weights, (b, k, n // k * t, c))
        mixed = ops.reshape(ops.matmul(weights, value), (b, n, t, h))
        return ops.swapaxes(mixed, 1, 2)
