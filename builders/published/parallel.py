"""Decoders with attention and feed-forward side by side: GPT-J, Falcon, PaLM, Command R."""

from __future__ import annotations

from typing import Any

from builders.published.families import LLAMA, register_family, size

register_family(
    {
        "vocabulary_size": 50_400,
        "max_sequence_length": 2048,
        "norm_placement": "parallel_shared_norm",
        "positions": "rotary",
        "rotary_dim": 64,
        "activation": "gelu_tanh",
        "attention_bias": False,
        "logit_bias": True,
        "pad_token_id": None,
        "initializer": "normal",
    },
    {"gptj_6b": ("6,050,882,784", size(28, 4096, 16, head_dim=256))},
    kind="decoder_only",
    source="Wang and Komatsuzaki 2021, GPT-J-6B, the released weights",
    summary="parallel attention and feed-forward behind one norm, no biases in attention",
)

_FALCON: dict[str, Any] = {
    "vocabulary_size": 65_024,
    "max_sequence_length": 2048,
    "positions": "rotary",
    "activation": "gelu",
    "attention_bias": False,
    "feedforward_bias": False,
    "tie_embeddings": True,
    "head_dim": 64,
    "pad_token_id": None,
    "initializer": "normal",
}

register_family(
    {**_FALCON, "norm_placement": "parallel_shared_norm", "num_key_value_heads": 1},
    {"falcon_7b": ("6,921,720,704", size(32, 4544, 71))},
    kind="decoder_only",
    source='Almazrouei et al. 2023, "The Falcon Series", table 16; sizes as in LitGPT',
    summary="multi-query attention and feed-forward in parallel behind one norm",
)

register_family(
    {**_FALCON, "norm_placement": "parallel", "num_key_value_heads": 8},
    {
        "falcon_40b": ("41.3 billion", size(60, 8192, 128)),
        "falcon_180b": ("179 billion", size(80, 14_848, 232)),
    },
    kind="decoder_only",
    source='Almazrouei et al. 2023, "The Falcon Series", table 16; sizes as in LitGPT',
    summary="grouped-query attention and feed-forward in parallel, each behind its norm",
)

register_family(
    {
        **LLAMA,
        "vocabulary_size": 256_000,
        "max_sequence_length": 2048,
        "norm_placement": "parallel_shared_norm",
        "norm": "layer",
        "norm_bias": False,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "tie_embeddings": True,
    },
    {
        "palm_8b": ("8.63 billion", size(32, 4096, 16)),
        "palm_62b": ("62.50 billion", size(64, 8192, 32)),
        "palm_540b": ("540.35 billion", size(118, 18_432, 48)),
    },
    kind="decoder_only",
    source='Chowdhery et al. 2022, "PaLM", section 2 and table 1',
    summary="SwiGLU and multi-query attention in parallel behind one norm, no biases",
)

_COMMAND: dict[str, Any] = {
    **LLAMA,
    "vocabulary_size": 256_000,
    "max_sequence_length": 131_072,
    "norm_placement": "parallel_shared_norm",
    "norm": "layer",
    "norm_bias": False,
    "tie_embeddings": True,
    "pad_token_id": 0,
}

register_family(
    {**_COMMAND, "rotary_base": 8_000_000.0, "logit_scale": 0.0625},
    {
        "command_r": ("35 billion", size(40, 8192, 64, intermediate_dim=22_528)),
        "command_r_plus": (
            "104 billion",
            size(
                64,
                12_288,
                96,
                intermediate_dim=33_792,
                num_key_value_heads=8,
                qk_norm=True,
                qk_norm_heads="separate",
                rotary_base=75_000_000.0,
                logit_scale=0.8333333333333334,
            ),
        ),
    },
    kind="decoder_only",
    source="Cohere 2024, Command R and R+, the released configurations, as in transformers",
    summary="parallel sublayers behind one norm, scaled logits; R+: queries and keys by head",
)

register_family(
    {**_COMMAND, "rotary_base": 50_000.0, "logit_scale": 0.25, "attention_window": 4096}
    | {"block_overrides": ({}, {}, {}, {"attention_window": None, "positions": "none"})},
    {
        "command_r7b": (
            "8.03 billion",
            size(32, 4096, 32, intermediate_dim=14_336, num_key_value_heads=8),
        )
    },
    kind="decoder_only",
    source="Cohere 2024, Command R7B, the released configuration, as in transformers",
    summary="Command R with windows in three of four blocks; the others have no positions",
)
