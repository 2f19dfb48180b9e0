"""Weight initializers: one registered function for each value of the spec's `initializer`.

Each takes the spec and a `Kernel`, and returns a new Keras initializer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import keras

from builders.components import component, register_component
from builders.depth import deep_norm_gain
from builders.scope import LayerScope
from builders.spec import TransformerSpec


@dataclass(frozen=True)
class Kernel:
    """The properties of a kernel that an initializer depends on.

    Widths are given explicitly: from the shape (d, n, h) of an attention kernel, Keras would derive
    the fans of a convolution, and its initial values would be too small.

    Attributes:
        role: the last part of the layer's name: `query`, `up`, `token_embedding`, ...
        fan_in: input width; of an embedding, the width of its rows.
        fan_out: output width.
        sublayers: the number of sublayers on the residual stream of the kernel's stack.
        stack: the stack, `encoder` or `decoder`; "" outside of one.
    """

    role: str
    fan_in: int
    fan_out: int
    sublayers: int = 1
    stack: str = ""

    @property
    def ends_sublayer(self) -> bool:
        """Whether its output is merged with the residual stream."""
        return self.role in ("output", "down")


def initializer(scope: LayerScope, role: str, *, fan_in: int, fan_out: int) -> keras.Initializer:
    """Return the initializer that the spec names for a kernel from `fan_in` to `fan_out`."""
    spec = scope.spec
    stack = scope.path[0] if scope.path and scope.path[0] in spec.stacks else ""
    sublayers = spec.num_sublayers(stack) if stack else 1
    kernel = Kernel(role, fan_in, fan_out, sublayers, stack)
    return component("initializer", spec.initializer)(spec, kernel)


def embedding_initializer(scope: LayerScope, role: str) -> keras.Initializer:
    """Return the initializer of an embedding: with `glorot_uniform`, rows of about unit length."""
    d = scope.spec.hidden_dim
    return initializer(scope, role, fan_in=d, fan_out=d)


def kernel_options(
    scope: LayerScope, role: str, *, fan_in: int, fan_out: int, unit_axis: int
) -> dict[str, Any]:
    """Return the initializer and the constraint of a kernel, as arguments of a Keras layer.

    Args:
        scope: of the layer.
        role: the last part of the layer's name.
        fan_in: input width.
        fan_out: output width.
        unit_axis: the axis of d channels, whose vectors `kernel_constraint` keeps at unit length.
    """
    start = initializer(scope, role, fan_in=fan_in, fan_out=fan_out)
    return constrained(scope, start, unit_axis, "kernel")


def constrained(
    scope: LayerScope, start: keras.Initializer, unit_axis: int, weight: str
) -> dict[str, Any]:
    """Return an initializer and the constraint of a weight, as arguments of a Keras layer."""
    if scope.spec.kernel_constraint == "none":
        return {f"{weight}_initializer": start}
    constraint = keras.constraints.UnitNorm(axis=unit_axis)
    return {
        f"{weight}_initializer": Constrained(start, constraint),
        f"{weight}_constraint": constraint,
    }


@keras.saving.register_keras_serializable(package="builders")
class Constrained(keras.Initializer):
    """Values of another initializer, changed as a constraint changes them after each step."""

    def __init__(self, initializer: Any, constraint: Any) -> None:
        self.initializer = keras.initializers.get(initializer)
        self.constraint = keras.constraints.get(constraint)

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        return self.constraint(self.initializer(shape, dtype))

    def get_config(self) -> dict[str, Any]:
        return {
            "initializer": keras.initializers.serialize(self.initializer),
            "constraint": keras.constraints.serialize(self.constraint),
        }


@register_component("initializer", "glorot_uniform")
def glorot_uniform(spec: TransformerSpec, kernel: Kernel) -> keras.Initializer:
    """Uniform within sqrt(6 / (fan_in + fan_out)) of zero (Glorot and Bengio 2010, eq. 16)."""
    limit = math.sqrt(6 / (kernel.fan_in + kernel.fan_out))
    return keras.initializers.RandomUniform(-limit, limit)


@register_component("initializer", "glorot_packed")
def glorot_packed(spec: TransformerSpec, kernel: Kernel) -> keras.Initializer:
    """As `glorot_uniform`, with query, key and value of one attention as one kernel.

    They begin smaller by sqrt(2) then, with as many heads for all of them. So do those of
    `torch.nn.MultiheadAttention` and of fairseq (Ott et al. 2019).
    """
    if kernel.role in ("query", "key", "value"):
        keys = spec.num_key_value_heads * (spec.head_dim + spec.value_dim)
        kernel = replace(kernel, fan_out=spec.num_heads * spec.head_dim + keys)
    return glorot_uniform(spec, kernel)


@register_component("initializer", "normal")
def normal(spec: TransformerSpec, kernel: Kernel) -> keras.Initializer:
    """Normal with one standard deviation for all kernels (BERT and GPT use 0.02)."""
    return keras.initializers.RandomNormal(stddev=spec.initializer_range)


@register_component("initializer", "depth_scaled")
def depth_scaled(spec: TransformerSpec, kernel: Kernel) -> keras.Initializer:
    """Normal, divided by sqrt(N) where one of N sublayers ends (GPT-2, section 2.3)."""
    sublayers = kernel.sublayers if kernel.ends_sublayer else 1
    return keras.initializers.RandomNormal(stddev=spec.initializer_range / sublayers**0.5)


@register_component("initializer", "deep_norm")
def deep_norm(spec: TransformerSpec, kernel: Kernel) -> keras.Initializer:
    """Glorot normal, times beta where values and the feed-forward layer are (Wang et al. 2022)."""
    deviation = math.sqrt(2 / (kernel.fan_in + kernel.fan_out))
    if kernel.stack and kernel.role in ("value", "output", "up", "gate", "down"):
        deviation *= deep_norm_gain(spec, kernel.stack)
    return keras.initializers.RandomNormal(stddev=deviation)


@register_component("initializer", "t5")
def t5(spec: TransformerSpec, kernel: Kernel) -> keras.Initializer:
    """Normal, 1 / sqrt(fan_in); 1 for tokens; queries by a further 1 / sqrt(h), as scores lack it.

    From the code that the paper was made with (Raffel et al. 2020; Mesh TensorFlow).
    """
    variance = 1 / kernel.fan_in
    if kernel.role == "token_embedding":
        variance = 1
    elif kernel.role in ("query", "rotary_query"):
        variance /= spec.head_dim
    return keras.initializers.RandomNormal(stddev=variance**0.5)
