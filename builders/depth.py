"""Factors by depth: one registered function for each name that a field of factors takes.

The fields are `skip_scale`, `branch_scale` and `norm_scale`, which also take a number. A function
takes the spec and the `Depth` of a block, and returns the factor.
"""

from __future__ import annotations

from dataclasses import dataclass

from builders.components import component, register_component
from builders.scope import LayerScope
from builders.spec import TransformerSpec


@dataclass(frozen=True)
class Depth:
    """The place of a block in a model.

    Attributes:
        stack: `encoder` or `decoder`.
        block: its index, from 0.
    """

    stack: str
    block: int


def depth_factor(scope: LayerScope, field: str) -> float:
    """Return the number that a field of factors stands for in the block of a scope."""
    value: float | str = getattr(scope.spec, field)
    if not isinstance(value, str):
        return value
    factor: float = component(field, value)(scope.spec, Depth(scope.path[0], scope.block_index))
    return factor


@register_component("skip_scale", "deep_norm")
def deep_norm(spec: TransformerSpec, depth: Depth) -> float:
    """alpha of DeepNorm: (2 L)^(1/4) in a model of L blocks (Wang et al. 2022, figure 2).

    In an encoder-decoder of N and M blocks, 0.81 (N^4 M)^(1/16) in the encoder, and (3 M)^(1/4) in
    the decoder.
    """
    encoder, decoder = spec.num_encoder_layers, spec.num_layers
    if spec.kind != "encoder_decoder":
        return (2 * decoder) ** 0.25
    if depth.stack == "encoder":
        return 0.81 * (encoder**4 * decoder) ** 0.0625
    return (3 * decoder) ** 0.25


def deep_norm_gain(spec: TransformerSpec, stack: str) -> float:
    """Return beta of DeepNorm: (8 L)^(-1/4) in a model of L blocks (the same figure).

    In an encoder-decoder, 0.87 (N^4 M)^(-1/16) in the encoder, and (12 M)^(-1/4) in the decoder.
    """
    encoder, decoder = spec.num_encoder_layers, spec.num_layers
    if spec.kind != "encoder_decoder":
        return (8 * decoder) ** -0.25
    if stack == "encoder":
        return 0.87 * (encoder**4 * decoder) ** -0.0625
    return (12 * decoder) ** -0.25


@register_component("branch_scale", "inverse_sqrt_layers")
def inverse_sqrt_layers(spec: TransformerSpec, depth: Depth) -> float:
    """1 / sqrt(L) in a stack of L blocks (Yang et al. 2023, Depth-muP)."""
    return spec.num_blocks(depth.stack) ** -0.5


@register_component("branch_scale", "inverse_sqrt_depth")
@register_component("norm_scale", "inverse_sqrt_depth")
def inverse_sqrt_depth(spec: TransformerSpec, depth: Depth) -> float:
    """1 / sqrt(l) in block l, counted from 1 (Sun et al. 2025, LayerNorm scaling)."""
    return (depth.block + 1) ** -0.5
