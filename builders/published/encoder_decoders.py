"""Encoder-decoders: T5 and its successors, Switch, BART, Marian and other translators."""

from __future__ import annotations

from typing import Any

from builders.published.families import register_family, size

_T5: dict[str, Any] = {
    "vocabulary_size": 32_128,
    "max_sequence_length": 512,
    "norm_placement": "pre",
    "norm": "rms",
    "norm_epsilon": 1e-6,
    "positions": "relative",
    "feedforward_bias": False,
    "attention_bias": False,
    "attention_scale": 1.0,
    "share_embeddings": True,
    "pad_token_id": 0,
    "mask_target_padding": False,
    "initializer": "t5",
}

_T5_V1_0: dict[str, Any] = {
    **_T5,
    "activation": "relu",
    "tie_embeddings": True,
    "scale_logits": True,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "embedding_dropout": 0.1,
    "activation_dropout": 0.1,
    "final_dropout": 0.1,
}

register_family(
    _T5_V1_0,
    {
        "t5_small": ("60,506,624", size(6, 512, 8)),
        "t5_base": ("222,903,552", size(12, 768, 12)),
        "t5_large": ("737,668,096", size(24, 1024, 16)),
        "t5_3b": (
            "2,851,598,336",
            size(24, 1024, 32, head_dim=128, intermediate_dim=16_384),
        ),
        "t5_11b": (
            "11,307,321,344",
            size(24, 1024, 128, head_dim=128, intermediate_dim=65_536),
        ),
    },
    kind="encoder_decoder",
    source='Raffel et al. 2020, "T5", sections 2.1 and 3.7, and the released weights of v1.0',
    summary="relative position biases, unscaled scores, ReLU, no biases, tied embeddings",
)

register_family(
    {**_T5, "feedforward": "glu", "activation": "gelu_tanh", "head_dim": 64},
    {
        "t5_v1.1_small": ("76,961,152", size(8, 512, 6, intermediate_dim=1024)),
        "t5_v1.1_base": ("247,577,856", size(12, 768, 12, intermediate_dim=2048)),
        "t5_v1.1_large": ("783,150,080", size(24, 1024, 16, intermediate_dim=2816)),
        "t5_v1.1_xl": ("2,849,757,184", size(24, 2048, 32, intermediate_dim=5120)),
        "t5_v1.1_xxl": ("11,135,332,352", size(24, 4096, 64, intermediate_dim=10_240)),
    },
    kind="encoder_decoder",
    source='Raffel et al. 2020, "T5", section 2.1; Shazeer 2020; the released weights of v1.1',
    summary="relative position biases, unscaled scores, GeGLU, no biases",
)

register_family(
    {
        "vocabulary_size": 50_265,
        "max_sequence_length": 1024,
        "norm_placement": "post",
        "embedding_norm": True,
        "positions": "learned",
        "activation": "gelu",
        "share_embeddings": True,
        "tie_embeddings": True,
        "dropout": 0.1,
        "feedforward_dropout": 0.1,
        "attention_dropout": 0.1,
        "embedding_dropout": 0.1,
        "pad_token_id": 1,
        "initializer": "normal",
    },
    {
        "bart_base": (
            "140 million (the release, with 3,072 unused parameters)",
            size(6, 768, 12),
        ),
        "bart_large": (
            "400 million (the release, with 4,096 unused parameters)",
            size(12, 1024, 16),
        ),
    },
    kind="encoder_decoder",
    source='Lewis et al. 2020, "BART", section 2.1, and the released weights',
    summary="post-norm, GELU, norms after the embeddings, shared and tied embeddings",
)

register_family(
    {
        "vocabulary_size": 58_101,
        "max_sequence_length": 512,
        "norm_placement": "post",
        "positions": "sinusoidal_concat",
        "activation": "silu",
        "scale_embeddings": True,
        "share_embeddings": True,
        "tie_embeddings": True,
        "logit_bias": True,
        "dropout": 0.1,
        "pad_token_id": 58_100,
        "mask_target_padding": False,  # targets start with it
    },
    {"opus_mt_en_de": ("74 million (73,944,309 without the sinusoidal tables)", size(6, 512, 8))},
    kind="encoder_decoder",
    source="Tiedemann and Thottingal 2020, OPUS-MT; Junczys-Dowmunt et al. 2018, Marian",
    summary="Marian's transformer-base: SiLU, shared and tied embeddings, concatenated sinusoids",
)

