"""The feed-forward sublayer.

One registered function for each value of the spec's `feedforward`. Each takes `(scope, x)`, x being
(b, t, d), and returns the hidden layer, (b, t, f).
"""

from __future__ import annotations

from typing import Any

import keras

from builders.components import component, register_component
from builders.elementwise import dropout
from builders.initializers import initializer
from builders.scope import LayerScope

Tensor = Any


def feedforward(scope: LayerScope, x: Tensor) -> Tensor:
    """Wire the feed-forward sublayer: (b, t, d) -> (b, t, f) -> (b, t, d)."""
    spec = scope.spec
    x = component("feedforward", spec.feedforward)(scope, x)
    x = dropout(scope, spec.activation_dropout, x, "activation_dropout")
    x = scope.layer(
        "down",
        keras.layers.Dense,
        spec.hidden_dim,
        use_bias=spec.feedforward_bias,
        kernel_initializer=initializer(
            scope, "down", fan_in=spec.intermediate_dim, fan_out=spec.hidden_dim
        ),
    )(x)
    return dropout(scope, spec.feedforward_dropout, x)


@register_component("feedforward", "mlp")
def mlp(scope: LayerScope, x: Tensor) -> Tensor:
    """activation(up(x)) ("Attention Is All You Need", section 3.3)."""
    return up_projection(scope, "up", x, scope.spec.activation)


@register_component("feedforward", "glu")
def glu(scope: LayerScope, x: Tensor) -> Tensor:
    """activation(gate(x)) * up(x), element by element (Shazeer 2020, section 2)."""
    gate = up_projection(scope, "gate", x, scope.spec.activation)
    return scope.layer("gated", keras.layers.Multiply)([gate, up_projection(scope, "up", x)])


def up_projection(scope: LayerScope, name: str, x: Tensor, activation: str | None = None) -> Tensor:
    """Wire a projection (b, t, d) -> (b, t, f), with an activation if one is named."""
    spec = scope.spec
    return scope.layer(
        name,
        keras.layers.Dense,
        spec.intermediate_dim,
        activation=activation and component("activation", activation),
        use_bias=spec.feedforward_bias,
        kernel_initializer=initializer(
            scope, name, fan_in=spec.hidden_dim, fan_out=spec.intermediate_dim
        ),
    )(x)
