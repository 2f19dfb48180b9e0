"""Llama and similar backbones: Mistral, Phi-3, Qwen, Gemma."""

from __future__ import annotations

from typing import Any

import numpy as np

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import (
    NO_DROPOUT,
    Config,
    Family,
    Part,
    Rule,
    attention_layers,
    unpadded,
)

GROUPED_SIZES = {
    "vocabulary_size": "vocabulary_size",
    "num_layers": "num_layers",
    "num_query_heads": "num_heads",
    "num_key_value_heads": "num_key_value_heads",
    "hidden_dim": "hidden_dim",
    "intermediate_dim": "intermediate_dim",
    "rope_max_wavelength": "rotary_base",
    "layer_norm_epsilon": "norm_epsilon",
}

SILU = {"activation": "silu"}


def linear_scaling(entry: str) -> Rule:
    """Return the rule of rotary positions divided by a factor; 1 is no scaling."""
    return Rule(
        (entry,),
        lambda config: {
            "rotary_scaling": "none" if config[entry] == 1 else "linear",
            "rotary_factor": config[entry],
        },
        lambda spec: {entry: spec.rotary_factor},
    )


_LLAMA3_ENTRIES = {
    "rope_frequency_adjustment_factor": "rotary_factor",
    "rope_low_freq_factor": "rotary_low_freq_factor",
    "rope_high_freq_factor": "rotary_high_freq_factor",
    "rope_pretraining_sequence_length": "rotary_original_length",
}


def _read_llama_scaling(config: Config) -> dict[str, Any]:
    if config["rope_frequency_adjustment_factor"] is None:
        return {}
    given = {name: config[entry] for entry, name in _LLAMA3_ENTRIES.items()}
    return {"rotary_scaling": "llama3", **given}


def _write_llama_scaling(spec: TransformerSpec) -> dict[str, Any]:
    by_llama3 = spec.rotary_scaling == "llama3"
    return {
        entry: getattr(spec, name) if by_llama3 else None for entry, name in _LLAMA3_ENTRIES.items()
    }


_LLAMA_SCALING = Rule(tuple(_LLAMA3_ENTRIES), _read_llama_scaling, _write_llama_scaling)

_LONGROPE_ENTRIES = {
    "rope_scaling_short_factor": "rotary_short_factors",
    "rope_scaling_long_factor": "rotary_long_factors",
}


def _read_longrope(config: Config) -> dict[str, Any]:
    if config["rope_scaling_type"] is None:
        return {}
    factor = config["max_sequence_length"] / config["pretraining_sequence_length"]
    given = {name: config[entry] for entry, name in _LONGROPE_ENTRIES.items()}
    return {"rotary_scaling": "longrope", "rotary_factor": max(factor, 1.0), **given}


def _write_longrope(spec: TransformerSpec) -> dict[str, Any]:
    is_longrope = spec.rotary_scaling == "longrope"
    factors = {entry: getattr(spec, name) for entry, name in _LONGROPE_ENTRIES.items()}
    return {
        "rope_scaling_type": "su" if is_longrope else None,
        **{entry: list(value) if value else None for entry, value in factors.items()},
    }


_LONGROPE = Rule(("rope_scaling_type", *_LONGROPE_ENTRIES), _read_longrope, _write_longrope)

WINDOW = Rule(
    ("use_sliding_window_attention", "sliding_window_size"),
    lambda config: {
        "attention_window": config["sliding_window_size"]
        if config["use_sliding_window_attention"]
        else None
    },
    lambda spec: {
        "use_sliding_window_attention": spec.attention_window is not None,
        "sliding_window_size": spec.attention_window or 4096,
    },
)


def llama_layers(
    attention: str = "_self_attention_layer",
    norms: tuple[str, str] = ("_self_attention_layernorm", "_feedforward_layernorm"),
    prefix: str = "_",
) -> dict[str, str | Part]:
    """Return the layers of Llama, Mistral and Qwen; names in Phi-3 have no leading underscore."""
    ours, theirs = "decoder.block_{i}", "transformer_layers.{i}"
    attention = f"{theirs}.{attention}"
    return {
        "decoder.token_embedding": "token_embedding.embeddings",
        **attention_layers(f"{ours}.self_attention", attention, f"{prefix}{{role}}_dense"),
        f"{ours}.self_attention.norm": f"{theirs}.{norms[0]}",
        f"{ours}.self_attention.query_norm": f"{attention}.{prefix}query_dense_layer_norm",
        f"{ours}.self_attention.key_norm": f"{attention}.{prefix}key_dense_layer_norm",
        f"{ours}.feedforward.gate": f"{theirs}.{prefix}feedforward_gate_dense",
        f"{ours}.feedforward.up": f"{theirs}.{prefix}feedforward_intermediate_dense",
        f"{ours}.feedforward.down": f"{theirs}.{prefix}feedforward_output_dense",
        f"{ours}.feedforward.norm": f"{theirs}.{norms[1]}",
        "decoder.final_norm": "layer_norm",
        "logits": "token_embedding.reverse_embeddings",
    }


_GEMMA = {**forms.GEMMA, "activation": "gelu_tanh", "tie_embeddings": True}

