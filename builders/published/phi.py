"""Phi-1.5 to Phi-4, and Phi-4-mini."""

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

# Divisors of the frequencies, as released.
_PHI3_5_SHORT = (
    *(1.0, 1.02, 1.03, 1.03, 1.05, 1.05, 1.05, 1.05, 1.05, 1.0699999, 1.0999999, 1.1099999),
    *(1.1599998, 1.1599998, 1.1699998, 1.2899998, 1.3399998, 1.6799998, 1.7899998, 1.8199998),
    *(1.8499998, 1.8799998, 1.9099997, 1.9399997, 1.9899997, 2.0199997, 2.0199997, 2.0199997),
    *(2.0199997, 2.0199997, 2.0199997, 2.0299997, 2.0299997, 2.0299997, 2.0299997, 2.0299997),
    *(2.0299997, 2.0299997, 2.0299997, 2.0299997, 2.0799997, 2.0899997, 2.1899996, 2.2199996),
    *(2.5899994, 2.7299995, 2.7499995, 2.8399994),
)
_PHI3_5_LONG = (
    *(1.08, 1.11, 1.14, 1.34, 1.5899999, 1.6, 1.62, 2.6200001, 3.23, 3.23, 4.79, 7.4, 7.7000003),
    *(9.09, 12.2, 17.67, 24.460001, 28.570002, 30.420002, 30.840002, 32.590004, 32.930004),
    *(42.320004, 44.960003, 50.340004, 50.450005, 57.550003, 57.930004, 58.210003, 60.140003),
    *(62.610004, 62.620003, 62.710003, 63.140003, 63.140003, 63.770004, 63.930004, 63.960003),
    *(63.97, 64.03, 64.07, 64.08, 64.12, 64.41, 64.48, 64.51, 64.53, 64.84),
)
_PHI4_MINI_LONG = (
    *(1.0, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817),
    *(2.187582649, 2.446418898, 2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023),
    *(4.785517845, 5.351743533, 5.984965424, 6.693110555, 7.485043894, 8.370679318, 9.36110372),
    *(10.4687158, 11.70738129, 13.09260651, 14.64173252, 16.37415215, 18.31155283, 20.47818807),
    *(22.90118105, 25.61086418, 28.64115884, 32.03, 32.1, 32.13, 32.23, 32.6, 32.61, 32.64),
    *(32.66, 32.7, 32.71, 32.93, 32.97, 33.28, 33.49, 33.5, 44.16, 47.77),
)

register_family(
    {
        **LLAMA,
        "max_sequence_length": 131_072,
        "intermediate_dim": 8192,
        "rotary_scaling": "longrope",
        "rotary_factor": 32.0,
        "rotary_original_length": 4096,
    },
    {
        "phi3.5_mini": (
            "3,821,079,552",
            size(
                32,
                3072,
                32,
                vocabulary_size=32_064,
                rotary_short_factors=_PHI3_5_SHORT,
                rotary_long_factors=_PHI3_5_LONG,
            ),
        ),
        "phi4_mini": (
            "3,836,021,760",
            size(
                32,
                3072,
                24,
                num_key_value_heads=8,
                vocabulary_size=200_064,
                tie_embeddings=True,
                rotary_dim=96,
                rotary_short_factors=(1.0,) * 48,
                rotary_long_factors=_PHI4_MINI_LONG,
            ),
        ),
    },
    kind="decoder_only",
    source="Microsoft 2024 and 2025, Phi-3.5 and Phi-4-mini; the released configurations",
    summary="Llama's block with other rotary frequencies in sequences of more than 4096 tokens",
)
