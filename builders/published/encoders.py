"""Encoders: BERT and those that followed it."""

from __future__ import annotations

from typing import Any

from builders.published.families import register_family, size

_BERT: dict[str, Any] = {
    "vocabulary_size": 30_522,
    "max_sequence_length": 512,
    "norm_placement": "post",
    "norm_epsilon": 1e-12,
    "embedding_norm": True,
    "positions": "learned",
    "activation": "gelu_tanh",
    "tie_embeddings": True,
    "logit_bias": True,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "embedding_dropout": 0.1,
    "initializer": "normal",
}

register_family(
    {**_BERT, "num_segments": 2, "pooler": True},
    {
        "bert_base": ("109,482,240", size(12, 768, 12)),
        "bert_large": ("335,141,888", size(24, 1024, 16)),
    },
    kind="encoder_only",
    source='Devlin et al. 2019, "BERT", section 3, and the released weights (uncased)',
    summary="post-norm encoder with segments and a pooler; masked_lm_head=True adds logits",
)

register_family(
    {
        **_BERT,
        "vocabulary_size": 50_265,
        "norm_epsilon": 1e-5,
        "activation": "gelu",
        "pad_token_id": 1,
    },
    {
        "roberta_base": (
            "125 million (124,052,736 without the heads)",
            size(12, 768, 12),
        ),
        "roberta_large": (
            "355 million (354,307,072 without the heads)",
            size(24, 1024, 16),
        ),
    },
    kind="encoder_only",
    source='Liu et al. 2019, "RoBERTa", section 5',
    summary="BERT with a byte-level vocabulary, without segments and unused position embeddings",
)

register_family(
    {**_BERT, "activation": "gelu"},
    {"distilbert_base": ("66,362,880", size(6, 768, 12))},
    kind="encoder_only",
    source='Sanh et al. 2019, "DistilBERT", section 2, and the released weights (uncased)',
    summary="BERT with half the blocks, without segments and pooler",
)
