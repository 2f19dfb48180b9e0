"""How weights start: one registered function for each value of the spec's `initializer`.

Each takes the spec and a `Kernel`, and returns a new Keras initialiser.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras

from builders.registry import component, register_component
from builders.spec import TransformerSpec


@dataclass(frozen=True)
class Kernel:
    """What an initialiser may go by.

    Widths are given, not read off the kernel: Keras would take the shape (d, n, h) of an attention
    kernel for that of a convolution, and start it too small.

    Attributes:
        role: the last part of the layer's name: `query`, `up`, `token_embedding`, ...
        fan_in: the width that it reads; of an embedding, that of its rows.
        fan_out: the width that it writes.
        sublayers: how many sublayers are on the residual stream, where it ends one of them.
    """

    role: str
    fan_in: int
    fan_out: int
    sublayers: int = 1


def initializer(
    spec: TransformerSpec, role: str, *, fan_in: int, fan_out: int, sublayers: int = 1
) -> keras.Initializer:
    """Return the initialiser that the spec names for a kernel from `fan_in` to `fan_out`."""
    kernel = Kernel(role, fan_in, fan_out, sublayers)
    return component("initializer", spec.initializer)(spec, kernel)


def embedding_initializer(spec: TransformerSpec, role: str) -> keras.Initializer:
    """Return the initialiser of an embedding: with `glorot_uniform`, rows of about unit length."""
    return initializer(spec, role, fan_in=spec.hidden_dim, fan_out=spec.hidden_dim)


@register_component("initializer", "glorot_uniform")
def glorot_uniform(spec: TransformerSpec, kernel: Kernel) -> keras.Initializer:
    """Uniform within sqrt(6 / (fan_in + fan_out)) of zero (Glorot and Bengio 2010, eq. 16)."""
    limit = math.sqrt(6 / (kernel.fan_in + kernel.fan_out))
    return keras.initializers.RandomUniform(-limit, limit)


@register_component("initializer", "normal")
def normal(spec: TransformerSpec, kernel: Kernel) -> keras.Initializer:
    """Normal with one standard deviation for all (BERT and GPT use 0.02)."""
    return keras.initializers.RandomNormal(stddev=spec.initializer_range)


@register_component("initializer", "depth_scaled")
def depth_scaled(spec: TransformerSpec, kernel: Kernel) -> keras.Initializer:
    """Normal, smaller by sqrt(N) where one of N sublayers ends (GPT-2, section 2.3)."""
    return keras.initializers.RandomNormal(stddev=spec.initializer_range / kernel.sublayers**0.5)


@register_component("initializer", "t5")
def t5(spec: TransformerSpec, kernel: Kernel) -> keras.Initializer:
    """Normal, 1 / sqrt(fan_in); tokens 1, and queries smaller by the sqrt(h) that T5's scores lack.

    From the code that the paper was made with (Raffel et al. 2020; Mesh TensorFlow).
    """
    variance = 1 / kernel.fan_in
    if kernel.role == "token_embedding":
        variance = 1
    elif kernel.role == "query":
        variance /= spec.head_dim
    return keras.initializers.RandomNormal(stddev=variance**0.5)
