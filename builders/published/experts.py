"""Decoders with mixtures of experts: Mixtral, Qwen1.5-MoE, Qwen3-MoE."""

from __future__ import annotations

from typing import Any

from builders.published.families import LLAMA, register_family, size

_MIXTRAL: dict[str, Any] = {
    **LLAMA,
    "norm_epsilon": 1e-5,
    "rotary_base": 1_000_000.0,
    "num_key_value_heads": 8,
    "num_experts": 8,
    "num_active_experts": 2,
    "balance_loss": 0.02,
}

register_family(
    _MIXTRAL,
    {
        "mixtral_8x7b": (
            "46,702,792,704",
            size(
                32,
                4096,
                32,
                intermediate_dim=14_336,
                vocabulary_size=32_000,
                max_sequence_length=32_768,
            ),
        ),
        "mixtral_8x22b": (
            "140,630,071,296",
            size(
                56,
                6144,
                48,
                intermediate_dim=16_384,
                vocabulary_size=32_768,
                max_sequence_length=65_536,
            ),
        ),
    },
    kind="decoder_only",
    source='Jiang et al. 2024, "Mixtral of Experts", section 2, table 1, and the released weights',
    summary="Mistral with 8 experts in each block, of which a token goes through 2",
)

_QWEN: dict[str, Any] = {
    **LLAMA,
    "norm_epsilon": 1e-6,
    "rotary_base": 1_000_000.0,
    "vocabulary_size": 151_936,
    "balance_loss": 0.001,
}

register_family(
    {
        **_QWEN,
        "max_sequence_length": 8192,
        "attention_bias": True,
        "attention_output_bias": False,
        "num_experts": 60,
        "num_active_experts": 4,
        "renormalize_scores": False,
        "shared_expert_gate": True,
    },
    {
        "qwen1.5_moe_a2.7b": (
            "14,315,784,192",
            size(24, 2048, 16, intermediate_dim=5632, expert_dim=1408, shared_expert_dim=5632),
        )
    },
    kind="decoder_only",
    source='Qwen Team 2024, "Qwen1.5-MoE", and the released weights',
    summary="60 narrow experts, 4 of them for each token, and a shared one behind a sigmoid gate",
)

register_family(
    {
        **_QWEN,
        "max_sequence_length": 40_960,
        "head_dim": 128,
        "num_key_value_heads": 4,
        "qk_norm": True,
        "num_experts": 128,
        "num_active_experts": 8,
    },
    {
        "qwen3_30b_a3b": (
            "30,532,122,624",
            size(48, 2048, 32, intermediate_dim=6144, expert_dim=768),
        ),
        "qwen3_235b_a22b": (
            "235,093,634,560",
            size(94, 4096, 64, intermediate_dim=12_288, expert_dim=1536),
        ),
    },
    kind="decoder_only",
    source='Qwen Team 2025, "Qwen3 Technical Report", table 2 and the released weights',
    summary="Qwen3 with 128 narrow experts in each block, 8 of them for each token",
)
