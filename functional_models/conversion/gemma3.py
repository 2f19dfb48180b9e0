"""Gemma 3: windows and a lower rotary base in five of six blocks."""

from __future__ import annotations

from typing import Any

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import NO_DROPOUT, Config, Family, Part, Rule, unpadded
from functional_models.conversion.llama import GEMMA_NAMES, gemma_layers

_PERIOD = 6
_LOCAL, _GLOBAL = "local_rope_scaling_factor", "global_rope_scaling_factor"


def _rotary(base: float, factor: float) -> dict[str, Any]:
    return {
        "rotary_base": base,
        "rotary_scaling": "none" if factor == 1 else "linear",
        "rotary_factor": factor,
    }


def _read_blocks(config: Config) -> dict[str, Any]:
    """Read the windows and the rotary positions, whose bases are constant in KerasHub."""
    everywhere = {"attention_window": None, **_rotary(1_000_000.0, config[_GLOBAL])}
    if not config["use_sliding_window_attention"]:
        return everywhere
    local = _rotary(10_000.0, config[_LOCAL])
    blocks: tuple[dict[str, Any], ...] = (*[{}] * (_PERIOD - 1), everywhere)
    return {
        "attention_window": config["sliding_window_size"],
        **local,
        "block_overrides": blocks if config["num_layers"] >= _PERIOD else (),
    }


def _write_blocks(spec: TransformerSpec) -> dict[str, Any]:
    blocks = spec.blocks("decoder")
    local = next((block for block in blocks if block.attention_window is not None), None)
    full = next((block for block in blocks if block.attention_window is None), None)
    return {
        "use_sliding_window_attention": local is not None,
        "sliding_window_size": (local and local.attention_window) or 1024,
        _LOCAL: local.rotary_factor if local else 1.0,
        _GLOBAL: full.rotary_factor if full else 1.0,
    }


def _layers() -> dict[str, str | Part]:
    ours, theirs = "decoder.block_{i}.self_attention", "transformer_layers.{i}.attention"
    norms = {f"{ours}.{role}_norm": f"{theirs}.{role}_norm" for role in ("query", "key")}
    return gemma_layers() | norms


FAMILIES: tuple[Family, ...] = tuple(
    Family(
        "Gemma3Backbone",
        {
            **forms.GEMMA,
            "activation": "gelu_tanh",
            "tie_embeddings": True,
            "norm_placement": placement,
        },
        {**GEMMA_NAMES, "intermediate_dim": "intermediate_dim", "use_query_key_norm": "qk_norm"},
        _layers(),
        (
            Rule(
                ("use_sliding_window_attention", "sliding_window_size", _LOCAL, _GLOBAL),
                _read_blocks,
                _write_blocks,
            ),
            # Of images, which this family does not have.
            Rule(("image_size",), lambda config: {}, lambda spec: {"image_size": 896}),
        ),
        required={
            **NO_DROPOUT,
            "use_post_ffw_norm": placement == "sandwich",
            "use_post_attention_norm": placement == "sandwich",
            "layer_norm_epsilon": 1e-6,  # whatever it is, its blocks have this one
            "vision_encoder": None,
            "use_bidirectional_attention": False,
            "is_embedding_model": False,
            "pooling_intermediate_dim": None,
            "embedding_dim": None,
        },
        ignored={"query_head_dim_normalize": (True, ("attention_scale",))},
        defaults=unpadded(131_072),
    )
    for placement in ("sandwich", "pre")
)
