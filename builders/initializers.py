"""How weights start: one registered function for each value of the spec's `initializer`.

Each takes the spec, the widths that a kernel reads and writes, and the number of sublayers on the
residual stream when the kernel ends one of them (else 1); each returns a new Keras initialiser.
Widths are given, not read off the kernel: Keras would take the shape (d, n, h) of an attention
kernel for that of a convolution, and start it too small.
"""

from __future__ import annotations

import math

import keras

from builders.registry import component, register_component
from builders.spec import TransformerSpec


def initializer(
    spec: TransformerSpec, *, fan_in: int, fan_out: int, sublayers: int = 1
) -> keras.Initializer:
    """Return the initialiser that the spec names for a kernel from `fan_in` to `fan_out`."""
    return component("initializer", spec.initializer)(spec, fan_in, fan_out, sublayers)


def embedding_initializer(spec: TransformerSpec) -> keras.Initializer:
    """Return the initialiser of an embedding: with `glorot_uniform`, rows of about unit length."""
    return initializer(spec, fan_in=spec.hidden_dim, fan_out=spec.hidden_dim)


@register_component("initializer", "glorot_uniform")
def glorot_uniform(
    spec: TransformerSpec, fan_in: int, fan_out: int, sublayers: int
) -> keras.Initializer:
    """Uniform within sqrt(6 / (fan_in + fan_out)) of zero (Glorot and Bengio 2010, eq. 16)."""
    limit = math.sqrt(6 / (fan_in + fan_out))
    return keras.initializers.RandomUniform(-limit, limit)


@register_component("initializer", "normal")
def normal(spec: TransformerSpec, fan_in: int, fan_out: int, sublayers: int) -> keras.Initializer:
    """Normal with one standard deviation for all (BERT and GPT use 0.02)."""
    return keras.initializers.RandomNormal(stddev=spec.initializer_range)


@register_component("initializer", "depth_scaled")
def depth_scaled(
    spec: TransformerSpec, fan_in: int, fan_out: int, sublayers: int
) -> keras.Initializer:
    """Normal, smaller by sqrt(N) where one of N sublayers ends (GPT-2, section 2.3)."""
    return keras.initializers.RandomNormal(stddev=spec.initializer_range / math.sqrt(sublayers))
