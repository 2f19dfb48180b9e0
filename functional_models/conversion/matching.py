"""Find the family of a backbone, and the family that implements a spec."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any

import builders
from builders.errors import unknown_name
from builders.expert_fields import Experts
from builders.spec_fields import Regularization
from functional_models.conversion import bert, experts, gemma3, gpt, llama, smollm, t5
from functional_models.conversion.family import Family

FAMILIES = (
    *gpt.FAMILIES,
    *llama.FAMILIES,
    *gemma3.FAMILIES,
    *smollm.FAMILIES,
    *experts.FAMILIES,
    *bert.FAMILIES,
    *t5.FAMILIES,
)

# Entries of every Keras model, without influence on the outputs.
_ANY_CONFIG = ("name", "trainable", "dtype")
# Fields of training and of allowed inputs, without influence on the outputs at real tokens.
_NOT_COMPARED = {
    *Regularization.__annotations__,
    "balance_loss",
    "router_z_loss",
    "capacity_factor",
    "max_sequence_length",
    "pad_token_id",
    "mask_target_padding",
}
_OF_GROUPS = ("num_expert_groups", "num_active_groups", "group_score_experts")
_OF_SCALINGS = {
    "rotary_original_length": ("llama3", "yarn", "longrope"),
    "rotary_low_freq_factor": ("llama3", "yarn"),
    "rotary_high_freq_factor": ("llama3", "yarn"),
    "rotary_whole_pairs": ("yarn",),
    "rotary_short_factors": ("longrope",),
    "rotary_long_factors": ("longrope",),
}
"""Fields of rotary positions, and the scalings that ship and depend on them."""


def family_of(backbone: Any) -> tuple[Family, dict[str, Any]]:
    """Return the family of a backbone and the backbone's configuration."""
    name = type(backbone).__name__
    candidates = [family for family in FAMILIES if family.backbone == name]
    if not candidates:
        known = ", ".join(dict.fromkeys(family.backbone for family in FAMILIES))
        raise ValueError(f"{name} is not among the supported backbones: {known}")
    config = backbone.get_config()
    for entry in candidates[0].entries - set(config):
        # Llama's configuration omits whether logits are tied.
        if not hasattr(backbone, entry):
            raise ValueError(f"this {name} has no {entry}; install a newer KerasHub")
        config[entry] = getattr(backbone, entry)
    for family in candidates:
        if all(config[entry] == value for entry, value in family.required.items()):
            if new := set(config) - family.entries - set(_ANY_CONFIG):
                raise ValueError(
                    f"{name} has unknown settings: {', '.join(sorted(new))}; no setting is "
                    "silently ignored: install an older KerasHub"
                )
            return family, config
    nearest = candidates[0].required.items()
    given = ", ".join(f"{entry}={config[entry]!r}" for entry, x in nearest if config[entry] != x)
    allowed = " or ".join(
        "(" + ", ".join(f"{entry}={value!r}" for entry, value in family.required.items()) + ")"
        for family in candidates
    )
    raise ValueError(f"{name} with {given} is not supported by any spec; supported: {allowed}")


def warn_about_ignored(
    family: Family, config: Mapping[str, Any], changes: Mapping[str, Any]
) -> list[str]:
    """Warn about settings that KerasHub ignores; return the spec fields that implement them."""
    fields: list[str] = []
    for entry, (value, names) in family.ignored.items():
        fields += names
        if config[entry] != value and not set(names) & set(changes):
            warnings.warn(
                f"{family.backbone} has {entry}={config[entry]!r}, but KerasHub computes as with "
                f"{value!r}, and so does this model. To apply the setting, give from_keras_hub the "
                f"spec fields {', '.join(names)}",
                stacklevel=3,
            )
    return fields


