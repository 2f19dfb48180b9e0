"""Llama 4: chunks, blocks without positions, and experts whose inputs are scaled."""

from __future__ import annotations

from typing import Any

from builders.published.families import LLAMA, register_family, size

_WHOLE: dict[str, Any] = {
    "positions": "none",
    "attention_chunk": None,
    "attention_temperature": 0.1,
}
_DENSE = {"num_experts": 0, "num_active_experts": 0}

register_family(
    {
        **LLAMA,
        "vocabulary_size": 202_048,
        "norm_epsilon": 1e-5,
        "num_key_value_heads": 8,
        "attention_chunk": 8192,
        "attention_temperature_floor": 8192,
        "rotary_base": 500_000.0,
        "intermediate_dim": 16_384,
        "num_active_experts": 1,
        "expert_dim": 8192,
        "shared_expert_dim": 8192,
        "router_scores": "sigmoid",
        "renormalize_scores": False,
        "scale_expert_inputs": True,
    },
    {
        "llama4_scout": (
            "107,769,861,120",
            size(
                48,
                5120,
                40,
                max_sequence_length=10_485_760,
                num_experts=16,
                qk_norm=True,
                qk_norm_gain=False,
                qk_norm_after_rotary=True,
                rotary_scaling="llama3",
                rotary_factor=16.0,
                rotary_original_length=8192,
                rotary_high_freq_factor=1.0,
                block_overrides=({}, {}, {}, {**_WHOLE, "qk_norm": False}),
            ),
        ),
        "llama4_maverick": (
            "400,711,848,960",
            size(
                48,
                5120,
                40,
                max_sequence_length=1_048_576,
                num_experts=128,
                block_overrides=(_DENSE, {}, _DENSE, _WHOLE),
            ),
        ),
    },
    kind="decoder_only",
    source="Meta 2025, Llama 4; the released configurations (of text) and Hugging Face's llama4",
    summary="chunks of 8192 tokens, every fourth block whole and without positions, shared experts",
)