register_family(
    {**_T5, "feedforward": "glu", "activation": "gelu_tanh", "head_dim": 64},
    {
        "mt5_small": (
            "300 million",
            size(8, 512, 6, intermediate_dim=1024, vocabulary_size=250_112),
        ),
        "mt5_base": (
            "582 million",
            size(12, 768, 12, intermediate_dim=2048, vocabulary_size=250_112),
        ),
        "byt5_small": (
            "300 million",
            size(4, 1472, 6, num_encoder_layers=12, intermediate_dim=3584, vocabulary_size=384),
        ),
    },
    kind="encoder_decoder",
    source='Xue et al. 2021, "mT5", section 3.2; Xue et al. 2022, "ByT5", table 1',
    summary="T5 v1.1 for 101 languages; ByT5 reads bytes, with a deep encoder",
)

register_family(
    {**_T5, "feedforward": "glu", "activation": "silu", "head_dim": 256},
    {"ul2_20b": ("19.5 billion", size(32, 4096, 16, intermediate_dim=16_384))},
    kind="encoder_decoder",
    source='Tay et al. 2022, "UL2", section 5.1, and the released configuration',
    summary="T5 v1.1 with SwiGLU and few wide heads",
)

_MULTILINGUAL: dict[str, Any] = {
    "max_sequence_length": 1024,
    "norm_placement": "pre",
    "scale_embeddings": True,
    "share_embeddings": True,
    "tie_embeddings": True,
    "dropout": 0.1,
    "pad_token_id": 1,
    "initializer": "normal",
}

register_family(
    {**_MULTILINGUAL, "vocabulary_size": 250_027, "positions": "learned", "activation": "gelu"}
    | {"embedding_norm": True},
    {
        "mbart_cc25": (
            "610 million (610,847,744 without 4,096 unused position embeddings)",
            size(12, 1024, 16),
        )
    },
    kind="encoder_decoder",
    source='Liu et al. 2020, "mBART", section 2.2, and the released configuration',
    summary="BART with norms first and scaled embeddings, for 25 languages",
)

register_family(
    {**_MULTILINGUAL, "positions": "sinusoidal_concat", "activation": "relu", "pad_token_id": 0}
    | {"vocabulary_size": 96_103},
    {"pegasus_large": ("568 million", size(16, 1024, 16))},
    kind="encoder_decoder",
    source='Zhang et al. 2020, "PEGASUS", section 6, and the released configuration',
    summary="pre-norm, ReLU, concatenated sinusoids, for summaries",
)

register_family(
    {**_MULTILINGUAL, "positions": "sinusoidal_concat", "activation": "relu"}
    | {"vocabulary_size": 128_112},
    {
        "m2m100_418m": ("484 million", size(12, 1024, 16)),
        "m2m100_1.2b": ("1.24 billion", size(24, 1024, 16, intermediate_dim=8192)),
        "nllb_600m": ("615 million", size(12, 1024, 16, vocabulary_size=256_206)),
        "nllb_1.3b": (
            "1.37 billion",
            size(24, 1024, 16, intermediate_dim=8192, vocabulary_size=256_206),
        ),
        "nllb_3.3b": ("3.3 billion", size(24, 2048, 16, vocabulary_size=256_206)),
    },
    kind="encoder_decoder",
    source='Fan et al. 2021, "M2M-100"; NLLB Team 2022; the released configurations',
    summary="pre-norm, ReLU, concatenated sinusoids, between 100 or 200 languages",
)

register_family(
    {
        **_T5_V1_0,
        "renormalize_scores": False,
        "balance_loss": 0.01,
        "capacity_factor": 1.25,
        "block_overrides": ({}, {"num_experts": 8, "num_active_experts": 1}),
    },
    {"switch_base_8": ("", size(12, 768, 12))},
    kind="encoder_decoder",
    source='Fedus et al. 2022, "Switch Transformers", sections 2.2 and 2.4; the released weights',
    summary="T5 with 8 experts in every other block, of which a token goes through 1",
)
