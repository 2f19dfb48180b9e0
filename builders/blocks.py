"""Blocks: sublayers f on a residual stream x, with norms where the spec places them.

One registered function for each value of the spec's `norm_placement`. Each takes
`(scope, x, sublayers)` and returns the stream after the block. `sublayers` maps the name of each
sublayer, in order, to a function from (scope, input) to its output, (b, t, d), which ends with the
dropout of the sublayer.

The `+` of the equations is the spec's `merge`. A placement uses the stream through `read` and
`write` alone (`builders.merges`). `stack` wires the blocks one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from builders.attention import attention
from builders.attention_context import AttentionContext
from builders.block_skips import input_of_block
from builders.components import component, register_component
from builders.feedforward import feedforward
from builders.merges import close_stream, open_stream, read, write
from builders.mixers import mix
from builders.norms import first_norm, norm
from builders.positions import position_scheme
from builders.scope import LayerScope

import builders.streams  # noqa: F401  isort: skip - merges of several streams

Tensor = Any
Sublayer = Callable[[LayerScope, Tensor], Tensor]
Sublayers = Mapping[str, Sublayer]


def stack(
    scope: LayerScope,
    x: Tensor,
    positions: Tensor,
    block: Callable[[LayerScope, Tensor], Tensor],
) -> Tensor:
    """Wire all blocks of a stack, each from its scope and what it reads: (b, t, d) -> (b, t, d).

    x = block(x) for every block, unless `block_skips` lets a block read earlier streams too, or
    positions, int (1 or b, t), are added before every block.
    """
    streams = [open_stream(scope, x)]
    for i in range(scope.spec.num_blocks(scope.path[0])):
        part = scope.block(i)
        y = input_of_block(part, streams)
        streams.append(block(part, position_scheme(part.spec).enter_block(part, y, positions)))
    return close_stream(scope, streams[-1])


def encoder_block(scope: LayerScope, x: Tensor, context: AttentionContext) -> Tensor:
    """Wire bidirectional self-attention and a feed-forward layer: (b, s, d) -> (b, s, d)."""
    sublayers: Sublayers = {
        "self_attention": lambda part, y: mix(part, y, context),
        "feedforward": lambda part, y: feedforward(part, y, context.real),
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
    sublayers: dict[str, Sublayer] = {"self_attention": lambda part, y: mix(part, y, context)}
    if memory_context is not None:
        sublayers["cross_attention"] = lambda part, y: attention(part, y, memory, memory_context)
    sublayers["feedforward"] = lambda part, y: feedforward(part, y, context.real)
    return component("norm_placement", scope.spec.norm_placement)(scope, x, sublayers)


@register_component("norm_placement", "post")
def post_norm(scope: LayerScope, x: Tensor, sublayers: Sublayers) -> Tensor:
    """norm(x + f(x)): the norm is on the stream ("Attention Is All You Need", section 3.1)."""
    for name, f in sublayers.items():
        part = scope.within(name)
        x = norm(part, write(part, x, f(part, read(part, x))))
    return x


@register_component("norm_placement", "pre")
def pre_norm(scope: LayerScope, x: Tensor, sublayers: Sublayers) -> Tensor:
    """x + f(norm(x)): the stream itself is not normalized (GPT-2; Xiong et al. 2020, figure 1b)."""
    for name, f in sublayers.items():
        part = scope.within(name)
        x = write(part, x, f(part, first_norm(part, read(part, x))))
    return x


@register_component("norm_placement", "output")
def output_norm(scope: LayerScope, x: Tensor, sublayers: Sublayers) -> Tensor:
    """x + norm(f(x)): what a sublayer adds is normalized (OLMo 2, section 3.3; EXAONE 4)."""
    for name, f in sublayers.items():
        part = scope.within(name)
        x = write(part, x, norm(part, f(part, read(part, x)), "output_norm"))
    return x


@register_component("norm_placement", "sandwich")
def sandwich_norm(scope: LayerScope, x: Tensor, sublayers: Sublayers) -> Tensor:
    """x + norm(f(norm(x))): a norm before and after (Ding et al. 2021, section 2.4; Gemma 2)."""
    for name, f in sublayers.items():
        part = scope.within(name)
        output = f(part, first_norm(part, read(part, x)))
        x = write(part, x, norm(part, output, "output_norm"))
    return x


@register_component("norm_placement", "parallel")
def parallel(scope: LayerScope, x: Tensor, sublayers: Sublayers) -> Tensor:
    """x + (f(norm(x)) + g(norm(x))): all sublayers read one stream (GPT-NeoX, section 2.1)."""
    y = read(scope, x)
    parts = {name: scope.within(name) for name in sublayers}
    outputs = [sublayers[name](part, first_norm(part, y)) for name, part in parts.items()]
    return write(scope, x, scope.layer("sum", keras.layers.Add)(outputs))


@register_component("norm_placement", "parallel_shared_norm")
def parallel_with_shared_norm(scope: LayerScope, x: Tensor, sublayers: Sublayers) -> Tensor:
    """x + (f(y) + g(y)), y = norm(x): the sublayers share one norm (GPT-J; PaLM, section 2)."""
    y = first_norm(scope, read(scope, x))
    outputs = [f(scope.within(name), y) for name, f in sublayers.items()]
    return write(scope, x, scope.layer("sum", keras.layers.Add)(outputs))


@register_component("norm_placement", "none")
def no_norm(scope: LayerScope, x: Tensor, sublayers: Sublayers) -> Tensor:
    """x + f(x): no norms, for ablations."""
    for name, f in sublayers.items():
        part = scope.within(name)
        x = write(part, x, f(part, read(part, x)))
    return x
