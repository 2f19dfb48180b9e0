"""GPT and the decoders that followed it: GPT-1 to 3, OPT, Pythia, GPT-NeoX, BLOOM, MPT."""

from __future__ import annotations

from typing import Any

from builders.published.families import register_family, size

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

register_family(
    {
        "vocabulary_size": 50_432,
        "max_sequence_length": 2048,
        "norm_placement": "pre",
        "norm_bias": False,
        "positions": "alibi",
        "activation": "gelu",
        "attention_bias": False,
        "feedforward_bias": False,
        "tie_embeddings": True,
        "pad_token_id": None,
        "initializer": "normal",
    },
    {
        "mpt_7b": ("6.7 billion", size(32, 4096, 32)),
        "mpt_30b": ("30 billion", size(48, 7168, 64, max_sequence_length=8192)),
    },
    kind="decoder_only",
    source="MosaicML NLP Team 2023, MPT, the released configurations",
    summary="ALiBi, tied embeddings, no biases at all",
)
