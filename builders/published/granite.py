"""Granite and MiniCPM: Llama with factors of embeddings, branches, scores and logits."""

from __future__ import annotations

from builders.published.families import LLAMA, register_family, size

register_family(
    {
        **LLAMA,
        "vocabulary_size": 49_159,
        "max_sequence_length": 131_072,
        "merge": "scaled",
        "branch_scale": 0.22,
        "embedding_scale": 12.0,
        "rotary_base": 10_000_000.0,
        "num_key_value_heads": 8,
        "tie_embeddings": True,
        "pad_token_id": 0,
    },
    {
        "granite3.3_2b": (
            "2.5 billion",
            size(40, 2048, 32, intermediate_dim=8192, attention_scale=0.015625, logit_scale=1 / 8),
        ),
        "granite3.3_8b": (
            "8.1 billion",
            size(
                40, 4096, 32, intermediate_dim=12_800, attention_scale=0.0078125, logit_scale=1 / 16
            ),
        ),
    },
    kind="decoder_only",
    source="Granite Team 2025, Granite 3.3, the released configurations",
    summary="Llama with each branch times 0.22, and scaled embeddings, scores and logits",
)

register_family(
    {
        **LLAMA,
        "vocabulary_size": 122_753,
        "max_sequence_length": 4096,
        "merge": "scaled",
        "branch_scale": 1.4 / 40**0.5,
        "embedding_scale": 12.0,
        "logit_scale": 256 / 2304,
        "tie_embeddings": True,
    },
    {"minicpm_2b": ("2.7 billion", size(40, 2304, 36, intermediate_dim=5760))},
    kind="decoder_only",
    source='Hu et al. 2024, "MiniCPM", section 3.1; sizes and factors as in transformers',
    summary="Llama with each branch times 1.4 / sqrt(blocks), and scaled embeddings and logits",
)
