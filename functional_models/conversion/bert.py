"""BERT, RoBERTa, DistilBERT and BART."""

from __future__ import annotations

from functional_models.conversion import forms
from functional_models.conversion.family import EVERYWHERE, SIZES_AND_LENGTH, Family, block_layers

_BERT = {**forms.BERT, "activation": "gelu"}

FAMILIES: tuple[Family, ...] = (
    Family(
        "BertBackbone",
        {**_BERT, "activation": "gelu_tanh", "norm_epsilon": 1e-12, "pooler": True},
        {**SIZES_AND_LENGTH, "num_segments": "num_segments"},
        {
            "encoder.token_embedding": "token_embedding.embeddings",
            "encoder.position_embedding": "position_embedding",
            "encoder.segment_embedding": "segment_embedding",
            "encoder.embedding_norm": "embeddings_layer_norm",
            **block_layers("encoder.block_{i}", "transformer_layers.{i}"),
            "pooler.dense": "pooled_dense",
        },
        (EVERYWHERE,),
        defaults={"pad_token_id": 0},
    ),
    *(
        Family(
            backbone,
            {**_BERT, "norm_epsilon": epsilon},
            SIZES_AND_LENGTH,
            {
                "encoder.token_embedding": "embeddings.token_embedding.embeddings",
                "encoder.position_embedding": "embeddings.position_embedding",
                "encoder.embedding_norm": "embeddings_layer_norm",
                **block_layers("encoder.block_{i}", "transformer_layers.{i}"),
            },
            (EVERYWHERE,),
            defaults={"pad_token_id": pad},
        )
        for backbone, epsilon, pad in (
            ("RobertaBackbone", 1e-5, 1),
            ("DistilBertBackbone", 1e-12, 0),
        )
    ),
    Family(
        "BartBackbone",
        {**forms.BART, "activation": "gelu", "tie_embeddings": True},
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
