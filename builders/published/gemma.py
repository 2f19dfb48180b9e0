"""Gemma 1 to 3."""

from __future__ import annotations

from typing import Any

from builders.published.families import LLAMA, register_family, size

register_family(
    {
        **LLAMA,
        "vocabulary_size": 256_000,
        "max_sequence_length": 8192,
        "norm_epsilon": 1e-6,
        "norm_offset": True,
        "activation": "gelu_tanh",
        "head_dim": 256,
        "scale_embeddings": True,
        "tie_embeddings": True,
        "pad_token_id": 0,
    },
    {
        "gemma_2b": (
            "2,506,172,416",
            size(18, 2048, 8, intermediate_dim=16_384, num_key_value_heads=1),
        ),
        "gemma_7b": ("8,537,680,896", size(28, 3072, 16, intermediate_dim=24_576)),
    },
    kind="decoder_only",
    source='Gemma Team 2024, "Gemma", table 1 and the released weights',
    summary="GeGLU, norm gains of 1 + weight, heads of 256, a vocabulary of 256,000",
)

register_family(
    {
        **LLAMA,
        "vocabulary_size": 256_000,
        "max_sequence_length": 8192,
        "norm_placement": "sandwich",
        "norm_epsilon": 1e-6,
        "norm_offset": True,
        "activation": "gelu_tanh",
        "attention_window": 4096,
        "block_overrides": ({}, {"attention_window": None}),
        "attention_soft_cap": 50.0,
        "logit_soft_cap": 30.0,
        "scale_embeddings": True,
        "tie_embeddings": True,
        "pad_token_id": 0,
    },
    {
        "gemma2_2b": (
            "2,614,341,888",
            size(26, 2304, 8, intermediate_dim=9216, num_key_value_heads=4, head_dim=256),
        ),
        "gemma2_9b": (
            "9,241,705,984",
            size(42, 3584, 16, intermediate_dim=14_336, num_key_value_heads=8, head_dim=256),
        ),
        "gemma2_27b": (
            "27,227,128,320",
            size(
                46,
                4608,
                32,
                intermediate_dim=36_864,
                num_key_value_heads=16,
                head_dim=128,
                attention_scale=144**-0.5,
            ),
        ),
    },
    kind="decoder_only",
    source='Gemma Team 2024, "Gemma 2", section 2, table 1 and the released weights',
    summary="sandwich norms, soft caps, a sliding window of 4096 tokens in every other block",
)

_GLOBAL: dict[str, Any] = {"attention_window": None, "rotary_base": 1_000_000.0}
_SCALED = {**_GLOBAL, "rotary_scaling": "linear", "rotary_factor": 8.0}


def _every_sixth(overrides: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    return ({}, {}, {}, {}, {}, overrides)


_SMALL: dict[str, Any] = {
    "max_sequence_length": 32_768,
    "attention_window": 512,
    "block_overrides": _every_sixth(_GLOBAL),
}

register_family(
    {
        **LLAMA,
        "vocabulary_size": 262_144,
        "max_sequence_length": 131_072,
        "norm_placement": "sandwich",
        "norm_epsilon": 1e-6,
        "norm_offset": True,
        "activation": "gelu_tanh",
        "qk_norm": True,
        "attention_window": 1024,
        "head_dim": 256,
        "scale_embeddings": True,
        "tie_embeddings": True,
        "block_overrides": _every_sixth(_SCALED),
        "pad_token_id": 0,
    },
    {
        "gemma3_270m": (
            "268,098,176",
            size(18, 640, 4, intermediate_dim=2048, num_key_value_heads=1, **_SMALL),
        ),
        "gemma3_1b": (
            "999,885,952",
            size(26, 1152, 4, intermediate_dim=6912, num_key_value_heads=1, **_SMALL),
        ),
        "gemma3_4b": (
            "3,880,099,328",
            size(34, 2560, 8, intermediate_dim=10_240, num_key_value_heads=4),
        ),
        "gemma3_12b": (
            "11,765,788,416",
            size(48, 3840, 16, intermediate_dim=15_360, num_key_value_heads=8),
        ),
        "gemma3_27b": (
            "27,009,002,240",
            size(
                62,
                5376,
                32,
                intermediate_dim=21_504,
                num_key_value_heads=16,
                head_dim=128,
                attention_scale=168**-0.5,
            ),
        ),
    },
    kind="decoder_only",
    source='Gemma Team 2025, "Gemma 3", section 2, table 1 and the released weights (of text)',
    summary="windows and a low rotary base in five of six blocks; norms of queries and keys",
)
