"""Published architectures, with one row of data for each size of a family.

Parameter counts equal those of the released weights exactly, unless the row says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from builders.registry import register_variant
from builders.spec import TransformerSpec

Sizes = Mapping[str, tuple[str, Mapping[str, Any]]]


def register_family(
    common: Mapping[str, Any], sizes: Sizes, *, source: str, summary: str, kind: str
) -> None:
    """Register each size of a family.

    Args:
        common: fields of all sizes.
        sizes: the published parameter count and the fields of each size, by variant name.
        source: the paper, with section or table.
        summary: what distinguishes the family, for listings.
        kind: the kind of model.
    """
    for name, (parameters, fields) in sizes.items():
        register_variant(
            name=name, kinds=(kind,), source=source, parameters=parameters, summary=summary
        )(partial(TransformerSpec, kind=kind, **{**common, **fields}))


def size(layers: int, width: int, heads: int, **fields: Any) -> dict[str, Any]:
    """Return the fields of a size, from the columns in most papers' tables."""
    return {"num_layers": layers, "hidden_dim": width, "num_heads": heads, **fields}


_GPT2: dict[str, Any] = {
    "vocabulary_size": 50_257,
    "max_sequence_length": 1024,
    "norm_placement": "pre",
    "positions": "learned",
    "activation": "gelu_tanh",
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "embedding_dropout": 0.1,
    "tie_embeddings": True,
    "pad_token_id": None,  # token 0 is "!"
    "initializer": "depth_scaled",
}

register_family(
    {**_GPT2, "vocabulary_size": 40_478, "max_sequence_length": 512, "norm_placement": "post"}
    | {"initializer": "normal"},
    {"gpt1": ("116,534,784 (the released weights)", size(12, 768, 12))},
    kind="decoder_only",
    source='Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training"',
    summary="the decoder of Vaswani et al. 2017 with learned positions and tied embeddings",
)

register_family(
    _GPT2,
    {
        "gpt2_small": (
            "124,439,808 (the released weights; the paper's table says 117 million)",
            size(12, 768, 12),
        ),
        "gpt2_medium": ("354,823,168 (the released weights)", size(24, 1024, 16)),
        "gpt2_large": ("774,030,080 (the released weights)", size(36, 1280, 20)),
        "gpt2_xl": ("1,557,611,200 (the released weights)", size(48, 1600, 25)),
    },
    kind="decoder_only",
    source='Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", table 2',
    summary="pre-norm, learned positions, tied embeddings, output projections initialized by depth",
)

register_family(
    {**_GPT2, "max_sequence_length": 2048},
    {
        "gpt3_small": ("125 million", size(12, 768, 12)),
        "gpt3_medium": ("350 million", size(24, 1024, 16)),
        "gpt3_large": ("760 million", size(24, 1536, 16)),
        # The table's 24 heads of 128 are wider than the model; 16 give its parameter count.
        "gpt3_xl": ("1.3 billion", size(24, 2048, 16)),
        "gpt3_2.7b": ("2.7 billion", size(32, 2560, 32)),
        "gpt3_6.7b": ("6.7 billion", size(32, 4096, 32)),
        "gpt3_13b": ("13.0 billion", size(40, 5140, 40, head_dim=128)),
        "gpt3_175b": ("175.0 billion", size(96, 12_288, 96)),
    },
    kind="decoder_only",
    source='Brown et al. 2020, "Language Models are Few-Shot Learners", table 2.1',
    summary="GPT-2 with 2048 positions; all attention is dense (the paper alternates with banded)",
)

register_family(
    {
        "max_sequence_length": 2048,
        "vocabulary_size": 50_272,
        "norm_placement": "pre",
        "positions": "learned",
        "activation": "relu",
        "dropout": 0.1,
        "tie_embeddings": True,
        "pad_token_id": 1,
    },
    {
        "opt_125m": ("125 million", size(12, 768, 12)),
        "opt_350m": (
            "331 million (the released weights; the table says 350)",
            size(24, 1024, 16, norm_placement="post", embedding_dim=512),
        ),
        "opt_1.3b": ("1.3 billion", size(24, 2048, 32)),
        "opt_2.7b": ("2.7 billion", size(32, 2560, 32)),
        "opt_6.7b": ("6.7 billion", size(32, 4096, 32)),
        "opt_13b": ("13 billion", size(40, 5120, 40)),
        "opt_30b": ("30 billion", size(48, 7168, 56)),
        "opt_66b": ("66 billion", size(64, 9216, 72)),
        "opt_175b": ("175 billion", size(96, 12_288, 96)),
    },
    kind="decoder_only",
    source='Zhang et al. 2022, "OPT: Open Pre-trained Transformer Language Models", table 1',
    summary="GPT-3 with ReLU (350M: post-norm), without the two unused position embeddings",
)