def family_of_spec(spec: builders.TransformerSpec, backbone: str | None) -> Family:
    """Return the first family, of all or of a backbone class, that implements a spec.

    Raises:
        ValueError: no family does.
    """
    known = dict.fromkeys(family.backbone for family in FAMILIES)
    if backbone is not None and backbone not in known:
        raise ValueError(unknown_name("backbone", backbone, known))
    nearest: tuple[str, dict[str, tuple[Any, Any]]] | None = None
    for family in FAMILIES:
        if family.constants["kind"] != spec.kind or backbone not in (None, family.backbone):
            continue
        try:
            theirs = family.spec({**family.config(spec), **family.required})
        except ValueError:
            continue
        different = differences(spec, theirs)
        if not different:
            return family
        if nearest is None or len(different) < len(nearest[1]):
            nearest = family.backbone, different
    advice = ""
    if nearest is not None:
        shown = ", ".join(
            f"{name}={ours!r} (backbone: {theirs!r})" for name, (ours, theirs) in nearest[1].items()
        )
        advice = f"; the nearest, {nearest[0]}, differs in {shown}"
    which = "no KerasHub backbone" if backbone is None else f"no {backbone}"
    raise ValueError(f"{which} implements this spec{advice}")


def differences(
    ours: builders.TransformerSpec, theirs: builders.TransformerSpec
) -> dict[str, tuple[Any, Any]]:
    """Return the fields that make two specs compute different outputs, with both values.

    Blocks are compared one by one, since different `block_overrides` may describe the same blocks.
    """
    names = [field.name for field in dataclasses.fields(ours) if field.name != "block_overrides"]
    blocks = 1
    if ours.block_overrides or theirs.block_overrides:
        blocks = max(map(ours.num_blocks, ours.stacks))
    found: dict[str, tuple[Any, Any]] = {}
    for i in range(blocks):
        one, other = ours.of_block(i), theirs.of_block(i)
        for name in names:
            if _matters(one, name) and not _equal(
                name, _effective(one, name), _effective(other, name)
            ):
                found.setdefault(name, (getattr(one, name), getattr(other, name)))
    return found


def _effective(spec: builders.TransformerSpec, name: str) -> Any:
    """Return the value of a field; of a factor that is not given, what it is then."""
    given = getattr(spec, name)
    if given is not None:
        return given
    defaults = {"attention_scale": spec.head_dim**-0.5, "embedding_scale": 1.0, "logit_scale": 1.0}
    return defaults.get(name)


def _equal(name: str, one: Any, other: Any) -> bool:
    """Return whether two values of a field compute the same outputs.

    Numbers may differ by the rounding of a reciprocal.
    """
    if name == "router_correction_rate":  # of training, but for whether there are corrections
        return (one is None) == (other is None)
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-9)  # numbers are float32 in a model
    return bool(one == other)


def _matters(spec: builders.TransformerSpec, name: str) -> bool:
    """Return whether outputs depend on a field, given the other fields of the spec."""
    if name in _NOT_COMPARED:
        return False
    blocks = [block for stack in spec.stacks for block in spec.blocks(stack)]
    if name.startswith(("rotary_", "relative_")):
        if not name.startswith(spec.positions):
            return False
        scaling = spec.rotary_scaling
        return scaling in _OF_SCALINGS.get(name, (scaling,))
    if name.startswith("qk_norm_"):
        return any(block.qk_norm for block in blocks)
    if name == "attention_temperature_floor":
        return any(block.attention_temperature for block in blocks)
    if name == "glu_limit":
        return spec.feedforward == "clamped_glu"
    if name.startswith("delta_"):  # of Gated DeltaNets, which no other model has
        return False
    if name in Experts.__annotations__ and not spec.num_experts:
        return name == "num_experts"
    if name in _OF_GROUPS:
        return spec.num_active_groups < spec.num_expert_groups
    if name == "pooler_activation":
        return spec.pooler
    if name == "class_pooling":
        return bool(spec.classes)
    if name == "intermediate_dim":  # experts have another
        return not all(block.num_experts for block in blocks)
    if name in ("source_vocabulary_size", "num_encoder_layers"):
        return spec.kind == "encoder_decoder"
    if spec.kind == "encoder_only" and name in (
        *("tie_embeddings", "logit_bias", "scale_logits", "logit_gain"),
    ):
        return spec.masked_lm_head
    return True
