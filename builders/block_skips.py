"""Skips across blocks: one registered function for each value of the spec's `block_skips`.

Each takes `(scope, streams)` and returns what the block of the scope reads. `streams` lists the
residual stream after the embeddings and after every earlier block: block i would read `streams[i]`,
the last one, without such skips. A function asks `scope.per_call` for its layers, since skips
belong to a place in the stack, also where blocks share their weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from builders.components import component, register_component
from builders.elementwise import LearnedScale
from builders.scope import LayerScope

Tensor = Any


def input_of_block(scope: LayerScope, streams: Sequence[Tensor]) -> Tensor:
    """Wire what the block of a scope reads, given the streams before it, each of one shape."""
    return component("block_skips", scope.spec.block_skips)(scope.per_call, streams)


@register_component("block_skips", "none")
def no_skips(scope: LayerScope, streams: Sequence[Tensor]) -> Tensor:
    """The stream after the block before: no block reads an earlier one."""
    return streams[-1]


@register_component("block_skips", "unet")
def unet_skips(scope: LayerScope, streams: Sequence[Tensor]) -> Tensor:
    """x + w x_m in the second half, x_m being the stream after the mirrored block of the first.

    The trained number w starts at 1. Of L blocks, block i mirrors block 2 (L // 2) - 1 - i, so that
    the last of an odd number has no skip (KellerJordan/modded-nanogpt; Ronneberger et al. 2015).
    """
    half = scope.spec.num_blocks(scope.path[0]) // 2
    mirrored = 2 * half - 1 - scope.block_index
    if not 0 <= mirrored < half:
        return streams[-1]
    skip = scope.layer("skip_scale_from_mirrored", LearnedScale, [1])(streams[mirrored + 1])
    return scope.layer("skip_from_mirrored", keras.layers.Add)([streams[-1], skip])


@register_component("block_skips", "embedding")
def embedding_skips(scope: LayerScope, streams: Sequence[Tensor]) -> Tensor:
    """a x + b x_0 before every block, x_0 being the sum of the embeddings.

    The trained numbers start at a = 1 and b = 0 (karpathy/nanochat, `resid_lambdas` and
    `x0_lambdas`; KellerJordan/modded-nanogpt).
    """
    stream = scope.layer("stream_scale", LearnedScale, [1])(streams[-1])
    skip = scope.layer("skip_scale_from_embedding", LearnedScale, [1], 0.0)(streams[0])
    return scope.layer("skip_from_embedding", keras.layers.Add)([stream, skip])
