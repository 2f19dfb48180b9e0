"""Norms: one registered function for each value of the spec's `norm`.

Each takes `(scope, x, name)` and wires a norm called `name` over the last axis of x.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import KerasTensor, ops

from builders.components import component, register_component
from builders.depth import depth_factor
from builders.elementwise import LearnedScale, SameShape, scale
from builders.fused import fused_norm, is_fusing
from builders.scope import LayerScope

Tensor = Any


def _declaration(like: str) -> dict[str, Any]:
    return {"signature": "...->...", "products": [], "role": "norm", "like": like}


def norm(scope: LayerScope, x: Tensor, name: str = "norm") -> Tensor:
    """Wire the spec's norm over the last axis; its statistics are in float32."""
    return component("norm", scope.spec.norm)(scope, x, name)


def first_norm(scope: LayerScope, x: Tensor) -> Tensor:
    """Wire the norm of what a sublayer reads, and the factor after it, `norm_scale`."""
    if scope.path[-1] == "self_attention" and not scope.spec.attention_norm:
        return x
    return scale(scope, "norm_scale", depth_factor(scope, "norm_scale"), norm(scope, x))


def head_norm(scope: LayerScope, x: Tensor, name: str) -> Tensor:
    """Wire the norm of queries or keys, (b, t, n, h) -> same; `qk_norm_heads` says over what."""
    n, h = x.shape[2:]
    heads, d = scope.spec.qk_norm_heads, scope.spec.hidden_dim
    if not scope.spec.qk_norm_gain:
        scope = _without_weights(scope)
    if heads == "joint":
        together = scope.layer(f"{name}_joint_heads", keras.layers.Reshape, (-1, n * h))(x)
        normed = norm(scope, together, name)
        return scope.layer(f"{name}_split_heads", keras.layers.Reshape, (-1, n, h))(normed)
    if heads == "shared":
        return norm(scope, x, name)
    x = norm(_without_weights(scope), x, f"{name}_plain")
    if heads == "separate":
        return scope.layer(name, LearnedScale, (n, h))(x)
    return scope.layer("query_key_gain", LearnedScale, (n, h), 1.0, d**-0.5)(x)


def _without_weights(scope: LayerScope) -> LayerScope:
    return scope.with_spec(norm_gain=False, norm_bias=False, norm_offset=False)


@register_component("norm", "layer")
def layer_norm(scope: LayerScope, x: Tensor, name: str) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta (Ba et al. 2016)."""
    spec = scope.spec
    return scope.layer(
        name,
        LayerNormalization,
        epsilon=spec.norm_epsilon,
        center=spec.norm_bias,
        scale=spec.norm_gain,
    )(x)


@register_component("norm", "rms")
def rms_norm(scope: LayerScope, x: Tensor, name: str) -> Tensor:
    """x / sqrt(mean square + epsilon) * scale (Zhang and Sennrich 2019, section 4)."""
    spec = scope.spec
    layer = UnitOffsetRMSNormalization if spec.norm_offset else RMSNormalization
    layer = layer if spec.norm_gain else PlainRMSNormalization
    return scope.layer(name, layer, epsilon=spec.norm_epsilon)(x)


@register_component("norm", "unit")
def unit_norm(scope: LayerScope, x: Tensor, name: str) -> Tensor:
    """x / ||x||, without weights (Loshchilov et al. 2024, nGPT)."""
    return scope.layer(name, UnitNorm, scope.spec.norm_epsilon)(x)


@keras.saving.register_keras_serializable(package="builders")
class LayerNormalization(keras.layers.LayerNormalization):
    """That of Keras over the last axis, with fused kernels where they are used."""

    graph_declaration: ClassVar[dict[str, Any]] = _declaration("LayerNormalization")

    def call(self, inputs: Tensor) -> Tensor:
        if not is_fusing() or isinstance(inputs, KerasTensor):
            return super().call(inputs)
        weights = [weight for weight in (self.gamma, self.beta) if weight is not None]
        y = fused_norm(inputs, weights, self.epsilon, centred=True)
        return ops.cast(y, self.compute_dtype)


@keras.saving.register_keras_serializable(package="builders")
class RMSNormalization(keras.layers.RMSNormalization):
    """That of Keras over the last axis, with fused kernels where they are used."""

    graph_declaration: ClassVar[dict[str, Any]] = _declaration("RMSNormalization")

    def call(self, x: Tensor) -> Tensor:
        gain = self.gain()
        if is_fusing() and not isinstance(x, KerasTensor):
            weights = [] if gain is None else [gain]
            return fused_norm(x, weights, self.epsilon, centred=False)
        return ops.rms_normalization(x, scale=gain, axis=-1, epsilon=self.epsilon)

    def gain(self) -> Tensor | None:
        """Return what normalized vectors are multiplied by, (d,)."""
        return self.scale


@keras.saving.register_keras_serializable(package="builders")
class UnitNorm(SameShape):
    """x / sqrt(sum of squares + epsilon) over the last axis, in float32: (..., d) -> (..., d)."""

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "...->...",
        "products": [],
        "role": "norm",
    }

    def __init__(self, epsilon: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def call(self, x: Tensor) -> Tensor:
        wide = ops.cast(x, "float32")
        squares = ops.sum(ops.square(wide), axis=-1, keepdims=True)
        return ops.cast(wide * ops.rsqrt(squares + self.epsilon), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="builders")
class PlainRMSNormalization(RMSNormalization):
    """RMS norm without weights: (..., d) -> (..., d)."""

    def build(self, input_shape: Any) -> None:
        self.built = True

    def gain(self) -> None:
        return None


@keras.saving.register_keras_serializable(package="builders")
class UnitOffsetRMSNormalization(RMSNormalization):
    """RMS norm times 1 + scale, with scale starting at zero, as in Gemma: (..., d) -> (..., d)."""

    def build(self, input_shape: Any) -> None:
        # Not cast to the precision of the computation, in which 1 + scale would be rounded.
        self.scale = self.add_weight(
            name="scale", shape=input_shape[-1:], initializer="zeros", autocast=False
        )
        self.built = True

    def gain(self) -> Tensor:
        return 1 + self.scale
