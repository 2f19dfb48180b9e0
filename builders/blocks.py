"""Blocks: sublayers f on a residual stream x, with norms where the spec places them.

One registered function for each value of the spec's `norm_placement`. Each takes
`(scope, x, sublayers)` and returns the stream after the block, (b, t, d). `sublayers` maps the name
of each sublayer, in order, to a function from (scope, input) to its output, (b, t, d), which ends
with the dropout of the sublayer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from builders.attention import attention
from builders.attention_context import AttentionContext
from builders.components import component, register_component
from builders.feedforward import feedforward
from builders.norms import norm
from builders.scope import LayerScope

Tensor = Any
Sublayer = Callable[[LayerScope, Tensor], Tensor]
Sublayers = Mapping[str, Sublayer]


def encoder_block(scope: LayerScope, x: Tensor, context: AttentionContext) -> Tensor:
    """Wire bidirectional self-attention and a feed-forward layer: (b, s, d) -> (b, s, d)."""
    sublayers: Sublayers = {
        "self_attention": lambda part, y: attention(part, y, y, context),
        "feedforward": feedforward,
    }
    return component("norm_placement", scope.spec.norm_placement)(scope, x, sublayers)


def decoder_block(
    scope: LayerScope,
    x: Tensor,
    context: AttentionContext,
    memory: Tensor | None = None,
    memory_context: AttentionContext | None = None,
) -> Tensor:
    """Wire causal self-attention, cross-attention to an encoder, and a feed-forward layer.

    x (b, t, d), memory (b, s, d) -> (b, t, d). Cross-attention needs a `memory_context`; without a
    memory, its keys and values are in the cache of a decode graph.
    """
    sublayers: dict[str, Sublayer] = {
        "self_attention": lambda part, y: attention(part, y, y, context)
    }
    if memory_context is not None:
        sublayers["cross_attention"] = lambda part, y: attention(part, y, memory, memory_context)
    sublayers["feedforward"] = feedforward
    return component("norm_placement", scope.spec.norm_placement)(scope, x, sublayers)


@register_component("norm_placement", "post")
def post_norm(scope: LayerScope, x: Tensor, sublayers: Sublayers) -> Tensor:
    """norm(x + f(x)): the norm is on the stream ("Attention Is All You Need", section 3.1)."""
    for name, f in sublayers.items():
        part = scope.within(name)
        x = norm(part, merge(part, x, f(part, x)))
    return x


@register_component("norm_placement", "pre")
def pre_norm(scope: LayerScope, x: Tensor, sublayers: Sublayers) -> Tensor:
    """x + f(norm(x)): the stream itself is not normalized (GPT-2; Xiong et al. 2020, figure 1b)."""
    for name, f in sublayers.items():
        part = scope.within(name)
        x = merge(part, x, f(part, norm(part, x)))
    return x


@register_component("norm_placement", "sandwich")
def sandwich_norm(scope: LayerScope, x: Tensor, sublayers: Sublayers) -> Tensor:
    """x + norm(f(norm(x))): a norm before and after (Ding et al. 2021, section 2.4; Gemma 2)."""
    for name, f in sublayers.items():
        part = scope.within(name)
        x = merge(part, x, norm(part, f(part, norm(part, x)), "output_norm"))
    return x


@register_component("norm_placement", "parallel")
def parallel(scope: LayerScope, x: Tensor, sublayers: Sublayers) -> Tensor:
    """x + f(norm(x)) + g(norm(x)): all sublayers read one stream (GPT-NeoX, section 2.1)."""
    parts = {name: scope.within(name) for name in sublayers}
    outputs = {name: sublayers[name](part, norm(part, x)) for name, part in parts.items()}
    if not scope.spec.residual:
        return scope.layer("sum", keras.layers.Add)(list(outputs.values()))
    for name, output in outputs.items():
        x = merge(parts[name], x, output)
    return x


@register_component("norm_placement", "none")
def no_norm(scope: LayerScope, x: Tensor, sublayers: Sublayers) -> Tensor:
    """x + f(x): no norms, for ablations."""
    for name, f in sublayers.items():
        part = scope.within(name)
        x = merge(part, x, f(part, x))
    return x


def merge(scope: LayerScope, x: Tensor, output: Tensor) -> Tensor:
    """Wire the skip path: x + output, or the output alone without skip paths."""
    if not scope.spec.residual:
        return output
    return scope.layer("residual", keras.layers.Add)([x, output])
