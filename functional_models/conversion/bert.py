"""BERT, RoBERTa, DistilBERT, ELECTRA, ALBERT and BART."""

from __future__ import annotations

from typing import Any

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import (
    EVERYWHERE,
    SIZES_AND_LENGTH,
    Config,
    Family,
    Part,
    Rule,
    block_layers,
)

_BERT = {**forms.BERT, "activation": "gelu"}
_WITH_POOLER = {
    **forms.BERT,
    "activation": "gelu_tanh",
    "norm_epsilon": 1e-12,
    "pooler": True,
}


def _layers(blocks: str, projection: str) -> dict[str, str | Part]:
    """Return the layers of an encoder with segments, a pooler and projected embeddings."""
    return {
        "encoder.token_embedding": "token_embedding.embeddings",
        "encoder.position_embedding": "position_embedding",
        "encoder.segment_embedding": "segment_embedding",
        "encoder.embedding_norm": "embeddings_layer_norm",
        "encoder.embedding_projection": projection,
        **block_layers("encoder.block_{i}", blocks),
        "pooler.dense": "pooled_dense",
    }


def _electra_width(config: Config) -> dict[str, Any]:
    width = config["embedding_dim"]
    is_projected = width != config["hidden_dim"]
    return {"embedding_dim": width, "embedding_projection": "sum" if is_projected else "tokens"}


def _albert_blocks(config: Config) -> dict[str, Any]:
    """Return the blocks, which are used in turn, and how many of them have weights of their own."""
    passes, distinct = config["num_layers"], config["num_inner_repetitions"]
    return {"num_layers": passes * distinct, "distinct_blocks": distinct if passes > 1 else None}


def _written_albert_blocks(spec: TransformerSpec) -> dict[str, Any]:
    distinct = spec.distinct_blocks or spec.num_layers
    return {"num_layers": spec.num_layers // distinct, "num_inner_repetitions": distinct}


FAMILIES: tuple[Family, ...] = (
    Family(
        "BertBackbone",
        _WITH_POOLER,
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
    Family(
        "ElectraBackbone",
        _WITH_POOLER,
        {
            **{"vocab_size" if n == "vocabulary_size" else n: n for n in SIZES_AND_LENGTH},
            "num_segments": "num_segments",
        },
        _layers("transformer_layers.{i}", "embeddings_projection"),
        (
            EVERYWHERE,
            Rule(
                ("embedding_dim",),
                _electra_width,
                lambda spec: {"embedding_dim": spec.embedding_dim},
            ),
        ),
        defaults={"pad_token_id": 0},
    ),
    Family(
        "AlbertBackbone",
        {**_WITH_POOLER, "embedding_projection": "sum"},
        {
            **{name: name for name in SIZES_AND_LENGTH if name != "num_layers"},
            "embedding_dim": "embedding_dim",
            "num_segments": "num_segments",
        },
        _layers("transformer_layers.0.{i}", "embeddings_projection"),
        (
            EVERYWHERE,
            Rule(("num_layers", "num_inner_repetitions"), _albert_blocks, _written_albert_blocks),
        ),
        # Blocks of several groups follow each other, unlike the distinct blocks of a spec.
        required={"num_groups": 1},
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
