"""Decoders with latent attention and fine-grained experts: DeepSeek V2 and V3."""

from __future__ import annotations

import math
from typing import Any

from builders.published.families import LLAMA, register_family, size

_HEADS = {"head_dim": 192, "rotary_dim": 64, "value_dim": 128, "latent_dim": 512}
_ONE_LAYER = {"num_experts": 0, "num_active_experts": 0}


def _yarn(mscale: float) -> dict[str, Any]:
    """Return the fields of an extension from 4,096 tokens by 40, which scales all channels.

    The rotation keeps the size of the rotated channels, and both factors of YaRN are in the scale
    of the scores.
    """
    factor = 40.0
    return {
        "max_sequence_length": 163_840,
        "rotary_scaling": "yarn",
        "rotary_factor": factor,
        "rotary_original_length": 4096,
        "rotary_low_freq_factor": 1.0,
        "rotary_high_freq_factor": 32.0,
        "rotary_magnitude": 1.0,
        "attention_scale": _HEADS["head_dim"] ** -0.5 * (0.1 * mscale * math.log(factor) + 1) ** 2,
    }


def _with_one_layer(first: int, blocks: int) -> dict[str, Any]:
    """Return the pattern of blocks of which the first have one feed-forward layer."""
    return {"block_overrides": (_ONE_LAYER,) * first + ({},) * (blocks - first)}


_DEEPSEEK: dict[str, Any] = {**LLAMA, **_HEADS, "norm_epsilon": 1e-6}

_V2: dict[str, Any] = {
    **_DEEPSEEK,
    **_yarn(0.707),
    "vocabulary_size": 102_400,
    "num_active_experts": 6,
    "renormalize_scores": False,
    "balance_loss": 0.001,
}

register_family(
    _V2,
    {
        "deepseek_v2_lite": (
            "15,706,484,224",
            size(
                27,
                2048,
                16,
                intermediate_dim=10_944,
                num_experts=64,
                expert_dim=1408,
                shared_expert_dim=2 * 1408,
                **_with_one_layer(1, 27),
            ),
        ),
        "deepseek_v2": (
            "235,741,434,880",
            size(
                60,
                5120,
                128,
                intermediate_dim=12_288,
                query_latent_dim=1536,
                num_experts=160,
                expert_dim=1536,
                shared_expert_dim=2 * 1536,
                num_expert_groups=8,
                num_active_groups=3,
                router_scale=16.0,
                **_with_one_layer(1, 60),
            ),
        ),
    },
    kind="decoder_only",
    source='DeepSeek-AI 2024, "DeepSeek-V2", section 3.1.2, appendix B, and the released weights',
    summary="keys and values from latents, narrow experts of the best groups, and shared ones",
)

register_family(
    {
        **_DEEPSEEK,
        **_yarn(1.0),
        "vocabulary_size": 129_280,
        "intermediate_dim": 18_432,
        "query_latent_dim": 1536,
        "num_experts": 256,
        "num_active_experts": 8,
        "expert_dim": 2048,
        "shared_expert_dim": 2048,
        "router_scores": "sigmoid",
        "router_scale": 2.5,
        "num_expert_groups": 8,
        "num_active_groups": 4,
        "group_score_experts": 2,
        "router_correction_rate": 0.001,
        "balance_loss": 0.0001,
    },
    {"deepseek_v3": ("671,026,419,200", size(61, 7168, 128, **_with_one_layer(3, 61)))},
    kind="decoder_only",
    source='DeepSeek-AI 2024, "DeepSeek-V3", section 4.2, and the released weights',
    summary="DeepSeek-V2 with sigmoid scores, whose biases balance the load of the experts",
)
