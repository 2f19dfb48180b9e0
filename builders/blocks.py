"""Blocks: sublayers on a residual stream, with norms where the spec puts them.

One registered function for each value of the spec's `norm_placement`. Each takes
`(scope, spec, x, sublayers)` and returns the stream after the block, (b, t, d). `sublayers` are
the parts of the block in order: a name, and a function from (scope, input) to what is merged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from builders.attention import attention
from builders.feedforward import feedforward
from builders.masks import AttentionContext
from builders.norms import norm
from builders.registry import component, register_component
from builders.scope import LayerScope
from builders.spec import TransformerSpec

Tensor = Any
Sublayers = Mapping[str, Callable[[LayerScope, Tensor], Tensor]]


@register_component("norm_placement", "post")
def post_norm(scope: LayerScope, spec: TransformerSpec, x: Tensor, sublayers: Sublayers) -> Tensor:
    """norm(x + f(x)): the norm lies on the stream ("Attention Is All You Need", section 3.1)."""
    for name, sublayer in sublayers.items():
        part = scope.within(name)
        x = norm(part, spec, merge(part, spec, x, sublayer(part, x)))
    return x


@register_component("norm_placement", "pre")
def pre_norm(scope: LayerScope, spec: TransformerSpec, x: Tensor, sublayers: Sublayers) -> Tensor:
    """x + f(norm(x)): nothing lies on the stream (GPT-2; Xiong et al. 2020, figure 1b)."""
    for name, sublayer in sublayers.items():
        part = scope.within(name)
        x = merge(part, spec, x, sublayer(part, norm(part, spec, x)))
    return x


@register_component("norm_placement", "sandwich")
def sandwich_norm(
    scope: LayerScope, spec: TransformerSpec, x: Tensor, sublayers: Sublayers
) -> Tensor:
    """x + norm(f(norm(x))): a norm before and after (Ding et al. 2021, section 2.4; Gemma 2)."""
    for name, sublayer in sublayers.items():
        part = scope.within(name)
        change = sublayer(part, norm(part, spec, x))
        x = merge(part, spec, x, norm(part, spec, change, "output_norm"))
    return x


@register_component("norm_placement", "parallel")
def parallel(scope: LayerScope, spec: TransformerSpec, x: Tensor, sublayers: Sublayers) -> Tensor:
    """x + f(norm(x)) + g(norm(x)): all read the same stream (GPT-NeoX, section 2.1)."""
    parts = {name: scope.within(name) for name in sublayers}
    changes = {name: sublayers[name](part, norm(part, spec, x)) for name, part in parts.items()}
    if not spec.residual:
        return scope.layer("sum", keras.layers.Add)(list(changes.values()))
    for name, change in changes.items():
        x = merge(parts[name], spec, x, change)
    return x


@register_component("norm_placement", "none")
def no_norm(scope: LayerScope, spec: TransformerSpec, x: Tensor, sublayers: Sublayers) -> Tensor:
    """x + f(x): the ablation that shows what norms are for."""
    for name, sublayer in sublayers.items():
        part = scope.within(name)
        x = merge(part, spec, x, sublayer(part, x))
    return x


def merge(scope: LayerScope, spec: TransformerSpec, x: Tensor, change: Tensor) -> Tensor:
    """Wire the skip path: x + change, or the change alone in the ablation without skip paths."""
    if not spec.residual:
        return change
    return scope.layer("residual", keras.layers.Add)([x, change])


def encoder_block(
    scope: LayerScope, spec: TransformerSpec, x: Tensor, view: AttentionContext
) -> Tensor:
    """Wire self-attention in both directions and a feed-forward: (b, s, d) -> (b, s, d)."""
    total = 2 * spec.num_encoder_layers
    sublayers: Sublayers = {
        "self_attention": lambda part, y: attention(part, spec, y, y, view, total),
        "feedforward": lambda part, y: feedforward(part, spec, y, total),
    }
    return component("norm_placement", spec.norm_placement)(scope, spec, x, sublayers)


def decoder_block(
    scope: LayerScope,
    spec: TransformerSpec,
    x: Tensor,
    view: AttentionContext,
    memory: Tensor | None = None,
    memory_mask: Tensor | None = None,
) -> Tensor:
    """Wire causal self-attention, cross-attention where there is an encoder, and a feed-forward.

    x (b, t, d), memory (b, s, d), memory_mask bool (b, 1, s) -> (b, t, d). A decode
    graph has no memory: its cache holds the keys and values of it.
    """
    crosses = spec.kind == "encoder_decoder"
    total = spec.num_layers * (3 if crosses else 2)
    sublayers: dict[str, Callable[[LayerScope, Tensor], Tensor]] = {
        "self_attention": lambda part, y: attention(part, spec, y, y, view, total),
        "cross_attention": lambda part, y: attention(
            part, spec, y, memory, AttentionContext(memory_mask), total
        ),
        "feedforward": lambda part, y: feedforward(part, spec, y, total),
    }
    if not crosses:
        del sublayers["cross_attention"]
    return component("norm_placement", spec.norm_placement)(scope, spec, x, sublayers)
