"""Projections of vectors to heads."""

from __future__ import annotations

from typing import Any

import keras

from builders.initializers import initializer
from builders.scope import LayerScope

Tensor = Any


def to_heads(
    scope: LayerScope, role: str, x: Tensor, heads: int, width: int, use_bias: bool = False
) -> Tensor:
    """Wire heads of x, (b, t, d) -> (b, t, heads, width); the kernel is (d, heads, width)."""
    fans = {"fan_in": x.shape[-1], "fan_out": heads * width}
    layer = scope.layer(
        role,
        keras.layers.EinsumDense,
        "btd,dnh->btnh",
        output_shape=(None, heads, width),
        bias_axes="nh" if use_bias else None,
        kernel_initializer=initializer(scope, role, **fans),
    )
    return layer(x)
