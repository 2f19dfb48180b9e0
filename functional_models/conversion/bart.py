"""BART."""

from __future__ import annotations

from functional_models.conversion.family import EVERYWHERE, SIZES_AND_LENGTH, Family, block_layers

FAMILIES: tuple[Family, ...] = (
    Family(
        "BartBackbone",
        {
            "kind": "encoder_decoder",
            "norm_placement": "post",
            "embedding_norm": True,
            "positions": "learned",
            "activation": "gelu",
            "share_embeddings": True,
            "tie_embeddings": True,
        },
        SIZES_AND_LENGTH,
        {
            "token_embedding": "token_embedding.embeddings",
            "encoder.position_embedding": "encoder_position_embedding",
            "encoder.embedding_norm": "encoder_embeddings_layer_norm",
            **block_layers("encoder.block_{i}", "encoder_transformer_layers.{i}"),
            "decoder.position_embedding": "decoder_position_embedding",
            "decoder.embedding_norm": "decoder_embeddings_layer_norm",
            **block_layers(
                "decoder.block_{i}",
                "decoder_transformer_layers.{i}",
                "self_attention cross_attention",
            ),
        },
        (EVERYWHERE,),
        defaults={"pad_token_id": 1},
        target_start="end, start",
    ),
)
