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


def merge(scope: LayerScope, spec: TransformerSpec, x: Tensor, change: Tensor) -> Tensor:
    """Wire the skip path: x + change, or the change alone in the ablation without skip paths."""
    if not spec.residual:
        return change
    return scope.layer("residual", keras.layers.Add)([x, change])


def norm(scope: LayerScope, spec: TransformerSpec, x: Tensor, name: str = "norm") -> Tensor:
    """Wire layer normalisation over d (Ba et al. 2016); Keras keeps its statistics in float32."""
    return scope.layer(name, keras.layers.LayerNormalization, epsilon=spec.norm_epsilon)(x)


def encoder_block(
    scope: LayerScope, spec: TransformerSpec, x: Tensor, mask: Tensor | None
) -> Tensor:
    """Wire self-attention in both directions and a feed-forward: (b, s, d) -> (b, s, d)."""
    total = 2 * spec.num_encoder_layers
    sublayers: Sublayers = {
        "self_attention": lambda part, y: attention(part, spec, y, y, mask, total),
        "feedforward": lambda part, y: feedforward(part, spec, y, total),
    }
    return component("norm_placement", spec.norm_placement)(scope, spec, x, sublayers)


def decoder_block(
    scope: LayerScope,
    spec: TransformerSpec,
    x: Tensor,
    mask: Tensor,
    memory: Tensor | None = None,
    memory_mask: Tensor | None = None,
) -> Tensor:
    """Wire causal self-attention, cross-attention where there is an encoder, and a feed-forward.

    x (b, t, d), mask bool (1 or b, t, t), memory (b, s, d), memory_mask bool (b, 1, s)
    -> (b, t, d). A decode graph has no memory: its cache holds the keys and values of it.
    """
    crosses = spec.kind == "encoder_decoder"
    total = spec.num_layers * (3 if crosses else 2)
    sublayers: dict[str, Callable[[LayerScope, Tensor], Tensor]] = {
        "self_attention": lambda part, y: attention(part, spec, y, y, mask, total),
        "cross_attention": lambda part, y: attention(part, spec, y, memory, memory_mask, total),
        "feedforward": lambda part, y: feedforward(part, spec, y, total),
    }
    if not crosses:
        del sublayers["cross_attention"]
    return component("norm_placement", spec.norm_placement)(scope, spec, x, sublayers)
