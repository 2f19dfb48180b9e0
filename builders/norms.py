"""Norms: one registered function for each value of the spec's `norm`.

Each takes `(scope, x, name)` and wires a norm called `name` over the last axis of x.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from builders.components import component, register_component
from builders.depth import depth_factor
from builders.elementwise import scale
from builders.scope import LayerScope

Tensor = Any


def norm(scope: LayerScope, x: Tensor, name: str = "norm") -> Tensor:
    """Wire the spec's norm over the last axis; its statistics are in float32."""
    return component("norm", scope.spec.norm)(scope, x, name)


def first_norm(scope: LayerScope, x: Tensor) -> Tensor:
    """Wire the norm of what a sublayer reads, and the factor after it, `norm_scale`."""
    return scale(scope, "norm_scale", depth_factor(scope, "norm_scale"), norm(scope, x))


@register_component("norm", "layer")
def layer_norm(scope: LayerScope, x: Tensor, name: str) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta (Ba et al. 2016)."""
    spec, layer = scope.spec, keras.layers.LayerNormalization
    return scope.layer(name, layer, epsilon=spec.norm_epsilon, center=spec.norm_bias)(x)


@register_component("norm", "rms")
def rms_norm(scope: LayerScope, x: Tensor, name: str) -> Tensor:
    """x / sqrt(mean square + epsilon) * scale (Zhang and Sennrich 2019, section 4)."""
    spec = scope.spec
    layer = UnitOffsetRMSNormalization if spec.norm_offset else keras.layers.RMSNormalization
    return scope.layer(name, layer, epsilon=spec.norm_epsilon)(x)


@keras.saving.register_keras_serializable(package="builders")
class UnitOffsetRMSNormalization(keras.layers.RMSNormalization):
    """RMS norm times 1 + scale, with scale starting at zero, as in Gemma: (..., d) -> (..., d)."""

    def build(self, input_shape: Any) -> None:
        # Not cast to the precision of the computation, in which 1 + scale would be rounded.
        self.scale = self.add_weight(
            name="scale", shape=input_shape[-1:], initializer="zeros", autocast=False
        )
        self.built = True

    def call(self, x: Tensor) -> Tensor:
        return ops.rms_normalization(x, scale=1 + self.scale, axis=-1, epsilon=self.epsilon)
