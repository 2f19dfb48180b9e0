"""The feed-forward sublayer, and the activations that a spec can name.

One registered function for each value of the spec's `feedforward`. Each takes `(scope, spec, x)`,
x being (b, t, d), and returns what is projected back to d, (b, t, f).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from builders.initializers import initializer
from builders.registry import component, register_component
from builders.scope import LayerScope
from builders.spec import TransformerSpec

Tensor = Any


def feedforward(scope: LayerScope, spec: TransformerSpec, x: Tensor, sublayers: int) -> Tensor:
    """Wire the feed-forward sublayer: (b, t, d) -> (b, t, f) -> (b, t, d)."""
    d, f = spec.hidden_dim, spec.intermediate_dim
    x = component("feedforward", spec.feedforward)(scope, spec, x)
    x = dropout(scope, spec.activation_dropout, x, "activation_dropout")
    x = scope.layer(
        "down",
        keras.layers.Dense,
        d,
        use_bias=spec.feedforward_bias,
        kernel_initializer=initializer(spec, "down", fan_in=f, fan_out=d, sublayers=sublayers),
    )(x)
    return dropout(scope, spec.feedforward_dropout, x)


@register_component("feedforward", "mlp")
def mlp(scope: LayerScope, spec: TransformerSpec, x: Tensor) -> Tensor:
    """activation(up(x)) ("Attention Is All You Need", section 3.3)."""
    return up_projection(scope, spec, "up", x, spec.activation)


@register_component("feedforward", "glu")
def glu(scope: LayerScope, spec: TransformerSpec, x: Tensor) -> Tensor:
    """activation(gate(x)) * up(x), element by element (Shazeer 2020, section 2)."""
    gate = up_projection(scope, spec, "gate", x, spec.activation)
    return scope.layer("gated", keras.layers.Multiply)([gate, up_projection(scope, spec, "up", x)])


def up_projection(
    scope: LayerScope, spec: TransformerSpec, name: str, x: Tensor, activation: str | None = None
) -> Tensor:
    """Wire a projection (b, t, d) -> (b, t, f), with an activation where one is named."""
    d, f = spec.hidden_dim, spec.intermediate_dim
    return scope.layer(
        name,
        keras.layers.Dense,
        f,
        activation=activation and component("activation", activation),
        use_bias=spec.feedforward_bias,
        kernel_initializer=initializer(spec, name, fan_in=d, fan_out=f),
    )(x)


def dropout(scope: LayerScope, rate: float, x: Tensor, name: str = "dropout") -> Tensor:
    """Wire a dropout layer, or nothing where the rate is zero."""
    return scope.layer(name, keras.layers.Dropout, rate)(x) if rate else x


def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2 (So et al. 2021, "Primer", section 3)."""
    return ops.square(ops.relu(x))


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU (Hendrycks and Gimpel 2016, section 2), as in GPT-2."""
    return ops.gelu(x, approximate=True)


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution function of x (Hendrycks and Gimpel 2016, section 2)."""
    return ops.gelu(x, approximate=False)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": keras.activations.relu,
    "silu": keras.activations.silu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu_squared": relu_squared,
}
for _name, _function in _ACTIVATIONS.items():
    if _function.__module__ == __name__:
        keras.saving.register_keras_serializable(package="builders")(_function)
    register_component("activation", _name)(_function)
