"""SmolLM3: Llama with blocks that have no positions."""

from __future__ import annotations

from typing import Any

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import Config, Family, Rule
from functional_models.conversion.llama import SILU

_ENTRIES = ("rope_layer_enabled_list", "layer_types")


def _read_blocks(config: Config) -> dict[str, Any]:
    """Read which blocks have positions; the others are listed in `block_overrides`."""
    if set(config["layer_types"]) - {"full_attention"}:
        raise ValueError(
            f"layer_types={config['layer_types']!r}: KerasHub ignores windows, of which it has no "
            "size; give full_attention to all blocks"
        )
    listed = list(config["rope_layer_enabled_list"])[: config["num_layers"]]
    enabled = listed + [True] * (config["num_layers"] - len(listed))
    blocks = tuple({} if has else {"positions": "none"} for has in enabled)
    return {"block_overrides": blocks if any(blocks) else ()}


def _write_blocks(spec: TransformerSpec) -> dict[str, Any]:
    return {
        "rope_layer_enabled_list": [x.positions != "none" for x in spec.blocks("decoder")],
        "layer_types": ["full_attention"] * spec.num_layers,
    }


def _layers() -> dict[str, str]:
    ours, theirs = "decoder.block_{i}", "transformer_layers.{i}"
    return {
        "decoder.token_embedding": "token_embedding.embeddings",
        f"{ours}.self_attention.norm": f"{theirs}.input_layernorm",
        **{
            f"{ours}.self_attention.{role}": f"{theirs}.self_attn.{role[0]}_proj"
            for role in ("query", "key", "value", "output")
        },
        f"{ours}.feedforward.norm": f"{theirs}.post_attention_layernorm",
        **{
            f"{ours}.feedforward.{role}": f"{theirs}.mlp.{role}_proj"
            for role in ("gate", "up", "down")
        },
        "decoder.final_norm": "norm",
    }


FAMILIES: tuple[Family, ...] = (
    Family(
        "SmolLM3Backbone",
        {**forms.LLAMA, **SILU, "tie_embeddings": True, "attention_output_bias": False},
        {
            "vocabulary_size": "vocabulary_size",
            "num_layers": "num_layers",
            "num_attention_heads": "num_heads",
            "num_key_value_heads": "num_key_value_heads",
            "hidden_dim": "hidden_dim",
            "intermediate_dim": "intermediate_dim",
            "attention_bias": "attention_bias",
            "mlp_bias": "feedforward_bias",
            "layer_norm_epsilon": "norm_epsilon",
            "max_position_embeddings": "max_sequence_length",
            "rope_theta": "rotary_base",
        },
        _layers(),
        (Rule(_ENTRIES, _read_blocks, _write_blocks),),
        required={"attention_dropout": 0, "partial_rotary_factor": 1},
        defaults={"pad_token_id": None},
        computed=("inv_freq",),
    ),
)