GEMMA_NAMES = {
    "vocabulary_size": "vocabulary_size",
    "num_layers": "num_layers",
    "num_query_heads": "num_heads",
    "num_key_value_heads": "num_key_value_heads",
    "hidden_dim": "hidden_dim",
    "head_dim": "head_dim",
    "layer_norm_epsilon": "norm_epsilon",
    "attention_logit_soft_cap": "attention_soft_cap",
    "final_logit_soft_cap": "logit_soft_cap",
}

_HALF_AS_WIDE = Rule(  # the entry is the width of gate and projection together
    ("intermediate_dim",),
    lambda config: {"intermediate_dim": config["intermediate_dim"] // 2},
    lambda spec: {"intermediate_dim": 2 * spec.intermediate_dim},
)

# In Gemma's backbone every second block, starting with the first, has the window.
_GEMMA_WINDOW = Rule(
    WINDOW.entries,
    lambda config: {
        **WINDOW.read(config),
        "block_overrides": ({}, {"attention_window": None})[: config["num_layers"]]
        if config["use_sliding_window_attention"]
        else (),
    },
    WINDOW.write,
)


def _heads_second(array: np.ndarray) -> np.ndarray:
    return np.swapaxes(array, 0, 1)


def gemma_layers() -> dict[str, str | Part]:
    """Return the layers of Gemma, whose projections have the heads first."""
    ours, theirs = "decoder.block_{i}", "transformer_layers.{i}"
    kernels = {
        f"{ours}.self_attention.{role}": Part(f"{theirs}.attention.{role}_dense", _heads_second)
        for role in ("query", "key", "value")
    }
    return {
        "decoder.token_embedding": "token_embedding.embeddings",
        **kernels,
        f"{ours}.self_attention.output": f"{theirs}.attention.output_dense",
        f"{ours}.self_attention.norm": f"{theirs}.pre_attention_norm",
        f"{ours}.self_attention.output_norm": f"{theirs}.post_attention_norm",
        f"{ours}.feedforward.gate": f"{theirs}.gating_ffw",
        f"{ours}.feedforward.up": f"{theirs}.gating_ffw_2",
        f"{ours}.feedforward.down": f"{theirs}.ffw_linear",
        f"{ours}.feedforward.norm": f"{theirs}.pre_ffw_norm",
        f"{ours}.feedforward.output_norm": f"{theirs}.post_ffw_norm",
        "decoder.final_norm": "layer_norm",
    }


FAMILIES: tuple[Family, ...] = (
    *(
        Family(
            backbone,
            {**forms.LLAMA, **SILU},
            {**GROUPED_SIZES, "tie_word_embeddings": "tie_embeddings"},
            llama_layers(),
            (_LLAMA_SCALING,),
            required=NO_DROPOUT,
            ignored={"rope_position_scaling_factor": (1.0, ("rotary_scaling", "rotary_factor"))},
            defaults=unpadded(length),
        )
        for backbone, length in (("LlamaBackbone", 4096), ("Llama3Backbone", 8192))
    ),
    Family(
        "MistralBackbone",
        {**forms.LLAMA, **SILU},
        {**GROUPED_SIZES, "head_dim": "head_dim", "sliding_window": "attention_window"},
        llama_layers(),
        (linear_scaling("rope_scaling_factor"),),
        required=NO_DROPOUT,
        defaults=unpadded(32_768),
    ),
    Family(
        "Phi3Backbone",
        {**forms.LLAMA, **SILU},
        {
            **GROUPED_SIZES,
            "max_sequence_length": "max_sequence_length",
            "pretraining_sequence_length": "rotary_original_length",
        },
        llama_layers(
            "attention", ("pre_attention_layernorm", "post_attention_layernorm"), prefix=""
        ),
        (_LONGROPE,),
        required=NO_DROPOUT,
        defaults={"pad_token_id": None},
    ),
    Family(
        "QwenBackbone",
        {**forms.QWEN, **SILU},
        {**GROUPED_SIZES, "tie_word_embeddings": "tie_embeddings"},
        llama_layers(),
        (linear_scaling("rope_scaling_factor"), WINDOW),
        required=NO_DROPOUT,
        defaults=unpadded(32_768),
    ),
    Family(
        "Qwen3Backbone",
        {**forms.LLAMA, **SILU, "qk_norm": True},
        {
            **GROUPED_SIZES,
            "head_dim": "head_dim",
            "tie_word_embeddings": "tie_embeddings",
            "sliding_window_size": "attention_window",
        },
        llama_layers(),
        (linear_scaling("rope_scaling_factor"),),
        required=NO_DROPOUT,
        defaults=unpadded(40_960),
    ),
    *(
        Family(
            "GemmaBackbone",
            {**_GEMMA, "norm_placement": placement},
            GEMMA_NAMES,
            gemma_layers(),
            (_HALF_AS_WIDE, _GEMMA_WINDOW),
            required={
                **NO_DROPOUT,
                "use_post_ffw_norm": placement == "sandwich",
                "use_post_attention_norm": placement == "sandwich",
            },
            ignored={"query_head_dim_normalize": (True, ("attention_scale",))},
            defaults=unpadded(8192),
        )
        for placement in ("pre", "sandwich")
    ),
)
