"""Projections of vectors to heads."""

from __future__ import annotations

from typing import Any

import keras

from builders.initializers import kernel_options
from builders.scope import LayerScope

Tensor = Any


def to_heads(
    scope: LayerScope, role: str, x: Tensor, heads: int, width: int, use_bias: bool = False
) -> Tensor:
    """Wire heads of x, (b, t, d) -> (b, t, heads, width); the kernel is (d, heads, width)."""
    fan_in, fan_out = x.shape[-1], heads * width
    layer = scope.layer(
        role,
        keras.layers.EinsumDense,
        "btd,dnh->btnh",
        output_shape=(None, heads, width),
        bias_axes="nh" if use_bias else None,
        **kernel_options(scope, role, fan_in=fan_in, fan_out=fan_out, unit_axis=0),
    )
    return layer(x)
