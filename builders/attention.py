"""Attention, wired in steps or as one library layer.

One registered function for each value of the spec's `attention`. Each takes
`(scope, x, memory, context)`: queries come from x (b, t, d), keys and values from memory (b, s, d),
`context` has masks, positions and biases; each returns (b, t, d).

Decode and probe graphs are always wired in steps, from the four projections.
"""

from __future__ import annotations

from typing import Any

import keras

from builders.attention_context import AttentionContext
from builders.attention_layers import (
    AttendToCache,
    AttentionScores,
    AttentionSinks,
    AttentionTemperature,
    BiasedScores,
    DotProductAttention,
    MaskedSoftmax,
    WeightedValues,
)
from builders.cache import SLOT_AXIS, cached_roles
from builders.components import component, register_component
from builders.elementwise import dropout, soft_cap
from builders.initializers import initializer, kernel_options
from builders.latent_attention import (
    attend_to_latents,
    join_parts,
    keys_and_values,
    latent_memory,
    latent_queries,
)
from builders.norms import head_norm
from builders.positions import PositionScheme, position_scheme
from builders.projections import to_heads
from builders.scope import LayerScope

Tensor = Any


def attention(
    scope: LayerScope, x: Tensor, memory: Tensor | None, context: AttentionContext
) -> Tensor:
    """Wire one attention sublayer: (b, t, d), (b, s, d) -> (b, t, d).

    Without a memory, keys and values are those in the cache of a decode graph.
    """
    scope.slots, scope.starts = context.slots, context.starts
    in_steps = context.cache is not None or scope.exposes_scores
    wire = component("attention", "graph" if in_steps else scope.spec.attention)
    return dropout(scope, scope.spec.dropout, wire(scope, x, memory, context))


@register_component("attention", "graph")
def graph_attention(
    scope: LayerScope, x: Tensor, memory: Tensor | None, context: AttentionContext
) -> Tensor:
    """Wire every step as a node ("Attention Is All You Need", section 3.2)."""
    spec = scope.spec
    wire = values_of_heads if spec.latent_dim is None else values_of_latents
    values = wire(scope, x, memory, context)  # (b, t, n, u), u being value_dim
    if spec.attention_gate:
        values = gated(scope, x, values)
    fan_in = spec.num_heads * spec.value_dim
    # Heads are `i` and their channels `j` here: JAX contracts axes in alphabetical order, and would
    # transpose both operands to contract `h` before `n`.
    return scope.layer(
        "output",
        keras.layers.EinsumDense,
        "btij,ijd->btd",
        output_shape=(None, spec.hidden_dim),
        bias_axes="d" if spec.attention_output_bias else None,
        **kernel_options(scope, "output", fan_in=fan_in, fan_out=spec.hidden_dim, unit_axis=2),
    )(values)


def gated(scope: LayerScope, x: Tensor, values: Tensor) -> Tensor:
    """Wire what heads read, (b, t, n, u), times the sigmoid of a projection of x (b, t, d)."""
    spec = scope.spec
    gate = to_heads(scope, "output_gate", x, spec.num_heads, spec.value_dim, spec.attention_bias)
    gate = scope.layer("output_gate_sigmoid", keras.layers.Activation, "sigmoid")(gate)
    return scope.layer("gated_values", keras.layers.Multiply)([values, gate])


def values_of_heads(
    scope: LayerScope, x: Tensor, memory: Tensor | None, context: AttentionContext
) -> Tensor:
    """Wire the weighted values (b, t, n, h) of keys and values of their own for each head."""
    query = project(scope, "query", x, context.positions)  # (b, t, n, h)
    if context.cache is None:
        key = project_memory(scope, "key", memory, context)  # (b, s, k, h)
        value = project_memory(scope, "value", memory, context)  # (b, s, k, h)
        return attend(scope, query, key, value, context)
    cached = in_cache(scope, memory, context)  # (b, k, h, c), (b, k, c, h)
    spec = scope.spec
    layer = scope.layer(
        "attend_to_cache", AttendToCache, spec.attention_scale, spec.attention_soft_cap
    )
    given = cached["key"], cached["value"], context.mask
    return layer(query, *given, bias=context.bias, **sinks(scope, query))


def values_of_latents(
    scope: LayerScope, x: Tensor, memory: Tensor | None, context: AttentionContext
) -> Tensor:
    """Wire the weighted values (b, t, n, u) of keys and values that have one latent."""
    queries = latent_queries(scope, x, context.positions)  # (b, t, n, r), (b, t, n, h - r)
    if context.cache is not None:
        cached = in_cache(scope, memory, context)
        masks = context.mask, context.bias
        return attend_to_latents(scope, queries, cached, *masks, **sinks(scope, queries[0]))
    key, value = keys_and_values(scope, *latent_memory(scope, memory, context.positions))
    return attend(scope, join_parts(scope, "query", *queries), key, value, context)


def project(scope: LayerScope, role: str, x: Tensor, positions: Tensor | None = None) -> Tensor:
    """Wire the query (b, t, n, h), or the key or value (b, s, k, h), of x (b, t or s, d).

    With positions, int (1 or b, t or s), the position scheme may rotate queries and keys.
    """
    spec = scope.spec
    heads = spec.num_heads if role == "query" else spec.num_key_value_heads
    x = to_heads(scope, role, x, heads, spec.head_dim, spec.attention_bias)
    has_norm = spec.qk_norm and role != "value"
    if has_norm and not spec.qk_norm_after_rotary:
        x = head_norm(scope, x, f"{role}_norm")
    if positions is not None:
        x = position_scheme(spec).rotate(scope, x, positions, role)
    if has_norm and spec.qk_norm_after_rotary:
        x = head_norm(scope, x, f"{role}_norm")
    if positions is not None and role == "query":
        x = temperature(scope, x, positions)
    return x


