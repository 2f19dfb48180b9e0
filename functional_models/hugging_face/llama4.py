"""Llama 4, the decoder of text: blocks of several kinds, and experts that are stored together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face.block_types import FULL, block_pattern, check_layer_types
from functional_models.hugging_face.falcon import halves
from functional_models.hugging_face.family import NEEDS_TIED, Family, Layers, Place
from functional_models.hugging_face.llama import (
    BLOCK,
    DEFAULTS,
    SHARED,
    SIZES,
    THEIRS,
    layers,
)
from functional_models.hugging_face.rules import (
    DECODER_PADDING,
    activation,
    rotary,
    several,
    without,
)
from functional_models.hugging_face.silent import ROUTER

CHUNKED = "chunked_attention"

# Blocks -----------------------------------------------------------------------------------------


def _rotates(config: Config) -> Sequence[int]:
    """Return whether each block has rotary positions, which `no_rope_layers` says."""
    blocks, every = config["num_hidden_layers"], config["no_rope_layer_interval"]
    given = config["no_rope_layers"] or [int((i + 1) % every != 0) for i in range(blocks)]
    if not isinstance(given, list) or len(given) != blocks or not set(given) <= {0, 1}:
        raise ValueError(f"no_rope_layers={given!r}: must be a list of 0 or 1 for {blocks} blocks")
    return given


def _mixes(config: Config) -> set[int]:
    """Return the blocks that have experts."""
    blocks, step = config["num_hidden_layers"], config["interleave_moe_layer_step"]
    given = config["moe_layers"]
    given = list(range(step - 1, blocks, step)) if given is None else given
    if not isinstance(given, list) or not set(given) <= set(range(blocks)):
        raise ValueError(f"moe_layers={given!r}: must be a list of some of {blocks} blocks, from 0")
    return set(given)


def _read_blocks(config: Config) -> dict[str, Any]:
    blocks, chunk = config["num_hidden_layers"], config["attention_chunk_size"]
    rotates, mixes, types = _rotates(config), _mixes(config), config["layer_types"]
    if types is None:
        types = [CHUNKED if rotated and chunk is not None else FULL for rotated in rotates]
    if unknown := set(check_layer_types(types, blocks)) - {FULL, CHUNKED}:
        raise ValueError(f"layer_types has {sorted(unknown)[0]!r}; allowed: {FULL}, {CHUNKED}")
    if CHUNKED in types and chunk is None:
        raise ValueError(f"layer_types has {CHUNKED!r}, but attention_chunk_size is null")
    has_norm, strength = bool(config["use_qk_norm"]), config["attn_scale"]
    dense = {"num_experts": 0, "num_active_experts": 0}
    whole = {"attention_chunk": None}
    unrotated: dict[str, Any] = {"positions": "none"}
    if has_norm:
        unrotated["qk_norm"] = False
    if config["attn_temperature_tuning"] and strength:
        unrotated["attention_temperature"] = strength
    overrides = [
        {
            **({} if i in mixes or not mixes else dense),
            **(whole if types[i] == FULL and CHUNKED in types else {}),
            **({} if rotates[i] else unrotated),
        }
        for i in range(blocks)
    ]
    experts = {
        "num_experts": config["num_local_experts"],
        "num_active_experts": config["num_experts_per_tok"],
    }
    return {
        **(experts if mixes else dense),
        "qk_norm": has_norm,
        "attention_chunk": chunk if CHUNKED in types else None,
        "block_overrides": block_pattern(overrides),
    }


def _write_blocks(spec: TransformerSpec) -> dict[str, Any]:
    blocks = spec.blocks("decoder")
    strengths = {block.attention_temperature for block in blocks if block.attention_temperature}
    return {
        "no_rope_layers": [int(block.positions == "rotary") for block in blocks],
        "layer_types": [FULL if block.attention_chunk is None else CHUNKED for block in blocks],
        "moe_layers": [i for i, block in enumerate(blocks) if block.num_experts],
        "num_local_experts": max(block.num_experts for block in blocks),
        "num_experts_per_tok": max(block.num_active_experts for block in blocks),
        "attention_chunk_size": spec.attention_chunk or 8192,
        "use_qk_norm": any(block.qk_norm for block in blocks),
        "attn_temperature_tuning": bool(strengths),
        "attn_scale": max(strengths, default=0.1),
    }


_BLOCKS = Rule(
    (
        "num_local_experts",
        "num_experts_per_tok",
        "attention_chunk_size",
        "use_qk_norm",
        "attn_temperature_tuning",
        "attn_scale",
        "interleave_moe_layer_step",
        "no_rope_layer_interval",
    ),
    _read_blocks,
    _write_blocks,
    optional=("layer_types", "moe_layers", "no_rope_layers"),
)

_ANY_ROTARY = rotary(base=500_000.0)


def _read_rotary(config: Config) -> dict[str, Any]:
    fields = _ANY_ROTARY.read(config)
    if fields["rotary_scaling"] not in ("none", "llama3"):
        raise ValueError(
            f"rope_type={fields['rotary_scaling']!r}: must be 'default' or 'llama3', since "
            "transformers 4 computes the latter for any other"
        )
    return fields


_ROTARY = Rule((), _read_rotary, _ANY_ROTARY.write, _ANY_ROTARY.optional)

# Tensors ----------------------------------------------------------------------------------------


def _half(number: int) -> Any:
    """Return the function that returns the first or the second half of 2 f rows."""

    def part(array: np.ndarray, spec: TransformerSpec) -> np.ndarray:
        f = spec.expert_dim
        if len(array) != 2 * f:
            raise ValueError("another number of rows")
        return array[number * f : (number + 1) * f]

    return part


def _layers() -> Layers:
    ours, theirs = f"{BLOCK}.feedforward", f"{THEIRS}.feed_forward"
    roles = ("gate", "up", "down")
    both = f"{theirs}.experts.gate_up_proj"
    found: dict[str, Any] = {
        **layers(),
        f"{ours}.router": f"{theirs}.router",
        f"{ours}.experts.gate": Place(both, "", _half(0), inputs_first=True, of_experts=True),
        f"{ours}.experts.up": Place(both, "", _half(1), inputs_first=True, of_experts=True),
        f"{ours}.experts.down": Place(
            f"{theirs}.experts.down_proj", inputs_first=True, of_experts=True
        ),
    }
    for role in roles:
        found[f"{ours}.{role}"] = f"{theirs}.{role}_proj"
        found[f"{ours}.shared_expert.{role}"] = f"{theirs}.shared_expert.{role}_proj"
    for role in ("query", "key"):
        weight = f"{THEIRS}.self_attn.{role[0]}_proj.weight"
        found[f"{BLOCK}.self_attention.{role}"] = Place(weight, part=halves)
    return found


FAMILIES: tuple[Family, ...] = (
    Family(
        model_types=("llama4_text",),
        heads={"Llama4ForCausalLM": {}, "Llama4TextModel": NEEDS_TIED},
        constants={
            **forms.LLAMA,
            "qk_norm_gain": False,
            "qk_norm_after_rotary": True,
            "router_scores": "sigmoid",
            "renormalize_scores": False,
            "scale_expert_inputs": True,
        },
        fields={
            **without(SIZES, "intermediate_size"),
            "intermediate_size_mlp": "intermediate_dim",
            "floor_scale": "attention_temperature_floor",
        },
        rules=(
            activation("hidden_act"),
            _ROTARY,
            DECODER_PADDING,
            _BLOCKS,
            several("intermediate_size", "expert_dim", "shared_expert_dim"),
        ),
        defaults={
            **DEFAULTS,
            "head_dim": 128,
            "rms_norm_eps": 1e-5,
            "num_key_value_heads": 8,
            "intermediate_size_mlp": 16_384,
            "num_local_experts": 16,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 1,
            "no_rope_layer_interval": 4,
            "attention_chunk_size": 8192,
            "use_qk_norm": True,
            "attn_temperature_tuning": True,
            "attn_scale": 0.1,
            "floor_scale": 8192,
        },
        required={"attention_bias": (False,), "for_llm_compressor": (False,)},
        silent=ROUTER,
        layers=_layers(),
        **SHARED,
    ),
)
