"""What a `TransformerSpec` may be: the refusals, each with the field, its value and what to do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from builders.registry import component_names, unknown_name

if TYPE_CHECKING:
    from builders.spec import TransformerSpec

KINDS = ("decoder_only", "encoder_decoder", "encoder_only")

_COMPONENT_FIELDS = (
    "norm_placement",
    "norm",
    "positions",
    "rotary_scaling",
    "feedforward",
    "activation",
    "attention",
    "initializer",
)
_POSITIVE_INTS = (
    "vocabulary_size",
    "source_vocabulary_size",
    "num_layers",
    "num_encoder_layers",
    "hidden_dim",
    "embedding_dim",
    "intermediate_dim",
    "max_sequence_length",
    "num_heads",
    "num_key_value_heads",
    "head_dim",
    "rotary_dim",
    "rotary_original_length",
    "relative_buckets",
    "relative_max_distance",
)
_OPTIONAL_INTS = {
    "attention_window": "to see all",
    "full_attention_every": "for the same window in all blocks",
}
_BOOLS = (
    "residual",
    "norm_bias",
    "norm_offset",
    "embedding_norm",
    "final_norm",
    "qk_norm",
    "feedforward_bias",
    "attention_bias",
    "attention_output_bias",
    "scale_embeddings",
    "tie_embeddings",
    "share_embeddings",
    "pooler",
    "masked_lm_head",
    "mask_target_padding",
    "logit_bias",
    "scale_logits",
)
_RATES = (
    "dropout",
    "attention_dropout",
    "embedding_dropout",
    "feedforward_dropout",
    "activation_dropout",
    "final_dropout",
)


def check_values(spec: TransformerSpec, derived: frozenset[str]) -> None:
    """Check every field for itself, but those that are still to be derived.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """
    if spec.kind not in KINDS:
        raise ValueError(unknown_name("kind", spec.kind, KINDS))
    for name in _COMPONENT_FIELDS:
        if getattr(spec, name) not in component_names(name):
            raise ValueError(unknown_name(name, getattr(spec, name), component_names(name)))
    for name in _POSITIVE_INTS:
        value = getattr(spec, name)
        if name not in derived and not (_is_int(value) and value > 0):
            refuse(name, value, "a positive int")
    if not (_is_int(spec.num_segments) and spec.num_segments >= 0):
        refuse("num_segments", spec.num_segments, "an int of at least 0")
    for name, purpose in _OPTIONAL_INTS.items():
        value = getattr(spec, name)
        if value is not None and not (_is_int(value) and value > 0):
            refuse(name, value, f"a positive int, or None {purpose}")
    for name in _BOOLS:
        value = getattr(spec, name)
        if name not in derived and not isinstance(value, bool):
            refuse(name, value, "True or False")
    for name in _RATES:
        value = getattr(spec, name)
        if name not in derived and not (_is_number(value) and 0 <= value < 1):
            refuse(name, value, "a probability in [0, 1)")
    for name in ("attention_scale", "attention_soft_cap", "logit_soft_cap"):
        value = getattr(spec, name)
        if value is not None and not (_is_number(value) and 0 < value < math.inf):
            refuse(name, value, "a positive number, or None")
    for name in (
        "rotary_base",
        "rotary_factor",
        "rotary_low_freq_factor",
        "rotary_high_freq_factor",
    ):
        value = getattr(spec, name)
        least = 1 if name in ("rotary_base", "rotary_factor") else 0
        if not (_is_number(value) and least <= value < math.inf):
            refuse(name, value, f"a number of at least {least}")
    for name in ("norm_epsilon", "initializer_range"):
        if not (_is_number(getattr(spec, name)) and 0 < getattr(spec, name) < 1):
            refuse(name, getattr(spec, name), "a number between 0 and 1")


def check_combinations(spec: TransformerSpec) -> None:
    """Check whether the fields of a spec, each allowed by itself, go together.

    Raises:
        ValueError: naming a field, its value and what is allowed beside the others.
    """
    smallest = spec.vocabulary_size
    if spec.kind == "encoder_decoder":
        smallest = min(smallest, spec.source_vocabulary_size)
    pad = spec.pad_token_id
    if pad is not None and not (_is_int(pad) and 0 <= pad < smallest):
        refuse("pad_token_id", pad, f"None or a token id in [0, {smallest}), of every vocabulary")
    if spec.kind == "encoder_only":
        _check_encoder(spec)
    else:
        for name in ("num_segments", "pooler", "masked_lm_head"):
            if getattr(spec, name):
                refuse(
                    name,
                    getattr(spec, name),
                    f"{type(getattr(spec, name))()} where kind={spec.kind!r}",
                    "it is of kind='encoder_only'",
                )
    if spec.num_heads % spec.num_key_value_heads:
        refuse(
            "num_key_value_heads",
            spec.num_key_value_heads,
            f"a divisor of num_heads={spec.num_heads}, whose heads share them in equal groups",
        )
    if spec.attention == "layer":
        _check_layer(spec)
    if spec.norm == "rms" and spec.norm_bias:
        refuse("norm_bias", True, "False where norm='rms', which has no bias", "leave it out")
    if spec.norm == "layer" and spec.norm_offset:
        refuse("norm_offset", True, "False where norm='layer'", "use norm='rms'")
    if spec.positions.startswith("sinusoidal") and spec.hidden_dim % 2:
        refuse(
            "hidden_dim",
            spec.hidden_dim,
            f"even where positions={spec.positions!r}, which are sines and cosines in pairs",
            "change the width, or the positions",
        )
    if spec.full_attention_every is not None and spec.attention_window is None:
        refuse(
            "full_attention_every",
            spec.full_attention_every,
            "None where attention_window=None, since then all blocks see all",
            "give the window of the others",
        )
    if spec.positions == "rotary":
        _check_rotary(spec)
    if spec.positions == "relative":
        _check_relative(spec)
    if not spec.share_embeddings:
        return
    if spec.kind != "encoder_decoder":
        refuse(
            "share_embeddings",
            True,
            f"False where kind={spec.kind!r}, which has one embedding",
            "tie_embeddings=True shares it with the logits",
        )
    if spec.source_vocabulary_size != spec.vocabulary_size:
        refuse(
            "source_vocabulary_size",
            spec.source_vocabulary_size,
            f"equal to vocabulary_size={spec.vocabulary_size} where share_embeddings=True",
            "leave it out",
        )


def _check_encoder(spec: TransformerSpec) -> None:
    if spec.num_encoder_layers != spec.num_layers:
        refuse(
            "num_encoder_layers",
            spec.num_encoder_layers,
            f"num_layers={spec.num_layers} where kind='encoder_only', which has one stack",
            "leave it out",
        )
    if spec.attention_window is not None:
        refuse(
            "attention_window",
            spec.attention_window,
            "None where kind='encoder_only', since windows are of decoders",
            "leave it out",
        )


def _check_rotary(spec: TransformerSpec) -> None:
    if spec.rotary_dim % 2 or spec.rotary_dim > spec.head_dim:
        refuse(
            "rotary_dim",
            spec.rotary_dim,
            f"even and at most head_dim={spec.head_dim}, since channels are turned in pairs",
            "give rotary_dim, or another head_dim",
        )
    if spec.rotary_scaling == "none" and spec.rotary_factor != 1:
        refuse(
            "rotary_factor",
            spec.rotary_factor,
            "1 where rotary_scaling='none'",
            "name the scaling: linear, llama3 or yarn",
        )
    if spec.rotary_high_freq_factor <= spec.rotary_low_freq_factor:
        refuse(
            "rotary_high_freq_factor",
            spec.rotary_high_freq_factor,
            f"above rotary_low_freq_factor={spec.rotary_low_freq_factor}",
            "raise the one, or lower the other",
        )
    if spec.rotary_scaling == "yarn":  # which goes by the logarithms of both
        for name, least in (("rotary_base", 1), ("rotary_low_freq_factor", 0)):
            value = getattr(spec, name)
            if value == least:
                refuse(
                    name,
                    value,
                    f"above {least} where rotary_scaling='yarn'",
                    "raise it, or use rotary_scaling='llama3'",
                )


def _check_relative(spec: TransformerSpec) -> None:
    # An encoder has half of the buckets for what lies ahead, and half of those are exact.
    least = 2 if spec.kind == "decoder_only" else 4
    if spec.relative_buckets % least:
        refuse(
            "relative_buckets",
            spec.relative_buckets,
            f"a multiple of {least} where kind={spec.kind!r}",
            "half are for one distance each, and an encoder has as many for either side",
        )
    if spec.relative_max_distance <= spec.relative_buckets // 2:
        refuse(
            "relative_max_distance",
            spec.relative_max_distance,
            f"above {spec.relative_buckets // 2}, the distances that have a bucket each",
            "give fewer relative_buckets, or a larger distance",
        )


def _check_layer(spec: TransformerSpec) -> None:
    """Refuse what the library's attention layer cannot do."""
    same = {
        "num_key_value_heads": spec.num_heads,
        "attention_output_bias": spec.attention_bias,
        "attention_scale": None,
        "attention_soft_cap": None,
        "qk_norm": False,
    }
    for name, allowed in same.items():
        if getattr(spec, name) != allowed:
            refuse(
                name,
                getattr(spec, name),
                f"{allowed} where attention='layer', which can do nothing else",
                "use attention='graph'",
            )
    if spec.positions in ("rotary", "alibi", "relative"):
        refuse(
            "positions",
            spec.positions,
            "added to the embeddings where attention='layer', which is closed to others",
            "use attention='graph'",
        )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def refuse(field: str, value: Any, allowed: str, advice: str = "") -> None:
    """Raise the `ValueError` that says what is allowed instead, and what to do."""
    raise ValueError(f"{field}={value!r}: must be {allowed}" + (f"; {advice}" if advice else ""))
