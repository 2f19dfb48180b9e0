"""Gemma and Gemma 2, which share a KerasHub backbone."""

from __future__ import annotations

import numpy as np

from functional_models.conversion.family import NO_DROPOUT, Family, Part, Rule, unpadded
from functional_models.conversion.llama import LLAMA, WINDOW

_GEMMA = {
    **LLAMA,
    "activation": "gelu_tanh",
    "norm_offset": True,
    "scale_embeddings": True,
    "tie_embeddings": True,
}

_GEMMA_NAMES = {
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

_GEMMA_IGNORED = {"query_head_dim_normalize": (True, ("attention_scale",))}

_HALF_AS_WIDE = Rule(  # the entry is the width of gate and projection together
    ("intermediate_dim",),
    lambda config: {"intermediate_dim": config["intermediate_dim"] // 2},
    lambda spec: {"intermediate_dim": 2 * spec.intermediate_dim},
)

# In Gemma's backbone every second block, starting with the first, has the window.
_GEMMA_WINDOW = Rule(
    WINDOW.names,
    lambda config: {
        **WINDOW.read(config),
        "full_attention_every": 2 if config["use_sliding_window_attention"] else None,
    },
    WINDOW.write,
)

_GEMMA_RULES = (
    _HALF_AS_WIDE,
    _GEMMA_WINDOW,
)


def _heads_second(array: np.ndarray) -> np.ndarray:
    return np.swapaxes(array, 0, 1)


def _gemma_layers() -> dict[str, str | Part]:
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


FAMILIES: tuple[Family, ...] = tuple(
    Family(
        "GemmaBackbone",
        {**_GEMMA, "norm_placement": placement},
        _GEMMA_NAMES,
        _gemma_layers(),
        _GEMMA_RULES,
        where={
            **NO_DROPOUT,
            "use_post_ffw_norm": placement == "sandwich",
            "use_post_attention_norm": placement == "sandwich",
        },
        ignored=_GEMMA_IGNORED,
        defaults=unpadded(8192),
    )
    for placement in ("pre", "sandwich")
)
