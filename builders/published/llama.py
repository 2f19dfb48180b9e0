"""Llama, and decoders with its block: Mistral, SmolLM, TinyLlama, Falcon 3, StableLM."""

from __future__ import annotations

from builders.published.families import LLAMA, register_family, size

register_family(
    {**LLAMA, "vocabulary_size": 32_000, "max_sequence_length": 4096},
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
        **LLAMA,
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
        **LLAMA,
        "vocabulary_size": 128_256,
        "max_sequence_length": 131_072,
        "num_key_value_heads": 8,
        "rotary_base": 500_000.0,
        "rotary_scaling": "llama3",
        "rotary_factor": 8.0,
        "rotary_original_length": 8192,
    },
    {"llama3.1_405b": ("405 billion", size(126, 16_384, 128, intermediate_dim=53_248))},
    kind="decoder_only",
    source='Llama Team 2024, "The Llama 3 Herd of Models", table 3; sizes as in LitGPT',
    summary="Llama 3 with rotary frequencies scaled for 131,072 tokens",
)

register_family(
    {
        **LLAMA,
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
    {**LLAMA, "vocabulary_size": 32_000, "max_sequence_length": 32_768, "norm_epsilon": 1e-5},
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
        ),
    },
    kind="decoder_only",
    source='Jiang et al. 2023, "Mistral 7B", table 1 and the released weights',
    summary="grouped-query attention with a sliding window of 4096 tokens",
)

register_family(
    {**LLAMA, "vocabulary_size": 32_768, "max_sequence_length": 32_768, "norm_epsilon": 1e-5}
    | {"rotary_base": 1_000_000.0, "num_key_value_heads": 8},
    {"mistral_7b_v0.3": ("7.25 billion", size(32, 4096, 32, intermediate_dim=14_336))},
    kind="decoder_only",
    source="Mistral AI 2024, the released configuration; sizes as in LitGPT",
    summary="Mistral 7B without a window, with a larger vocabulary and rotary base",
)

register_family(
    {**LLAMA, "vocabulary_size": 131_072, "max_sequence_length": 32_768, "norm_epsilon": 1e-5}
    | {"rotary_base": 100_000_000.0, "num_key_value_heads": 8, "head_dim": 128},
    {"mistral_small_24b": ("23,572,403,200", size(40, 5120, 32, intermediate_dim=32_768))},
    kind="decoder_only",
    source="Mistral AI 2025, Mistral Small 3, the released configuration, as in KerasHub",
    summary="Mistral with heads narrower than the stream, and no window",
)

register_family(
    {**LLAMA, "vocabulary_size": 49_152, "max_sequence_length": 8192, "tie_embeddings": True},
    {
        "smollm2_135m": (
            "135 million",
            size(30, 576, 9, num_key_value_heads=3, intermediate_dim=1536, rotary_base=1e5),
        ),
        "smollm2_360m": (
            "362 million",
            size(32, 960, 15, num_key_value_heads=5, intermediate_dim=2560, rotary_base=1e5),
        ),
        "smollm2_1.7b": (
            "1.7 billion",
            size(24, 2048, 32, intermediate_dim=8192, rotary_base=1.3e5),
        ),
    },
    kind="decoder_only",
    source='Ben Allal et al. 2025, "SmolLM2"; sizes as in LitGPT',
    summary="Llama with tied embeddings, small",
)

register_family(
    {**LLAMA, "vocabulary_size": 128_256, "max_sequence_length": 65_536, "norm_epsilon": 1e-6}
    | {"rotary_base": 2_000_000.0, "head_dim": 128, "num_key_value_heads": 4}
    | {"tie_embeddings": True, "block_overrides": ({}, {}, {}, {"positions": "none"})},
    {"smollm3_3b": ("3.08 billion", size(36, 2048, 16, intermediate_dim=11_008))},
    kind="decoder_only",
    source="Bakouch et al. 2025, SmolLM3, as in KerasHub; Yang et al. 2025 (arXiv 2501.18795)",
    summary="Llama without positions in every fourth block",
)

register_family(
    {**LLAMA, "vocabulary_size": 32_000, "max_sequence_length": 2048},
    {
        "tinyllama_1.1b": (
            "1.1 billion",
            size(22, 2048, 32, num_key_value_heads=4, intermediate_dim=5632),
        )
    },
    kind="decoder_only",
    source='Zhang et al. 2024, "TinyLlama", table 1',
    summary="Llama 2 with grouped-query attention, small",
)

register_family(
    {**LLAMA, "vocabulary_size": 131_072, "max_sequence_length": 32_768, "norm_epsilon": 1e-6}
    | {"rotary_base": 1_000_042.0, "head_dim": 256, "num_key_value_heads": 4},
    {
        "falcon3_1b": (
            "1.67 billion",
            size(18, 2048, 8, intermediate_dim=8192, max_sequence_length=4096),
        ),
        "falcon3_7b": ("7.46 billion", size(28, 3072, 12, intermediate_dim=23_040)),
    },
    kind="decoder_only",
    source="Falcon-LLM Team 2024, Falcon 3, the released configurations, as in LitGPT",
    summary="Llama with heads of 256",
)

register_family(
    {**LLAMA, "norm": "layer", "vocabulary_size": 50_304, "max_sequence_length": 4096},
    {"stablelm_3b": ("2,795,443,200", size(32, 2560, 32, intermediate_dim=6912, rotary_dim=20))},
    kind="decoder_only",
    source="Tow et al. 2023, StableLM-3B-4E1T, the released weights",
    summary="Llama with layer norms, and rotary positions on a quarter of the channels",
)