register_family(
    {
        "vocabulary_size": 50_304,
        "max_sequence_length": 2048,
        "norm_placement": "parallel",
        "positions": "rotary",
        "activation": "gelu",
        "pad_token_id": None,
    },
    {
        "pythia_70m": ("70,426,624", size(6, 512, 8, rotary_dim=16)),
        "pythia_160m": ("162,322,944", size(12, 768, 12, rotary_dim=16)),
        "pythia_410m": ("405,334,016", size(24, 1024, 16, rotary_dim=16)),
        "pythia_1b": ("1,011,781,632", size(16, 2048, 8, rotary_dim=64)),
        "pythia_1.4b": ("1,414,647,808", size(24, 2048, 16, rotary_dim=32)),
        "pythia_2.8b": ("2,775,208,960", size(32, 2560, 32, rotary_dim=20)),
        "pythia_6.9b": (
            "6,857,302,016",
            size(32, 4096, 32, rotary_dim=32, vocabulary_size=50_432),
        ),
        "pythia_12b": (
            "11,846,072,320",
            size(36, 5120, 40, rotary_dim=32, vocabulary_size=50_688),
        ),
    },
    kind="decoder_only",
    source='Biderman et al. 2023, "Pythia", table 1',
    summary="parallel attention and feed-forward, rotary positions on a quarter of the channels",
)

register_family(
    {
        "vocabulary_size": 50_432,
        "max_sequence_length": 2048,
        "norm_placement": "parallel",
        "positions": "rotary",
        "activation": "gelu_tanh",
        "pad_token_id": None,
    },
    {"gpt_neox_20b": ("20,554,567,680", size(44, 6144, 64, rotary_dim=24))},
    kind="decoder_only",
    source='Black et al. 2022, "GPT-NeoX-20B", section 2 and table 1',
    summary="parallel attention and feed-forward, rotary positions on a quarter of the channels",
)

register_family(
    {
        "vocabulary_size": 250_880,
        "max_sequence_length": 2048,
        "norm_placement": "pre",
        "embedding_norm": True,
        "positions": "alibi",
        "activation": "gelu_tanh",
        "tie_embeddings": True,
        "pad_token_id": 3,
    },
    {
        "bloom_560m": ("559,214,592", size(24, 1024, 16)),
        "bloom_1.1b": ("1,065,314,304", size(24, 1536, 16)),
        "bloom_1.7b": ("1,722,408,960", size(24, 2048, 16)),
        "bloom_3b": ("3,002,557,440", size(30, 2560, 32)),
        "bloom_7.1b": ("7,069,016,064", size(30, 4096, 32)),
        "bloom_176b": ("176,247,271,424", size(70, 14_336, 112)),
    },
    kind="decoder_only",
    source='BigScience Workshop 2022, "BLOOM", table 3',
    summary="ALiBi, and a norm after the embeddings",
)

_LLAMA: dict[str, Any] = {
    "norm_placement": "pre",
    "norm": "rms",
    "positions": "rotary",
    "feedforward": "glu",
    "activation": "silu",
    "feedforward_bias": False,
    "attention_bias": False,
    "pad_token_id": None,
    "initializer": "normal",
}

register_family(
    {**_LLAMA, "vocabulary_size": 32_000, "max_sequence_length": 4096},
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
        **_LLAMA,
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
        **_LLAMA,
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
    {**_LLAMA, "vocabulary_size": 32_000, "max_sequence_length": 32_768, "norm_epsilon": 1e-5},
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
        )
    },
    kind="decoder_only",
    source='Jiang et al. 2023, "Mistral 7B", table 1 and the released weights',
    summary="grouped-query attention with a sliding window of 4096 tokens",
)

register_family(
    {
        **_LLAMA,
        "vocabulary_size": 256_000,
        "max_sequence_length": 8192,
        "norm_epsilon": 1e-6,
        "norm_offset": True,
        "activation": "gelu_tanh",
        "head_dim": 256,
        "scale_embeddings": True,
        "tie_embeddings": True,
        "pad_token_id": 0,
    },
    {
        "gemma_2b": (
            "2,506,172,416",
            size(18, 2048, 8, intermediate_dim=16_384, num_key_value_heads=1),
        ),
        "gemma_7b": ("8,537,680,896", size(28, 3072, 16, intermediate_dim=24_576)),
    },
    kind="decoder_only",
    source='Gemma Team 2024, "Gemma", table 1 and the released weights',
    summary="GeGLU, norm gains of 1 + weight, heads of 256, a vocabulary of 256,000",
)

