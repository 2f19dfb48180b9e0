"""gpt-oss: experts with clamped gates, and sinks of attention."""

from __future__ import annotations

from builders.published.families import LLAMA, register_family, size

register_family(
    {
        **LLAMA,
        "vocabulary_size": 201_088,
        "max_sequence_length": 131_072,
        "norm_epsilon": 1e-5,
        "head_dim": 64,
        "num_key_value_heads": 8,
        "attention_bias": True,
        "attention_sinks": True,
        "attention_window": 128,
        "block_overrides": ({}, {"attention_window": None}),
        "rotary_base": 150_000.0,
        "rotary_scaling": "yarn",
        "rotary_factor": 32.0,
        "rotary_original_length": 4096,
        "rotary_high_freq_factor": 32.0,
        "rotary_whole_pairs": False,
        "feedforward": "clamped_glu",
        "activation": "gelu_sigmoid",
        "feedforward_bias": True,
        "intermediate_dim": 2880,
        "num_active_experts": 4,
        "router_bias": True,
    },
    {
        "gpt_oss_20b": ("20,914,757,184", size(24, 2880, 64, num_experts=32)),
        "gpt_oss_120b": ("116,829,156,672", size(36, 2880, 64, num_experts=128)),
    },
    kind="decoder_only",
    source='OpenAI 2025, "gpt-oss-120b & gpt-oss-20b Model Card", section 2; the authors\' code',
    summary="experts with clamped gates, sinks of attention, windows in every other block",
)