def temperature(scope: LayerScope, query: Tensor, positions: Tensor) -> Tensor:
    """Wire the factor of a query (b, t, n, h) by its position, where the spec has one."""
    strength, floor = scope.spec.attention_temperature, scope.spec.attention_temperature_floor
    if not strength:
        return query
    return scope.layer("temperature", AttentionTemperature, strength, floor)(query, positions)


def project_memory(scope: LayerScope, role: str, x: Tensor, context: AttentionContext) -> Tensor:
    """Wire the keys or values of x (b, s, d), as the context changes them: (b, s, k, h)."""
    if role == "key":
        return project(scope, role, x, context.positions)
    value = project(scope, role, x)
    return value if context.value_residual is None else context.value_residual.mix(scope, value)


def attend(
    scope: LayerScope, query: Tensor, key: Tensor, value: Tensor, context: AttentionContext
) -> Tensor:
    """Wire softmax(q k^T scale + bias) v: in one node, or in steps where one is needed."""
    spec = scope.spec
    changes_scores = spec.attention_soft_cap is not None or context.bias is not None
    if not (spec.attention_dropout or changes_scores or scope.exposes_scores):
        layer = scope.layer("attend", DotProductAttention, spec.attention_scale)
        return layer(query, key, value, context.mask, **sinks(scope, query))
    scores = scope.layer("scores", AttentionScores, spec.attention_scale)(query, key)
    scores = soft_cap(scope, spec.attention_soft_cap, scores)  # (b, n, t, s)
    if context.bias is not None:
        scores = scope.layer("biased_scores", BiasedScores)(scores, context.bias)
    mask = (
        () if context.mask is None else (context.mask,)
    )  # Keras would record a mask of None as an argument
    weights = scope.layer("softmax", MaskedSoftmax)(scores, *mask, **sinks(scope, query))
    weights = dropout(scope, spec.attention_dropout, weights, "weights_dropout")
    return scope.layer("weighted_values", WeightedValues)(weights, value)  # (b, t, n, h)


def sinks(scope: LayerScope, query: Tensor) -> dict[str, Tensor]:
    """Wire the sinks of the heads of a query (b, t, n, h), (1, n, 1, 1), as an argument by name."""
    if not scope.spec.attention_sinks:
        return {}
    return {"sinks": scope.layer("sinks", AttentionSinks)(query)}


def in_cache(
    scope: LayerScope, memory: Tensor | None, context: AttentionContext
) -> dict[str, Tensor]:
    """Wire the entries to attend to by role; the memory (b, t, d), if there is one, is appended."""
    cache, is_ring = context.cache, scope.spec.most_keys is not None
    assert cache is not None
    if memory is None:
        return {role: cache.read(scope, f"{role}_cache") for role in cached_roles(scope.spec)}
    return {
        role: cache.append(scope, f"{role}_cache", new, SLOT_AXIS[role], is_ring)
        for role, new in new_entries(scope, memory, context).items()
    }


def new_entries(scope: LayerScope, memory: Tensor, context: AttentionContext) -> dict[str, Tensor]:
    """Wire what a cache holds of the memory (b, s, d), by role: see `builders.cache`."""
    spec = scope.spec
    if spec.latent_dim is not None:
        key, latent = latent_memory(scope, memory, context.positions)  # (b, s, 1, r), (b, s, l)
        one_head = scope.layer("latent_head", keras.layers.Reshape, (1, -1, spec.latent_dim))
        return {
            "shared_key": heads_first(scope, "shared_key", key),
            "latent": one_head(latent),
        }
    return {
        role: heads_first(scope, role, project_memory(scope, role, memory, context))
        for role in ("key", "value")
    }


def heads_first(scope: LayerScope, role: str, x: Tensor) -> Tensor:
    """Wire (b, s, k, h) -> (b, k, h, s) or (b, k, s, h), in the layout of a cache."""
    order = (2, 3, 1) if SLOT_AXIS[role] == 3 else (2, 1, 3)
    return scope.layer(f"{role}_heads_first", keras.layers.Permute, order)(x)


@register_component("attention", "layer")
def layer_attention(
    scope: LayerScope, x: Tensor, memory: Tensor | None, context: AttentionContext
) -> Tensor:
    """Wire the library's own layer as one node; its kernels have the same shapes.

    The layer has one initializer for its four kernels, so `depth_scaled` starts as `normal`.

    Raises:
        ValueError: a position scheme that rotates queries and keys, or that adds to the scores.
    """
    spec = scope.spec
    rotates = type(position_scheme(spec)).rotate is not PositionScheme.rotate
    if rotates or context.bias is not None:
        raise ValueError(
            f"positions={spec.positions!r} acts inside attention, which attention='layer' does not "
            "support; use attention='graph'"
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
        kernel_initializer=initializer(scope, "attention", fan_in=d, fan_out=n * h),
    )
    return layer(x, memory, attention_mask=context.mask)
