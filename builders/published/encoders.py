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

register_family(
    {**_BERT, "vocabulary_size": 250_002, "norm_epsilon": 1e-5, "activation": "gelu"}
    | {"pad_token_id": 1},
    {
        "xlm_roberta_base": ("277,450,752", size(12, 768, 12)),
        "xlm_roberta_large": ("558,837,760", size(24, 1024, 16)),
    },
    kind="encoder_only",
    source='Conneau et al. 2020, "XLM-R", table 7, and the released weights as in KerasHub',
    summary="RoBERTa with a vocabulary of 250,002 tokens for 100 languages",
)

register_family(
    {**_BERT, "num_segments": 2, "pooler": True, "activation": "gelu"},
    {
        "electra_base": ("109,482,240", size(12, 768, 12)),
        "electra_large": ("335,141,888", size(24, 1024, 16)),
    },
    kind="encoder_only",
    source='Clark et al. 2020, "ELECTRA", table 6, and the released discriminators as in KerasHub',
    summary="BERT as a discriminator of replaced tokens, with the pooler of KerasHub",
)

_OF_SUM: dict[str, Any] = {"embedding_dim": 128, "embedding_projection": "sum"}

register_family(
    {**_BERT, **_OF_SUM, "num_segments": 2, "pooler": True, "activation": "gelu"},
    {"electra_small": ("13,548,800", size(12, 256, 4))},
    kind="encoder_only",
    source='Clark et al. 2020, "ELECTRA", table 6, and the released discriminator as in KerasHub',
    summary="ELECTRA with embeddings of 128 channels, normalized before they are projected",
)

register_family(
    {**_BERT, **_OF_SUM, "vocabulary_size": 30_000, "num_segments": 2, "pooler": True}
    | {"distinct_blocks": 1, "dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0},
    {
        "albert_base": ("11,683,584", size(12, 768, 12)),
        "albert_large": ("17,683,968", size(24, 1024, 16)),
        "albert_xlarge": ("58,724,864", size(24, 2048, 16)),
        "albert_xxlarge": ("222,595,584", size(12, 4096, 64)),
    },
    kind="encoder_only",
    source='Lan et al. 2020, "ALBERT", table 1, and the released weights as in KerasHub',
    summary="BERT with one block that is used again and again, and narrow embeddings",
)

register_family(
    {
        "vocabulary_size": 33,
        "max_sequence_length": 1024,
        "norm_placement": "pre",
        "positions": "rotary",
        "activation": "gelu",
        "tie_embeddings": True,
        "logit_bias": True,
        "pad_token_id": 1,
        "initializer": "normal",
    },
    {
        "esm2_8m": ("7,408,960", size(6, 320, 20)),
        "esm2_35m": ("33,269,280", size(12, 480, 20)),
        "esm2_150m": ("147,728,000", size(30, 640, 20)),
        "esm2_650m": ("649,400,320", size(33, 1280, 20)),
    },
    kind="encoder_only",
    source='Lin et al. 2023, "ESM-2", and the released weights as in KerasHub',
    summary="pre-norm encoder of proteins with rotary positions",
)

_GLOBAL: dict[str, Any] = {"attention_window": None, "rotary_base": 160_000.0}


def _modern_blocks(number: int) -> tuple[dict[str, Any], ...]:
    """Return the changes of every block: each third is global, and the first has one norm less."""
    blocks: list[dict[str, Any]] = [{} if i % 3 else _GLOBAL for i in range(number)]
    return ({**blocks[0], "attention_norm": False}, *blocks[1:])


register_family(
    {
        "vocabulary_size": 50_368,
        "max_sequence_length": 8192,
        "norm_placement": "pre",
        "norm_bias": False,
        "embedding_norm": True,
        "positions": "rotary",
        "feedforward": "glu",
        "activation": "gelu",
        "feedforward_bias": False,
        "attention_bias": False,
        "attention_window": 65,  # 64 tokens on either side, and the query's own
        "tie_embeddings": True,
        "logit_bias": True,
        "pad_token_id": 50_283,
        "initializer": "normal",
    },
    {
        "modernbert_base": (
            "149 million (149,014,272 without the head)",
            size(22, 768, 12, intermediate_dim=1152, block_overrides=_modern_blocks(22)),
        ),
        "modernbert_large": (
            "395 million (394,781,696 without the head)",
            size(28, 1024, 16, intermediate_dim=2624, block_overrides=_modern_blocks(28)),
        ),
    },
    kind="encoder_only",
    source='Warner et al. 2024, "ModernBERT", section 2.1 and table 4',
    summary="rotary positions, GeGLU, no biases; two of three blocks see 64 tokens to each side",
)
