"""Checks of the spec fields on positions."""

from __future__ import annotations

from builders.errors import require as _require
from builders.residual_fields import HYPER_CONNECTIONS
from builders.spec_fields import SpecFields

_SINES = ("sinusoidal", "sinusoidal_concat", "coordinates")
ADDED_POSITIONS = ("learned", *_SINES)
"""Positions that are added to the embeddings, or to the stream before every block."""


def check_sines(spec: SpecFields) -> None:
    """Check the widths and the places of sines and cosines."""
    if spec.positions not in _SINES:
        return
    is_embedded = spec.positions != "coordinates"
    of_sum = spec.embedding_projection == "sum" and is_embedded
    width = "embedding_dim" if of_sum else "hidden_dim"
    _require(
        spec,
        width,
        getattr(spec, width) % 2 == 0,
        f"even where positions={spec.positions!r}, which are sines and cosines in pairs",
        "change the width, or the positions",
    )
    _require(
        spec,
        "positions",
        is_embedded or spec.merge not in HYPER_CONNECTIONS,
        f"another value where merge={spec.merge!r}, whose streams have no one place to add to",
        "use positions='sinusoidal'",
    )


def check_rotary(spec: SpecFields) -> None:
    """Check the channels that are rotated, and the scaling of their frequencies."""
    if spec.positions != "rotary":
        return
    _require(
        spec,
        "rotary_dim",
        spec.rotary_dim % 2 == 0 and spec.rotary_dim <= spec.head_dim,
        f"even and at most head_dim={spec.head_dim}, since channels are rotated in pairs",
        "give rotary_dim, or another head_dim",
    )
    if spec.rotary_scaling == "none":
        _require(
            spec,
            "rotary_factor",
            spec.rotary_factor == 1,
            "1 where rotary_scaling='none'",
            "name the scaling: linear, llama3, yarn or longrope",
        )
    if spec.rotary_scaling == "longrope":
        _check_longrope(spec)
    low, high = spec.rotary_low_freq_factor, spec.rotary_high_freq_factor
    is_step = high == low and spec.rotary_scaling == "llama3"
    _require(
        spec,
        "rotary_high_freq_factor",
        high > low or is_step,
        f"above rotary_low_freq_factor={low}",
        "raise the one, or lower the other",
    )
    if spec.rotary_scaling == "yarn":  # takes the logarithms of both
        for name, least in (("rotary_base", 1), ("rotary_low_freq_factor", 0)):
            _require(
                spec,
                name,
                getattr(spec, name) != least,
                f"above {least} where rotary_scaling='yarn'",
                "raise it, or use rotary_scaling='llama3'",
            )


def _check_longrope(spec: SpecFields) -> None:
    """Check that there are two factors for each pair, and that a cache tells which to use."""
    pairs = spec.rotary_dim // 2
    for name in ("rotary_short_factors", "rotary_long_factors"):
        given = getattr(spec, name)
        _require(
            spec,
            name,
            given is not None and len(given) == pairs,
            f"{pairs} numbers where rotary_scaling='longrope', one for each pair of "
            f"rotary_dim={spec.rotary_dim} channels",
            "take them from the configuration of the model",
        )
    original = spec.rotary_original_length
    _require(
        spec,
        "rotary_original_length",
        original > 1,
        "above 1 where rotary_scaling='longrope', which divides by its logarithm",
        "raise it, or use rotary_scaling='linear'",
    )
    for name in ("attention_window", "attention_chunk"):
        size = getattr(spec, name)
        _require(
            spec,
            name,
            size is None or size > original or spec.kind == "encoder_only",
            f"None or above rotary_original_length={original} where rotary_scaling='longrope', "
            "whose factors follow from the slots of the cache in decoding",
            "leave it out, or raise it",
        )


def check_relative(spec: SpecFields) -> None:
    """Check the buckets of distances."""
    if spec.positions != "relative":
        return
    # An encoder or a prefix uses half of the buckets for later keys (as does the authors' code,
    # mesh_tensorflow), and half of those are for one distance.
    is_causal = spec.kind == "decoder_only" and not spec.prefix_lm
    divisor = 2 if is_causal else 4
    _require(
        spec,
        "relative_buckets",
        spec.relative_buckets % divisor == 0,
        f"a multiple of {divisor} where kind={spec.kind!r}{' and prefix_lm=True' * spec.prefix_lm}",
        "half are for one distance each, and an encoder or a prefix has as many for either side",
    )
    _require(
        spec,
        "relative_max_distance",
        spec.relative_max_distance > spec.relative_buckets // 2,
        f"above {spec.relative_buckets // 2}, the distances that have a bucket each",
        "give fewer relative_buckets, or a larger distance",
    )
