"""Which family a backbone is of, and which one computes what a spec says."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import builders
from builders.errors import unknown_name
from functional_models.conversion.families import FAMILIES
from functional_models.conversion.family import Family

# What every Keras model has, and no number depends on.
_ANY_CONFIG = ("name", "trainable", "dtype")
# How a model is trained, and which of its inputs are allowed: no number of a text depends on them.
_NOT_COMPARED = (
    "dropout",
    "feedforward_dropout",
    "attention_dropout",
    "embedding_dropout",
    "activation_dropout",
    "final_dropout",
    "initializer",
    "initializer_range",
    "max_sequence_length",
    "pad_token_id",
    "mask_target_padding",
)
_BY_LENGTH = ("rotary_original_length", "rotary_low_freq_factor", "rotary_high_freq_factor")


def family_of(backbone: Any) -> tuple[Family, dict[str, Any]]:
    """Return the family of a backbone and its configuration."""
    name = type(backbone).__name__
    candidates = [family for family in FAMILIES if family.backbone == name]
    if not candidates:
        known = ", ".join(dict.fromkeys(family.backbone for family in FAMILIES))
        raise ValueError(f"{name} is not among the backbones that a spec can describe: {known}")
    config = backbone.get_config()
    for entry in candidates[0].entries - set(config):
        # Llama's configuration leaves out whether logits are tied.
        if not hasattr(backbone, entry):
            raise ValueError(f"this {name} has no {entry}; install a newer keras-nlp")
        config[entry] = getattr(backbone, entry)
    for family in candidates:
        if all(config[entry] == value for entry, value in family.where.items()):
            if new := set(config) - family.entries - set(_ANY_CONFIG):
                raise ValueError(
                    f"{name} has settings that are not known here: {', '.join(sorted(new))}; "
                    "nothing of a model is dropped in silence: install an older keras-nlp"
                )
            return family, config
    nearest = candidates[0].where.items()
    given = ", ".join(f"{entry}={config[entry]!r}" for entry, x in nearest if config[entry] != x)
    allowed = " or ".join(
        "(" + ", ".join(f"{entry}={value!r}" for entry, value in family.where.items()) + ")"
        for family in candidates
    )
    raise ValueError(f"{name} with {given} is not what a spec can say; it can say {allowed}")


def warn_of_ignored(
    family: Family, config: Mapping[str, Any], changes: Mapping[str, Any]
) -> list[str]:
    """Return the spec fields for settings that keras-nlp has and does not apply."""
    fields: list[str] = []
    for entry, (value, names) in family.ignored.items():
        fields += names
        if config[entry] != value and not set(names) & set(changes):
            warnings.warn(
                f"{family.backbone} has {entry}={config[entry]!r}, and keras-nlp computes as with "
                f"{value!r}; so does the model here. To follow the setting, give "
                f"from_keras_hub the spec fields {', '.join(names)}",
                stacklevel=3,
            )
    return fields


def family_that_computes(spec: builders.TransformerSpec, backbone: str | None) -> Family:
    """Return the first family, of all or of a class of backbones, that computes a spec.

    Raises:
        ValueError: there is none.
    """
    known = dict.fromkeys(family.backbone for family in FAMILIES)
    if backbone is not None and backbone not in known:
        raise ValueError(unknown_name("backbone", backbone, known))
    nearest: tuple[str, dict[str, tuple[Any, Any]]] | None = None
    for family in FAMILIES:
        if family.same["kind"] != spec.kind or backbone not in (None, family.backbone):
            continue
        try:
            theirs = family.spec({**family.config(spec), **family.where})
        except ValueError:
            continue
        different = _differences(spec, theirs)
        if not different:
            return family
        if nearest is None or len(different) < len(nearest[1]):
            nearest = family.backbone, different
    advice = ""
    if nearest is not None:
        what = ", ".join(
            f"{name}={ours!r} (there {theirs!r})" for name, (ours, theirs) in nearest[1].items()
        )
        advice = f"; the nearest, {nearest[0]}, differs in {what}"
    which = "no backbone of keras-nlp" if backbone is None else f"no {backbone}"
    raise ValueError(f"{which} computes what this spec says{advice}")


def _differences(
    ours: builders.TransformerSpec, theirs: builders.TransformerSpec
) -> dict[str, tuple[Any, Any]]:
    """Return the fields by which two specs compute something else, with both values."""
    found = {}
    for field in dataclasses.fields(ours):
        name = field.name
        pair = getattr(ours, name), getattr(theirs, name)
        if pair[0] != pair[1] and _matters(ours, name):
            found[name] = pair
    return found


def _matters(spec: builders.TransformerSpec, name: str) -> bool:
    """Return whether a number depends on a field, the others of the spec being what they are."""
    if name in _NOT_COMPARED:
        return False
    if name.startswith(("rotary_", "relative_")):
        if not name.startswith(spec.positions):
            return False
        return name not in _BY_LENGTH or spec.rotary_scaling not in ("none", "linear")
    if name in ("source_vocabulary_size", "num_encoder_layers"):
        return spec.kind == "encoder_decoder"
    if spec.kind == "encoder_only" and name in ("tie_embeddings", "logit_bias", "scale_logits"):
        return spec.masked_lm_head
    return True
