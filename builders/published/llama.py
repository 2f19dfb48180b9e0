"""Llama and the decoders that followed it: Mistral, Gemma, Qwen, Phi-3."""

from __future__ import annotations

from typing import Any

from builders.published.families import register_family, size

_LLAMA: dict[str, Any] = {
    "norm_placement": "pre",
    "norm": "rms",
    "positions": "rotary",
    "feedforward": "glu",
    "activation": "silu",
    "feedforward_bias": False,
    "attention_bias": False,
    "pad_token_id": None,
    "initializer": "normal",
}

register_family(
    {**_LLAMA, "vocabulary_size": 32_000, "max_sequence_length": 4096},
    {
        "llama2_7b": ("6,738,415,616", size(32, 4096, 32, intermediate_dim=11_008)),
        "llama2_13b": ("13,015,864,320", size(40, 5120, 40, intermediate_dim=13_824)),
        "llama2_70b": (
            "68,976,648,192",
            size(80, 8192, 64, intermediate_dim=28_672, num_key_value_heads=8),
        ),
    },
    kind="decoder_only",
    source='Touvron et al. 2023, "Llama 2", appendix A.2.1 and the released weights',
    summary="RMS norm, rotary positions, SwiGLU, no biases",
)

register_family(
    {
        **_LLAMA,
        "vocabulary_size": 128_256,
        "max_sequence_length": 8192,
        "num_key_value_heads": 8,
        "rotary_base": 500_000.0,
    },
    {
        "llama3_8b": ("8,030,261,248", size(32, 4096, 32, intermediate_dim=14_336)),
        "llama3_70b": ("70,553,706,496", size(80, 8192, 64, intermediate_dim=28_672)),
    },
    kind="decoder_only",
    source='Llama Team 2024, "The Llama 3 Herd of Models", table 3 and the released weights',
    summary="Llama 2 with grouped-query attention, a larger vocabulary and a higher rotary base",
)

register_family(
    {
        **_LLAMA,
        "vocabulary_size": 128_256,
        "max_sequence_length": 131_072,
        "num_key_value_heads": 8,
        "rotary_base": 500_000.0,
        "rotary_scaling": "llama3",
        "rotary_factor": 32.0,
        "rotary_original_length": 8192,
        "tie_embeddings": True,
    },
    {
        "llama3.2_1b": ("1,235,814,400", size(16, 2048, 32, intermediate_dim=8192)),
        "llama3.2_3b": ("3,212,749,824", size(28, 3072, 24, intermediate_dim=8192)),
    },
    kind="decoder_only",
    source="Llama 3.2 model card and configuration (Meta 2024)",
    summary="Llama 3 with tied embeddings, and rotary frequencies scaled for 131,072 tokens",
)

register_family(
    {**_LLAMA, "vocabulary_size": 32_000, "max_sequence_length": 32_768, "norm_epsilon": 1e-5},
    {
        "mistral_7b": (
            "7,241,732,096",
            size(
                32,
                4096,
                32,
                intermediate_dim=14_336,
                num_key_value_heads=8,
                attention_window=4096,
            ),
        )
    },
    kind="decoder_only",
    source='Jiang et al. 2023, "Mistral 7B", table 1 and the released weights',
    summary="grouped-query attention with a sliding window of 4096 tokens",
)

register_family(
    {
        **_LLAMA,
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
        **_LLAMA,
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

register_family(
    {
        **_LLAMA,
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
        **_LLAMA,
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
        "qwen3_4b": (
            "4,022,468,096",
            size(36, 2560, 32, intermediate_dim=9728, tie_embeddings=True),
        ),
        "qwen3_8b": ("8,190,735,360", size(36, 4096, 32, intermediate_dim=12_288)),
    },
    kind="decoder_only",
    source='Qwen Team 2025, "Qwen3 Technical Report", table 1 and the released weights',
    summary="Llama with norms of queries and keys",
)

register_family(
    {
        **_LLAMA,
        "vocabulary_size": 32_064,
        "max_sequence_length": 4096,
        "attention_window": 2047,
    },
    {"phi3_mini_4k": ("3,821,079,552", size(32, 3072, 32, intermediate_dim=8192))},
    kind="decoder_only",
    source='Abdin et al. 2024, "Phi-3 Technical Report", section 2, and the released weights',
    summary="Llama's block with 3072 channels and a sliding window",
)
