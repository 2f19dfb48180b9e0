"""The feed-forward sublayer.

One registered function for each value of the spec's `feedforward`. Each takes `(scope, x)`, x being
(b, t, d), and returns the hidden layer, (b, t, f).
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import keras
from keras import ops

from builders.components import component, register_component
from builders.elementwise import LearnedScale, SameShape, dropout
from builders.expert_layers import ExpertDense
from builders.experts import mixture_of_experts
from builders.initializers import kernel_options
from builders.scope import LayerScope

Tensor = Any


def feedforward(scope: LayerScope, x: Tensor, real: Tensor | None = None) -> Tensor:
    """Wire the feed-forward sublayer, or a mixture of them: (b, t, d) -> (b, t, d).

    `real`, bool (b, 1, t), says which tokens are no padding.
    """
    spec = scope.spec
    wire = partial(mixture_of_experts, layers=layers, real=real) if spec.num_experts else layers
    return dropout(scope, spec.feedforward_dropout, wire(scope, x))


def layers(scope: LayerScope, x: Tensor) -> Tensor:
    """Wire one feed-forward layer: (b, t, d) -> (b, t, f) -> (b, t, d); rows of experts alike."""
    spec = scope.spec
    x = component("feedforward", spec.feedforward)(scope, x)
    x = dropout(scope, spec.activation_dropout, x, "activation_dropout")
    return projection(scope, "down", x, spec.intermediate_dim, spec.hidden_dim)


@register_component("feedforward", "mlp")
def mlp(scope: LayerScope, x: Tensor) -> Tensor:
    """activation(up(x)) ("Attention Is All You Need", section 3.3)."""
    return up_projection(scope, "up", x, scope.spec.activation)


@register_component("feedforward", "scaled_glu")
def scaled_glu(scope: LayerScope, x: Tensor) -> Tensor:
    """activation(s gate(x)) * (r up(x)) with trained numbers s and r, which start at sqrt(d).

    Unit vectors have products of about 1 / sqrt(d) (Loshchilov et al. 2024, "nGPT", equations 18 to
    21; NVIDIA/ngpt scales both projections).
    """
    spec = scope.spec
    shape, start = (spec.intermediate_dim,), spec.hidden_dim**0.5
    gate, up = (
        scope.layer(f"{name}_gain", LearnedScale, shape, start, 1.0)(up_projection(scope, name, x))
        for name in ("gate", "up")
    )
    activation = component("activation", spec.activation)
    gate = scope.layer("activation", keras.layers.Activation, activation)(gate)
    return scope.layer("gated", keras.layers.Multiply)([gate, up])


@register_component("feedforward", "glu")
def glu(scope: LayerScope, x: Tensor) -> Tensor:
    """activation(gate(x)) * up(x), element by element (Shazeer 2020, section 2)."""
    gate = up_projection(scope, "gate", x, scope.spec.activation)
    return scope.layer("gated", keras.layers.Multiply)([gate, up_projection(scope, "up", x)])


@register_component("feedforward", "clamped_glu")
def clamped_glu(scope: LayerScope, x: Tensor) -> Tensor:
    """activation(min(gate(x), c)) * (clip(up(x), -c, c) + 1) (gpt-oss, the authors' code)."""
    spec = scope.spec
    gate, up = up_projection(scope, "gate", x), up_projection(scope, "up", x)
    activation = component("activation", spec.activation)
    return scope.layer("gated", ClampedGate, activation, spec.glu_limit)(gate, up)


@keras.saving.register_keras_serializable(package="builders")
class ClampedGate(SameShape):
    """activation(min(gate, c)) * (clip(up, -c, c) + 1): gate and up (..., f) -> (..., f).

    Args:
        activation: a Keras activation.
        limit: c.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "...,...->...", "products": []}

    def __init__(self, activation: Any, limit: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)
        self.limit = limit

    def call(self, gate: Tensor, up: Tensor) -> Tensor:
        up = ops.clip(up, -self.limit, self.limit)
        return self.activation(ops.minimum(gate, self.limit)) * (up + 1)

    def get_config(self) -> dict[str, Any]:
        own = {"activation": keras.activations.serialize(self.activation), "limit": self.limit}
        return {**super().get_config(), **own}


def up_projection(scope: LayerScope, name: str, x: Tensor, activation: str | None = None) -> Tensor:
    """Wire a projection (b, t, d) -> (b, t, f), with an activation if one is named."""
    spec = scope.spec
    return projection(scope, name, x, spec.hidden_dim, spec.intermediate_dim, activation)


def projection(
    scope: LayerScope,
    name: str,
    x: Tensor,
    fan_in: int,
    fan_out: int,
    activation: str | None = None,
) -> Tensor:
    """Wire a projection of tokens, or of the rows of experts by the kernels of these."""
    spec = scope.spec
    axis = 1 if name == "down" else 0  # of d channels
    options: dict[str, Any] = {
        "activation": activation and component("activation", activation),
        "use_bias": spec.feedforward_bias,
        **kernel_options(scope, name, fan_in=fan_in, fan_out=fan_out, unit_axis=axis),
    }
    if scope.rows_per_expert is None:
        return scope.layer(name, keras.layers.Dense, fan_out, **options)(x)
    layer = scope.layer(name, ExpertDense, spec.num_experts, fan_out, **options)
    return layer(x, scope.rows_per_expert)
