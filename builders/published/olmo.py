"""OLMo 1 to 3 and EXAONE 4: norms without weights, and norms of what sublayers add."""

from __future__ import annotations

from typing import Any

from builders.published.families import LLAMA, register_family, size

register_family(
    {**LLAMA, "vocabulary_size": 50_304, "max_sequence_length": 2048, "norm": "layer"}
    | {"norm_gain": False, "pad_token_id": 1},
    {
        "olmo_1b": ("1.18 billion", size(16, 2048, 16, intermediate_dim=8192, tie_embeddings=True)),
        "olmo_7b": ("6.89 billion", size(32, 4096, 32, intermediate_dim=11_008)),
    },
    kind="decoder_only",
    source='Groeneveld et al. 2024, "OLMo", section 2.1 and table 5; sizes as in LitGPT',
    summary="Llama with layer norms that have no weights",
)

_OLMO2: dict[str, Any] = {
    **LLAMA,
    "vocabulary_size": 100_352,
    "max_sequence_length": 4096,
    "norm_placement": "output",
    "norm_epsilon": 1e-6,
    "qk_norm": True,
    "qk_norm_heads": "joint",
    "rotary_base": 500_000.0,
    "pad_token_id": 100_277,
}

register_family(
    _OLMO2,
    {
        "olmo2_1b": ("1.48 billion", size(16, 2048, 16, intermediate_dim=8192)),
        "olmo2_7b": ("7.3 billion", size(32, 4096, 32, intermediate_dim=11_008)),
        "olmo2_13b": ("13.7 billion", size(40, 5120, 40, intermediate_dim=13_824)),
        "olmo2_32b": (
            "32.2 billion",
            size(64, 5120, 40, intermediate_dim=27_648, num_key_value_heads=8),
        ),
    },
    kind="decoder_only",
    source='OLMo Team 2024, "2 OLMo 2 Furious", section 3.3 and table 1',
    summary="norms on the outputs of sublayers; queries and keys are normalized over all heads",
)

_YARN = {
    "attention_window": None,
    "rotary_scaling": "yarn",
    "rotary_factor": 8.0,
    "rotary_original_length": 8192,
    "rotary_high_freq_factor": 32.0,
}

register_family(
    {**_OLMO2, "vocabulary_size": 100_278, "max_sequence_length": 65_536}
    | {"attention_window": 4096, "block_overrides": ({}, {}, {}, _YARN)},
    {
        "olmo3_7b": ("7.3 billion", size(32, 4096, 32, intermediate_dim=11_008)),
        "olmo3_32b": (
            "32.2 billion",
            size(64, 5120, 40, intermediate_dim=27_648, num_key_value_heads=8),
        ),
    },
    kind="decoder_only",
    source="OLMo Team 2025, OLMo 3; sizes as in fairseq2",
    summary="OLMo 2 with windows in three of four blocks; the others extend rotary positions",
)

_EXAONE: dict[str, Any] = {
    **LLAMA,
    "vocabulary_size": 102_400,
    "norm_placement": "output",
    "qk_norm": True,
    "rotary_base": 1_000_000.0,
    "rotary_scaling": "llama3",
    "rotary_factor": 16.0,
    "rotary_original_length": 8192,
    "num_key_value_heads": 8,
}

_LONG: dict[str, Any] = {"max_sequence_length": 65_536}
_LOCAL: dict[str, Any] = {
    "max_sequence_length": 131_072,
    "attention_window": 4096,
    "block_overrides": ({}, {}, {}, {"attention_window": None, "positions": "none"}),
}

register_family(
    _EXAONE,
    {
        "exaone4_1.2b": (
            "1.28 billion",
            size(30, 2048, 32, intermediate_dim=4096, tie_embeddings=True, **_LONG),
        ),
        "exaone4_32b": ("32.0 billion", size(64, 5120, 40, intermediate_dim=27_392, **_LOCAL)),
    },
    kind="decoder_only",
    source='LG AI Research 2025, "EXAONE 4.0", section 2, table 1; positions as in TensorRT-LLM',
    summary="norms on outputs; 32B: windows with positions in three of four blocks, else neither",
)