register_family(
    {
        **_LLAMA,
        "vocabulary_size": 256_000,
        "max_sequence_length": 8192,
        "norm_placement": "sandwich",
        "norm_epsilon": 1e-6,
        "norm_offset": True,
        "activation": "gelu_tanh",
        "attention_window": 4096,
        "full_attention_every": 2,
        "attention_soft_cap": 50.0,
        "logit_soft_cap": 30.0,
        "scale_embeddings": True,
        "tie_embeddings": True,
        "pad_token_id": 0,
    },
    {
        "gemma2_2b": (
            "2,614,341,888",
            size(26, 2304, 8, intermediate_dim=9216, num_key_value_heads=4, head_dim=256),
        ),
        "gemma2_9b": (
            "9,241,705,984",
            size(42, 3584, 16, intermediate_dim=14_336, num_key_value_heads=8, head_dim=256),
        ),
        "gemma2_27b": (
            "27,227,128,320",
            size(
                46,
                4608,
                32,
                intermediate_dim=36_864,
                num_key_value_heads=16,
                head_dim=128,
                attention_scale=144**-0.5,
            ),
        ),
    },
    kind="decoder_only",
    source='Gemma Team 2024, "Gemma 2", section 2, table 1 and the released weights',
    summary="sandwich norms, soft caps, a sliding window of 4096 tokens in every other block",
)

register_family(
    {
        **_LLAMA,
        "vocabulary_size": 151_936,
        "max_sequence_length": 32_768,
        "norm_epsilon": 1e-6,
        "rotary_base": 1_000_000.0,
        "attention_bias": True,
        "attention_output_bias": False,
    },
    {
        "qwen2.5_0.5b": (
            "494,032,768",
            size(24, 896, 14, intermediate_dim=4864, num_key_value_heads=2, tie_embeddings=True),
        ),
        "qwen2.5_1.5b": (
            "1,543,714,304",
            size(28, 1536, 12, intermediate_dim=8960, num_key_value_heads=2, tie_embeddings=True),
        ),
        "qwen2.5_7b": (
            "7,615,616,512",
            size(
                28,
                3584,
                28,
                intermediate_dim=18_944,
                num_key_value_heads=4,
                vocabulary_size=152_064,
            ),
        ),
    },
    kind="decoder_only",
    source='Qwen Team 2024, "Qwen2.5 Technical Report", table 1 and the released weights',
    summary="Llama with biases in the query, key and value projections only",
)

register_family(
    {
        **_LLAMA,
        "vocabulary_size": 151_936,
        "max_sequence_length": 40_960,
        "norm_epsilon": 1e-6,
        "rotary_base": 1_000_000.0,
        "head_dim": 128,
        "num_key_value_heads": 8,
        "qk_norm": True,
    },
    {
        "qwen3_0.6b": (
            "596,049,920",
            size(28, 1024, 16, intermediate_dim=3072, tie_embeddings=True),
        ),
        "qwen3_4b": (
            "4,022,468,096",
            size(36, 2560, 32, intermediate_dim=9728, tie_embeddings=True),
        ),
        "qwen3_8b": ("8,190,735,360", size(36, 4096, 32, intermediate_dim=12_288)),
    },
    kind="decoder_only",
    source='Qwen Team 2025, "Qwen3 Technical Report", table 1 and the released weights',
    summary="Llama with norms of queries and keys",
)

register_family(
    {
        **_LLAMA,
        "vocabulary_size": 32_064,
        "max_sequence_length": 4096,
        "attention_window": 2047,
    },
    {"phi3_mini_4k": ("3,821,079,552", size(32, 3072, 32, intermediate_dim=8192))},
    kind="decoder_only",
    source='Abdin et al. 2024, "Phi-3 Technical Report", section 2, and the released weights',
    summary="Llama's block with 3072 channels and a sliding window",
)

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

register_family(
    {
        **_T5,
        "activation": "relu",
        "tie_embeddings": True,
        "scale_logits": True,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "embedding_dropout": 0.1,
        "activation_dropout": 0.1,
        "final_dropout": 0.1,
    },
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
