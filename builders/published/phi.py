"""Phi-1.5 to Phi-4."""

from __future__ import annotations

from builders.published.families import LLAMA, register_family, size

register_family(
    {
        "vocabulary_size": 51_200,
        "max_sequence_length": 2048,
        "norm_placement": "parallel_shared_norm",
        "positions": "rotary",
        "activation": "gelu_tanh",
        "logit_bias": True,
        "pad_token_id": None,
        "initializer": "normal",
    },
    {
        "phi1.5": ("1.4 billion", size(24, 2048, 32, rotary_dim=32)),
        "phi2": ("2.78 billion", size(32, 2560, 32, rotary_dim=32)),
    },
    kind="decoder_only",
    source='Li et al. 2023, "Phi-1.5", section 2.1; Javaheripi et al. 2023, Phi-2; as in LitGPT',
    summary="parallel attention and feed-forward behind one norm, biases everywhere",
)

register_family(
    {
        **LLAMA,
        "vocabulary_size": 32_064,
        "max_sequence_length": 4096,
        "attention_window": 2047,
    },
    {"phi3_mini_4k": ("3,821,079,552", size(32, 3072, 32, intermediate_dim=8192))},
    kind="decoder_only",
    source='Abdin et al. 2024, "Phi-3 Technical Report", section 2, and the released weights',
    summary="Llama's block with 3072 channels and a sliding window",
)

register_family(
    {**LLAMA, "vocabulary_size": 100_352, "max_sequence_length": 16_384}
    | {"rotary_base": 250_000.0, "num_key_value_heads": 10},
    {"phi4": ("14.7 billion", size(40, 5120, 40, intermediate_dim=17_920))},
    kind="decoder_only",
    source='Abdin et al. 2024, "Phi-4", section 3; sizes as in LitGPT',
    summary="Llama's block with a quarter of the key/value heads, and no window",
)
