"""DistilBERT: BERT without segments, with names of its own for keys and tensors."""

from __future__ import annotations

from functional_models.conversion import forms
from functional_models.hugging_face import bert
from functional_models.hugging_face.classes import CLASSES, classifier
from functional_models.hugging_face.family import Family
from functional_models.hugging_face.rules import PADDING, activation, several
from functional_models.hugging_face.silent import (
    CLASSIFIER,
    CLASSIFIER_DROPOUT,
    EXECUTION,
    TRAINING,
)

_THEIRS = "transformer.layer.{i}"

_DISTILBERT = Family(
    model_types=("distilbert",),
    heads={
        "DistilBertForMaskedLM": bert.MASKED_LM,
        "DistilBertModel": {},
        **classifier("DistilBert", "relu"),
    },
    constants={**forms.BERT, "norm_epsilon": 1e-12},
    fields={
        "vocab_size": "vocabulary_size",
        "dim": "hidden_dim",
        "hidden_dim": "intermediate_dim",
        "n_layers": "num_layers",
        "n_heads": "num_heads",
        "max_position_embeddings": "max_sequence_length",
        "attention_dropout": "attention_dropout",
        "tie_word_embeddings": "tie_embeddings",
    },
    rules=(
        activation("activation"),
        PADDING,
        several("dropout", "feedforward_dropout", "embedding_dropout"),
        CLASSES,
    ),
    defaults={
        "activation": "gelu",
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
    },
    silent={
        "sinusoidal_pos_embds": TRAINING,  # how the table of positions starts
        "tie_weights_": EXECUTION,
        "qa_dropout": CLASSIFIER,
        "seq_classif_dropout": CLASSIFIER_DROPOUT,
    },
    aliases={
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
    },
    prefix="distilbert.",
    layers={
        "encoder.token_embedding": "embeddings.word_embeddings",
        "encoder.position_embedding": "embeddings.position_embeddings",
        "encoder.embedding_norm": "embeddings.LayerNorm",
        **{
            f"{bert.BLOCK}.self_attention.{role}": f"{_THEIRS}.attention.{name}_lin"
            for role, name in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "out"))
        },
        f"{bert.BLOCK}.self_attention.norm": f"{_THEIRS}.sa_layer_norm",
        f"{bert.BLOCK}.feedforward.up": f"{_THEIRS}.ffn.lin1",
        f"{bert.BLOCK}.feedforward.down": f"{_THEIRS}.ffn.lin2",
        f"{bert.BLOCK}.feedforward.norm": f"{_THEIRS}.output_layer_norm",
        "masked_lm_head.dense": "vocab_transform",
        "masked_lm_head.norm": "vocab_layer_norm",
        "logits": "vocab_projector",
        "pooler.dense": "pre_classifier",
        "classifier.logits": "classifier",
    },
    tied=(("embeddings.word_embeddings.weight", "vocab_projector.weight"),),
    unread=bert.POSITION_IDS,
)

FAMILIES: tuple[Family, ...] = (_DISTILBERT,)
