"""Rows of published models: one call registers every size of a family."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from builders.registry import register_variant
from builders.spec import TransformerSpec

LLAMA: dict[str, Any] = {
    "norm_placement": "pre",
    "norm": "rms",
    "positions": "rotary",
    "feedforward": "glu",
    "activation": "silu",
    "feedforward_bias": False,
    "attention_bias": False,
    "pad_token_id": None,
    "initializer": "normal",
}
"""The block of Llama, which many families share."""

Sizes = Mapping[str, tuple[str, Mapping[str, Any]]]


def register_family(
    common: Mapping[str, Any], sizes: Sizes, *, source: str, summary: str, kind: str
) -> None:
    """Register each size of a family.

    Args:
        common: fields of all sizes.
        sizes: the published parameter count and the fields of each size, by variant name.
        source: the paper, with section or table.
        summary: what distinguishes the family, for listings.
        kind: the kind of model.
    """
    for name, (parameters, fields) in sizes.items():
        register_variant(
            name=name, kinds=(kind,), source=source, parameters=parameters, summary=summary
        )(partial(TransformerSpec, kind=kind, **{**common, **fields}))


def size(layers: int, width: int, heads: int, **fields: Any) -> dict[str, Any]:
    """Return the fields of a size, from the columns in most papers' tables."""
    return {"num_layers": layers, "hidden_dim": width, "num_heads": heads, **fields}
