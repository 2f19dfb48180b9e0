"""Checks of the fields of the residual stream: merges, and blocks that differ or share weights."""

from __future__ import annotations

from dataclasses import fields

from builders.errors import require as _require
from builders.errors import unknown_name
from builders.fields import rule_of
from builders.position_checks import ADDED_POSITIONS
from builders.residual_fields import HYPER_CONNECTIONS, LEARNED_FACTORS
from builders.spec_fields import SpecFields

_UNSCALED = ("add", "none", "highway", *HYPER_CONNECTIONS)
_ONE_STREAM = ("add", "none", "scaled", *LEARNED_FACTORS, "highway")
"""Merges that ship and have one stream."""
_WITHOUT_FACTOR = {"skip_scale": (*_UNSCALED, *LEARNED_FACTORS), "branch_scale": _UNSCALED}
"""Factors of the residual stream, and the merges that have none."""


def check_merge(spec: SpecFields) -> None:
    """Check that the factors of the residual stream are ones that its merge and norms have."""
    for name, merges in _WITHOUT_FACTOR.items():
        _require(
            spec,
            name,
            getattr(spec, name) == 1 or spec.merge not in merges,
            f"1 where merge={spec.merge!r}, which has no such factor",
            "use merge='scaled'",
        )
    _require(
        spec,
        "branch_scale",
        spec.branch_scale != 0 or spec.merge != "spherical",
        "above 0 where merge='spherical', whose trained numbers are multiples of it",
        "leave it out",
    )
    if spec.merge in HYPER_CONNECTIONS:
        _require(
            spec,
            "norm_placement",
            spec.norm_placement != "post",
            f"other than 'post' where merge={spec.merge!r}, whose streams have no norm between "
            "sublayers",
            "use norm_placement='pre'",
        )
    _require(
        spec,
        "num_streams",
        spec.num_streams == 1 or spec.merge not in _ONE_STREAM,
        f"1 where merge={spec.merge!r}, which has one stream",
        "use merge='hyper_connections'",
    )
    _require(
        spec,
        "stochastic_depth",
        spec.stochastic_depth == 0 or spec.merge != "none",
        "0 where merge='none', since nothing is left of a stream without its branch",
        "use merge='add'",
    )
    _require(
        spec,
        "norm_scale",
        spec.norm_scale == 1 or spec.norm_placement not in ("post", "output", "none"),
        f"1 where norm_placement={spec.norm_placement!r}, which has no norm before a sublayer",
        "use norm_placement='pre'",
    )


def check_block_overrides(spec: SpecFields) -> None:
    """Check that overrides are of fields that can differ between blocks, for blocks that exist."""
    pattern = spec.block_overrides
    blocks = spec.num_layers
    if spec.kind == "encoder_decoder":
        blocks = max(blocks, spec.num_encoder_layers)
    _require(
        spec,
        "block_overrides",
        len(pattern) <= blocks,
        f"a pattern of at most {blocks} blocks, as many as the model has",
        "shorten it, or change num_layers",
    )
    by_name = {field.name: rule_of(field) for field in fields(spec)}
    varying = [name for name, rule in by_name.items() if rule.by_block]
    for name in dict.fromkeys(name for overrides in pattern for name in overrides):
        if name not in by_name:
            raise ValueError(f"block_overrides: {unknown_name('spec field', name, varying)}")
        _require(
            spec,
            "block_overrides",
            name in varying,
            f"changes of fields that can differ between blocks, unlike {name}; these can: "
            f"{', '.join(varying)}",
            f"set {name} for the whole model",
        )
    schemes = {spec.positions, *(overrides.get("positions", "") for overrides in pattern)} - {""}
    _require(
        spec,
        "block_overrides",
        len(schemes) == 1 or schemes.isdisjoint(ADDED_POSITIONS),
        f"without other positions than {spec.positions!r} where one of them is added to the "
        "stream, which all blocks share",
        "use positions='rotary', 'alibi', 'relative' or 'none'",
    )


def check_distinct_blocks(spec: SpecFields) -> None:
    """Check that blocks with the same weights are the same block."""
    distinct = spec.distinct_blocks
    if distinct is None:
        return
    blocks = spec.num_layers
    if spec.kind == "encoder_decoder":
        blocks = max(blocks, spec.num_encoder_layers)
    _require(
        spec,
        "distinct_blocks",
        distinct <= blocks,
        f"at most {blocks}, the blocks of the model",
        "leave it out",
    )
    pattern = len(spec.block_overrides) or 1
    _require(
        spec,
        "distinct_blocks",
        distinct % pattern == 0,
        f"a multiple of {pattern}, the blocks of the pattern of block_overrides, since blocks with "
        "the same weights are equal",
        "change one of the two",
    )
    _require(
        spec,
        "branch_scale",
        not isinstance(spec.branch_scale, str) or spec.merge not in LEARNED_FACTORS,
        f"a number where merge={spec.merge!r} and distinct_blocks={distinct}, since blocks with "
        "the same weights share the trained factor",
        "give the number that it starts at",
    )


def check_value_residual(spec: SpecFields) -> None:
    """Check that the values of all blocks have one shape, so that they can be mixed."""
    name = "num_key_value_heads"
    given = {overrides.get(name, spec.num_key_value_heads) for overrides in spec.block_overrides}
    heads = {spec.num_heads if number is None else number for number in given}
    _require(
        spec,
        "value_residual",
        not spec.value_residual or len(heads) < 2,
        f"False where block_overrides change {name}, since values of other heads cannot be mixed",
        f"give all blocks the same {name}",
    )
