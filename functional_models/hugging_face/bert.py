"""BERT, and what the families that follow it share: keys, layers and heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from functional_models.conversion import forms
from functional_models.conversion.family import Config
from functional_models.hugging_face.classes import CLASSES, classifier
from functional_models.hugging_face.family import Family, Layers, Place, StoredTensors
from functional_models.hugging_face.rules import PADDING, activation, several
from functional_models.hugging_face.silent import CLASSIFIER_DROPOUT, NOT_READ

SIZES = {
    "vocab_size": "vocabulary_size",
    "hidden_size": "hidden_dim",
    "intermediate_size": "intermediate_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "layer_norm_eps": "norm_epsilon",
    "attention_probs_dropout_prob": "attention_dropout",
    "tie_word_embeddings": "tie_embeddings",
    "max_position_embeddings": "max_sequence_length",
    "type_vocab_size": "num_segments",
}
DEFAULTS: dict[str, Any] = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "type_vocab_size": 2,
    "tie_word_embeddings": True,
}
DROPOUT = several("hidden_dropout_prob", "dropout", "embedding_dropout")
ABSOLUTE = {"position_embedding_type": ("absolute",)}
MASKED_LM = {"masked_lm_head": True}
GELU_HEAD = {**MASKED_LM, "activation": "gelu"}  # whatever the activation of the blocks is
POSITION_IDS = {r"embeddings\.(position|token_type)_ids": "the numbers 0, 1, ..., or zeros"}


def has_pooler(tensors: StoredTensors, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return whether a model has a pooler, which no key of its configuration says."""
    if fields.get("classes"):  # whose head has it
        return {}
    names = ("pooler.dense.weight", "pooler.weight")
    return {"pooler": any(tensors.find(name) is not None for name in names)}


# Transformers 4 stores one bias. Transformers 5 stores two where logits are not tied, and reads
# that of the decoder.
OLD_BIAS = "a bias that is not read where logits are not tied"


def logits_of(decoder: str, bias: str, config: Config) -> Place:
    """Return the tensors of the logits of a masked-language-model head."""
    own = bias if config["tie_word_embeddings"] else f"{decoder}.bias"
    return Place(f"{decoder}.weight", own)


def tied_logits(decoder: str, bias: str) -> tuple[tuple[str, ...], ...]:
    """Return the tied tensors of a masked-language-model head."""
    return ("embeddings.word_embeddings.weight", f"{decoder}.weight"), (bias, f"{decoder}.bias")


# The pooler of a classifier is part of its head.
OWN_POOLER = {"pooler.dense": "classifier.dense", "classifier.logits": "classifier.out_proj"}

BLOCK, _THEIRS = "encoder.block_{i}", "encoder.layer.{i}"
EMBEDDINGS = {
    "encoder.token_embedding": "embeddings.word_embeddings",
    "encoder.position_embedding": "embeddings.position_embeddings",
    "encoder.segment_embedding": "embeddings.token_type_embeddings",
    "encoder.embedding_norm": "embeddings.LayerNorm",
}


def layers_with(head: Mapping[str, str | Place]) -> Layers:
    """Return the layers of BERT, with those of a masked-language-model head."""
    return {
        **EMBEDDINGS,
        **{
            f"{BLOCK}.self_attention.{role}": f"{_THEIRS}.attention.self.{role}"
            for role in ("query", "key", "value")
        },
        f"{BLOCK}.self_attention.output": f"{_THEIRS}.attention.output.dense",
        f"{BLOCK}.self_attention.norm": f"{_THEIRS}.attention.output.LayerNorm",
        f"{BLOCK}.feedforward.up": f"{_THEIRS}.intermediate.dense",
        f"{BLOCK}.feedforward.down": f"{_THEIRS}.output.dense",
        f"{BLOCK}.feedforward.norm": f"{_THEIRS}.output.LayerNorm",
        "pooler.dense": "pooler.dense",
        **head,
    }


_PREDICTIONS = "cls.predictions"
_DECODER, _BIAS = f"{_PREDICTIONS}.decoder", f"{_PREDICTIONS}.bias"

_BERT = Family(
    model_types=("bert",),
    heads={"BertForMaskedLM": MASKED_LM, "BertModel": {}, **classifier("Bert")},
    constants=forms.BERT,
    fields=SIZES,
    rules=(activation("hidden_act"), PADDING, DROPOUT, CLASSES),
    defaults={**DEFAULTS, "pad_token_id": 0},
    required=ABSOLUTE,
    silent={
        "classifier_dropout": CLASSIFIER_DROPOUT,
        **dict.fromkeys(
            (
                "directionality",
                "pooler_fc_size",
                "pooler_num_attention_heads",
                "pooler_num_fc_layers",
                "pooler_size_per_head",
                "pooler_type",
            ),
            NOT_READ,
        ),
    },
    prefix="bert.",
    layers=lambda spec, config: layers_with(
        {
            "masked_lm_head.dense": f"{_PREDICTIONS}.transform.dense",
            "masked_lm_head.norm": f"{_PREDICTIONS}.transform.LayerNorm",
            "logits": logits_of(_DECODER, _BIAS, config),
            "classifier.logits": "classifier",
        }
    ),
    tied=tied_logits(_DECODER, _BIAS),
    unread=POSITION_IDS,
    left_out={
        _BIAS: OLD_BIAS,
        **dict.fromkeys(
            ("cls.seq_relationship.weight", "cls.seq_relationship.bias"),
            "the head of next-sentence prediction, which BertForMaskedLM does not have",
        ),
    },
    stored=has_pooler,
)


FAMILIES: tuple[Family, ...] = (_BERT,)
