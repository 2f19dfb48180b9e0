"""GPT-2, OPT, GPT-NeoX and BLOOM."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from functional_models.conversion import forms
from functional_models.conversion.family import (
    EVERYWHERE,
    NO_DROPOUT,
    SIZES,
    SIZES_AND_LENGTH,
    Family,
    Part,
    Rule,
    attention_layers,
    block_layers,
    unpadded,
)

_TIED = {"tie_embeddings": True}

_NEOX_ROTATION = Rule(
    ("rotary_percentage",),
    lambda config: {
        "rotary_dim": int(config["hidden_dim"] // config["num_heads"] * config["rotary_percentage"])
    },
    lambda spec: {"rotary_percentage": spec.rotary_dim / spec.head_dim},
)


def _third(number: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.split(array, 3, axis=-1)[number]


FAMILIES: tuple[Family, ...] = (
    *(
        Family(
            backbone,
            {**forms.GPT, **_TIED, "activation": activation},
            SIZES_AND_LENGTH,
            {
                "decoder.token_embedding": f"{prefix}token_embedding.embeddings",
                "decoder.position_embedding": f"{prefix}position_embedding",
                **block_layers("decoder.block_{i}", "transformer_layers.{i}"),
                "decoder.final_norm": "layer_norm",
            },
            (EVERYWHERE,),
            defaults={"pad_token_id": None},
        )
        for backbone, activation, prefix in (
            ("GPT2Backbone", "gelu_tanh", ""),
            ("OPTBackbone", "relu", "embeddings."),
        )
    ),
    Family(
        "GPTNeoXBackbone",
        {**forms.NEOX, **_TIED, "activation": "gelu_tanh"},
        {
            **SIZES_AND_LENGTH,
            "rotary_max_wavelength": "rotary_base",
            "layer_norm_epsilon": "norm_epsilon",
        },
        {
            "decoder.token_embedding": "token_embedding.embeddings",
            **block_layers("decoder.block_{i}", "transformer_layers.{i}"),
            **{
                f"decoder.block_{{i}}.self_attention.{role}": Part(
                    "transformer_layers.{i}._self_attention_layer._qkv_dense", _third(number)
                )
                for number, role in enumerate(("query", "key", "value"))
            },
            "decoder.final_norm": "layer_norm",
        },
        (EVERYWHERE, _NEOX_ROTATION),
        defaults={"pad_token_id": None},
    ),
    Family(
        "BloomBackbone",
        {**forms.BLOOM, **_TIED},
        {**SIZES, "layer_norm_epsilon": "norm_epsilon"},
        {
            "decoder.token_embedding": "token_embedding.embeddings",
            "decoder.embedding_norm": "embeddings_layer_norm",
            **attention_layers(
                "decoder.block_{i}.self_attention", "transformer_layers.{i}._self_attention_layer"
            ),
            "decoder.block_{i}.self_attention.norm": (
                "transformer_layers.{i}._pre_attention_layernorm"
            ),
            "decoder.block_{i}.feedforward.up": "transformer_layers.{i}._mlp_intermediate_dense",
            "decoder.block_{i}.feedforward.down": "transformer_layers.{i}._mlp_output_dense",
            "decoder.block_{i}.feedforward.norm": (
                "transformer_layers.{i}._post_attention_layernorm"
            ),
            "decoder.final_norm": "layer_norm",
        },
        required=NO_DROPOUT,
        defaults=unpadded(2048),
    ),
)
