"""Qwen 2.5 and 3."""

from __future__ import annotations

from builders.published.families import LLAMA, register_family, size

register_family(
    {
        **LLAMA,
        "vocabulary_size": 151_936,
        "max_sequence_length": 32_768,
        "norm_epsilon": 1e-6,
        "rotary_base": 1_000_000.0,
        "attention_bias": True,
        "attention_output_bias": False,
    },
    {
        "qwen2.5_0.5b": (
            "494,032,768",
            size(24, 896, 14, intermediate_dim=4864, num_key_value_heads=2, tie_embeddings=True),
        ),
        "qwen2.5_1.5b": (
            "1,543,714,304",
            size(28, 1536, 12, intermediate_dim=8960, num_key_value_heads=2, tie_embeddings=True),
        ),
        "qwen2.5_7b": (
            "7,615,616,512",
            size(
                28,
                3584,
                28,
                intermediate_dim=18_944,
                num_key_value_heads=4,
                vocabulary_size=152_064,
            ),
        ),
    },
    kind="decoder_only",
    source='Qwen Team 2024, "Qwen2.5 Technical Report", table 1 and the released weights',
    summary="Llama with biases in the query, key and value projections only",
)

register_family(
    {
        **LLAMA,
        "vocabulary_size": 151_936,
        "max_sequence_length": 40_960,
        "norm_epsilon": 1e-6,
        "rotary_base": 1_000_000.0,
        "head_dim": 128,
        "num_key_value_heads": 8,
        "qk_norm": True,
    },
    {
        "qwen3_0.6b": (
            "596,049,920",
            size(28, 1024, 16, intermediate_dim=3072, tie_embeddings=True),
        ),
        "qwen3_1.7b": (
            "1,720,574,976",
            size(28, 2048, 16, intermediate_dim=6144, tie_embeddings=True),
        ),
        "qwen3_4b": (
            "4,022,468,096",
            size(36, 2560, 32, intermediate_dim=9728, tie_embeddings=True),
        ),
        "qwen3_8b": ("8,190,735,360", size(36, 4096, 32, intermediate_dim=12_288)),
        "qwen3_14b": ("14,768,307,200", size(40, 5120, 40, intermediate_dim=17_408)),
        "qwen3_32b": ("32,762,123,264", size(64, 5120, 64, intermediate_dim=25_600)),
    },
    kind="decoder_only",
    source='Qwen Team 2025, "Qwen3 Technical Report", table 1 and the released weights',
    summary="Llama with norms of queries and keys",
)
