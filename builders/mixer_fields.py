"""The fields of a `TransformerSpec` on what mixes positions in the place of attention."""

from __future__ import annotations

from dataclasses import dataclass

from builders.fields import component_name, positive_int


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Mixers:
    """Mixers of positions."""

    mixer: str = component_name(
        "what mixes the positions of a decoder-only model: `attention`, or `gated_delta`, a Gated "
        "DeltaNet (Yang et al. 2024; Qwen3-Next), which keeps a memory of fixed size in the place "
        "of keys and values. The fields on attention say nothing about it.",
        ("attention", "gated_delta"),
        default="attention",
        by_block=True,
    )
    delta_key_heads: int = positive_int(
        "heads of queries and keys of `gated_delta`; `None`: `num_heads`.",
        derive=lambda spec: spec.num_heads,
    )
    delta_value_heads: int = positive_int(
        "heads of its values, each with a memory; `None`: `delta_key_heads`.",
        derive=lambda spec: spec.delta_key_heads,
    )
    delta_key_dim: int = positive_int(
        "width of its queries and keys; `None`: `head_dim`.", derive=lambda spec: spec.head_dim
    )
    delta_value_dim: int = positive_int(
        "width of its values; `None`: `delta_key_dim`.", derive=lambda spec: spec.delta_key_dim
    )
    delta_convolution: int = positive_int(
        "tokens that the convolution of queries, keys and values sees.", default=4
    )
