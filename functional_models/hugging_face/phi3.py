"""Phi-3 and Phi-4, whose rotary positions may have other frequencies in long sequences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face.family import Family, Place
from functional_models.hugging_face.llama import DEFAULTS, SHARED, SIZES, THEIRS, heads, layers
from functional_models.hugging_face.rules import (
    DECODER_PADDING,
    activation,
    agreed,
    head_width,
    rope_settings,
    rope_type,
)

_SHARE = "partial_rotary_factor"
_LENGTH, _ORIGINAL = "max_position_embeddings", "original_max_position_embeddings"
_TYPES = {"default": "none", "longrope": "longrope", "su": "longrope"}
"""Type in Hugging Face -> `rotary_scaling`."""


def _read_rotary(config: Config) -> dict[str, Any]:
    name, given = rope_settings(config)
    kind = rope_type(name, given)
    if kind not in _TYPES:
        raise ValueError(
            f"{name} has rope_type={kind!r}: no scaling of phi3; allowed: {', '.join(_TYPES)}"
        )
    share = agreed(config, given, (_SHARE,), 1.0)
    fields: dict[str, Any] = {
        "rotary_base": agreed(config, given, ("rope_theta",), 10_000.0),
        "rotary_scaling": _TYPES[kind],
    }
    if share != 1:
        fields["rotary_dim"] = int(head_width(config) * share)
    original = given.pop(_ORIGINAL, config[_ORIGINAL])
    if _TYPES[kind] == "longrope":
        if original != config[_ORIGINAL]:
            raise ValueError(
                f"{_ORIGINAL}={config[_ORIGINAL]!r} and, in {name}, {original!r}: must be the same"
            )
        fields |= _longrope_fields(config, name, given)
    for key in given:
        raise ValueError(
            f"{name} has {key}={given[key]!r}, of unknown meaning for rope_type={kind!r}; remove "
            "it, if it says nothing about the outputs"
        )
    return fields


def _longrope_fields(config: Config, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Remove the settings of longrope and return the fields of a spec."""
    length, original = config[_LENGTH], config[_ORIGINAL]
    factor = max(1.0, length / original)
    expected = {
        "factor": length / original,
        "attention_factor": math.sqrt(1 + math.log(factor) / math.log(original)),
    }
    for key, value in expected.items():
        found = given.pop(key, None)
        if found is not None and not math.isclose(found, value, rel_tol=1e-6):
            raise ValueError(
                f"{name} has {key}={found!r}: must be {value:.6g}, which follows from {_LENGTH}="
                f"{length} and {_ORIGINAL}={original}, or absent"
            )
    for key in ("short_factor", "long_factor"):
        if key not in given:
            raise ValueError(f"{name} has no {key}, which rope_type='longrope' needs")
    return {
        "rotary_factor": factor,
        "rotary_original_length": original,
        "rotary_short_factors": given.pop("short_factor"),
        "rotary_long_factors": given.pop("long_factor"),
    }


def _write_rotary(spec: TransformerSpec) -> dict[str, Any]:
    keys: dict[str, Any] = {"rope_theta": spec.rotary_base, "rope_scaling": None}
    if spec.rotary_dim != spec.head_dim:
        keys[_SHARE] = spec.rotary_dim / spec.head_dim
    if spec.rotary_scaling == "longrope":
        factors = spec.rotary_short_factors, spec.rotary_long_factors
        short, long = (list(each or ()) for each in factors)
        # Transformers 4 allows these three keys only.
        keys["rope_scaling"] = {"type": "longrope", "short_factor": short, "long_factor": long}
        keys[_ORIGINAL] = spec.rotary_original_length
    return keys


_ROTARY = Rule(
    (_ORIGINAL,),
    _read_rotary,
    _write_rotary,
    optional=("rope_theta", _SHARE, "rope_scaling", "rope_parameters"),
)

# Tensors ----------------------------------------------------------------------------------------


def row_parts(*names: str) -> Any:
    """Return the function that returns the last named of parts of the rows, of their sizes."""

    def part(array: np.ndarray, spec: TransformerSpec) -> np.ndarray:
        query, key = (n * spec.head_dim for n in (spec.num_heads, spec.num_key_value_heads))
        sizes = {"query": query, "key": key, "value": key}
        sizes |= {"gate": spec.intermediate_dim, "up": spec.intermediate_dim}
        first = sum(sizes[name] for name in names[:-1])
        if names[-1] in ("value", "up") and len(array) != first + sizes[names[-1]]:
            raise ValueError("another number of rows")
        return array[first : first + sizes[names[-1]]]

    return part


def _fused(name: str, *parts: str) -> Place:
    return Place(f"{THEIRS}.{name}.weight", f"{THEIRS}.{name}.bias", row_parts(*parts))


_LAYERS = layers(
    {
        "self_attention.query": _fused("self_attn.qkv_proj", "query"),
        "self_attention.key": _fused("self_attn.qkv_proj", "query", "key"),
        "self_attention.value": _fused("self_attn.qkv_proj", "query", "key", "value"),
        "feedforward.gate": _fused("mlp.gate_up_proj", "gate"),
        "feedforward.up": _fused("mlp.gate_up_proj", "gate", "up"),
    }
)

FAMILIES: tuple[Family, ...] = (
    Family(
        model_types=("phi3",),
        heads=heads("Phi3"),
        constants=forms.LLAMA,
        fields={
            **SIZES,
            "sliding_window": "attention_window",
            "resid_pdrop": "dropout",
            "embd_pdrop": "embedding_dropout",
        },
        rules=(activation("hidden_act"), _ROTARY, DECODER_PADDING),
        defaults={
            **DEFAULTS,
            "num_key_value_heads": None,
            "rms_norm_eps": 1e-5,
            "sliding_window": None,
            "original_max_position_embeddings": 4096,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "pad_token_id": 32000,
            "eos_token_id": 32000,
        },
        required={"attention_bias": (False,)},
        layers=_LAYERS,
        **SHARED,
    ),
)
