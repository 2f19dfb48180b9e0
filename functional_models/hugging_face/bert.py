"""BERT, RoBERTa, XLM-R, CamemBERT, DistilBERT, ELECTRA and ALBERT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face.classes import CLASSES, classifier
from functional_models.hugging_face.family import (
    Computed,
    Family,
    Layers,
    Place,
    Read,
    StoredTensors,
)
from functional_models.hugging_face.rules import PADDING, activation, several, without
from functional_models.hugging_face.silent import (
    CLASSIFIER,
    CLASSIFIER_DROPOUT,
    EXECUTION,
    NOT_READ,
    TRAINING,
)

_SIZES = {
    "vocab_size": "vocabulary_size",
    "hidden_size": "hidden_dim",
    "intermediate_size": "intermediate_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "layer_norm_eps": "norm_epsilon",
    "attention_probs_dropout_prob": "attention_dropout",
    "tie_word_embeddings": "tie_embeddings",
}
_DEFAULTS: dict[str, Any] = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "type_vocab_size": 2,
    "tie_word_embeddings": True,
}
_DROPOUT = several("hidden_dropout_prob", "dropout", "embedding_dropout")
_ABSOLUTE = {"position_embedding_type": ("absolute",)}
_MASKED_LM = {"masked_lm_head": True}
_GELU_HEAD = {**_MASKED_LM, "activation": "gelu"}  # whatever the activation of the blocks is
_POSITION_IDS = {
    r"embeddings\.(position|token_type)_ids": "the numbers 0, 1, ..., or zeros",
}


def _has_pooler(tensors: StoredTensors, fields: Mapping[str, Any]) -> dict[str, Any]:
    if fields.get("classes"):  # whose head has it
        return {}
    names = ("pooler.dense.weight", "pooler.weight")
    return {"pooler": any(tensors.find(name) is not None for name in names)}


_BLOCK, _THEIRS = "encoder.block_{i}", "encoder.layer.{i}"

# Transformers 4 stores one bias. Transformers 5 stores two where logits are not tied, and reads
# that of the decoder.
_OLD_BIAS = "a bias that is not read where logits are not tied"


def _logits(decoder: str, bias: str, config: Config) -> Place:
    own = bias if config["tie_word_embeddings"] else f"{decoder}.bias"
    return Place(f"{decoder}.weight", own)


# The pooler of a classifier is part of its head.
_OWN_POOLER = {"pooler.dense": "classifier.dense", "classifier.logits": "classifier.out_proj"}


def _layers(head: Mapping[str, str | Place]) -> Layers:
    """Return the layers of BERT, with those of a masked-language-model head."""
    return {
        "encoder.token_embedding": "embeddings.word_embeddings",
        "encoder.position_embedding": "embeddings.position_embeddings",
        "encoder.segment_embedding": "embeddings.token_type_embeddings",
        "encoder.embedding_norm": "embeddings.LayerNorm",
        **{
            f"{_BLOCK}.self_attention.{role}": f"{_THEIRS}.attention.self.{role}"
            for role in ("query", "key", "value")
        },
        f"{_BLOCK}.self_attention.output": f"{_THEIRS}.attention.output.dense",
        f"{_BLOCK}.self_attention.norm": f"{_THEIRS}.attention.output.LayerNorm",
        f"{_BLOCK}.feedforward.up": f"{_THEIRS}.intermediate.dense",
        f"{_BLOCK}.feedforward.down": f"{_THEIRS}.output.dense",
        f"{_BLOCK}.feedforward.norm": f"{_THEIRS}.output.LayerNorm",
        "pooler.dense": "pooler.dense",
        **head,
    }


def _tied(table: str, decoder: str, bias: str) -> tuple[tuple[str, ...], ...]:
    """Return the tied tensors of a masked-language-model head."""
    return (f"{table}.weight", f"{decoder}.weight"), (bias, f"{decoder}.bias")


# BERT and ELECTRA -------------------------------------------------------------------------------

_PREDICTIONS = "cls.predictions"

_BERT = Family(
    model_types=("bert",),
    heads={"BertForMaskedLM": _MASKED_LM, "BertModel": {}, **classifier("Bert")},
    constants=forms.BERT,
    fields={
        **_SIZES,
        "max_position_embeddings": "max_sequence_length",
        "type_vocab_size": "num_segments",
    },
    rules=(activation("hidden_act"), PADDING, _DROPOUT, CLASSES),
    defaults={**_DEFAULTS, "pad_token_id": 0},
    required=_ABSOLUTE,
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
    layers=lambda spec, config: _layers(
        {
            "masked_lm_head.dense": f"{_PREDICTIONS}.transform.dense",
            "masked_lm_head.norm": f"{_PREDICTIONS}.transform.LayerNorm",
            "logits": _logits(f"{_PREDICTIONS}.decoder", f"{_PREDICTIONS}.bias", config),
            "classifier.logits": "classifier",
        }
    ),
    tied=_tied("embeddings.word_embeddings", f"{_PREDICTIONS}.decoder", f"{_PREDICTIONS}.bias"),
    unread=_POSITION_IDS,
    left_out={
        f"{_PREDICTIONS}.bias": _OLD_BIAS,
        **dict.fromkeys(
            ("cls.seq_relationship.weight", "cls.seq_relationship.bias"),
            "the head of next-sentence prediction, which BertForMaskedLM does not have",
        ),
    },
    stored=_has_pooler,
)


def _electra_width(config: Config) -> dict[str, Any]:
    width = config["embedding_size"]
    is_projected = width != config["hidden_size"]
    return {"embedding_dim": width, "embedding_projection": "sum" if is_projected else "tokens"}


_ELECTRA = Family(
    model_types=("electra",),
    heads={"ElectraForMaskedLM": _GELU_HEAD, "ElectraModel": {}, **classifier("Electra", "gelu")},
    constants=forms.BERT,
    fields={
        **_SIZES,
        "max_position_embeddings": "max_sequence_length",
        "type_vocab_size": "num_segments",
    },
    rules=(
        activation("hidden_act"),
        PADDING,
        _DROPOUT,
        Rule(
            ("embedding_size",), _electra_width, lambda spec: {"embedding_size": spec.embedding_dim}
        ),
        CLASSES,
    ),
    defaults={**_DEFAULTS, "pad_token_id": 0, "embedding_size": 128},
    required=_ABSOLUTE,
    silent={
        "classifier_dropout": CLASSIFIER_DROPOUT,
        **dict.fromkeys(
            ("summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout"),
            CLASSIFIER,
        ),
    },
    prefix="electra.",
    layers=_layers(
        {
            "encoder.embedding_projection": "embeddings_project",
            "masked_lm_head.dense": "generator_predictions.dense",
            "masked_lm_head.norm": "generator_predictions.LayerNorm",
            "logits": "generator_lm_head",
            **_OWN_POOLER,
        }
    ),
    tied=(("embeddings.word_embeddings.weight", "generator_lm_head.weight"),),
    unread=_POSITION_IDS,
)

# ALBERT -----------------------------------------------------------------------------------------


def _albert_width(config: Config) -> dict[str, Any]:
    width = config["embedding_size"]
    if width == config["hidden_size"]:
        raise ValueError(
            f"embedding_size={width!r} and hidden_size={width!r}: ALBERT projects embeddings of "
            "that width too, and no spec does"
        )
    return {"embedding_dim": width}


def _albert_blocks(config: Config) -> dict[str, Any]:
    """Return the blocks, which are used in turn, and how many of them have weights of their own."""
    passes, groups = config["num_hidden_layers"], config["num_hidden_groups"]
    distinct = config["inner_group_num"]
    if groups == passes and distinct == 1 and passes > 1:  # each block is used once
        return {"num_layers": groups, "distinct_blocks": None}
    if groups != 1:
        raise ValueError(
            f"num_hidden_groups={groups!r} and num_hidden_layers={passes!r}: consecutive blocks "
            "share weights there, and a spec uses its distinct blocks in turn"
        )
    return {"num_layers": passes * distinct, "distinct_blocks": distinct if passes > 1 else None}


def _written_albert_blocks(spec: TransformerSpec) -> dict[str, Any]:
    number, distinct = spec.num_layers, spec.distinct_blocks
    if distinct is None:
        return {"num_hidden_layers": number, "num_hidden_groups": number, "inner_group_num": 1}
    passes = number // distinct
    return {"num_hidden_layers": passes, "num_hidden_groups": 1, "inner_group_num": distinct}


def _albert_layers(spec: TransformerSpec, config: Config) -> Layers:
    is_one_group = config["num_hidden_groups"] == 1
    place = "0.albert_layers.{i}" if is_one_group else "{i}.albert_layers.0"
    block = f"encoder.albert_layer_groups.{place}"
    return {
        "encoder.token_embedding": "embeddings.word_embeddings",
        "encoder.position_embedding": "embeddings.position_embeddings",
        "encoder.segment_embedding": "embeddings.token_type_embeddings",
        "encoder.embedding_norm": "embeddings.LayerNorm",
        "encoder.embedding_projection": "encoder.embedding_hidden_mapping_in",
        **{
            f"{_BLOCK}.self_attention.{role}": f"{block}.attention.{role}"
            for role in ("query", "key", "value")
        },
        f"{_BLOCK}.self_attention.output": f"{block}.attention.dense",
        f"{_BLOCK}.self_attention.norm": f"{block}.attention.LayerNorm",
        f"{_BLOCK}.feedforward.up": f"{block}.ffn",
        f"{_BLOCK}.feedforward.down": f"{block}.ffn_output",
        f"{_BLOCK}.feedforward.norm": f"{block}.full_layer_layer_norm",
        "pooler.dense": "pooler",
        "masked_lm_head.dense": "predictions.dense",
        "masked_lm_head.norm": "predictions.LayerNorm",
        "logits": _logits("predictions.decoder", "predictions.bias", config),
        "classifier.logits": "classifier",
    }


def _albert_dropout(config: Config) -> dict[str, Any]:
    rate = config["hidden_dropout_prob"]
    return {"dropout": rate, "embedding_dropout": rate, "feedforward_dropout": 0.0}


_ALBERT = Family(
    model_types=("albert",),
    heads={"AlbertForMaskedLM": _MASKED_LM, "AlbertModel": {}, **classifier("Albert")},
    constants={**forms.BERT, "embedding_projection": "sum"},
    fields={
        **without(_SIZES, "num_hidden_layers"),
        "max_position_embeddings": "max_sequence_length",
        "type_vocab_size": "num_segments",
    },
    rules=(
        activation("hidden_act"),
        PADDING,
        Rule(
            ("hidden_dropout_prob",),
            _albert_dropout,
            lambda spec: {"hidden_dropout_prob": spec.dropout},
        ),
        Rule(
            ("embedding_size",), _albert_width, lambda spec: {"embedding_size": spec.embedding_dim}
        ),
        Rule(
            ("num_hidden_layers", "num_hidden_groups", "inner_group_num"),
            _albert_blocks,
            _written_albert_blocks,
        ),
        CLASSES,
    ),
    defaults={
        **_DEFAULTS,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "num_hidden_groups": 1,
        "inner_group_num": 1,
        "embedding_size": 128,
        "pad_token_id": 0,
    },
    required=_ABSOLUTE,
    silent={
        "classifier_dropout_prob": CLASSIFIER_DROPOUT,
        **dict.fromkeys(
            (
                "down_scale_factor",
                "gap_size",
                "layers_to_keep",
                "net_structure_type",
                "num_memory_blocks",
            ),
            "not read by transformers",
        ),
    },
    prefix="albert.",
    layers=_albert_layers,
    tied=_tied("embeddings.word_embeddings", "predictions.decoder", "predictions.bias"),
    unread=_POSITION_IDS,
    left_out={
        "predictions.bias": _OLD_BIAS,
        **dict.fromkeys(
            ("sop_classifier.classifier.weight", "sop_classifier.classifier.bias"),
            "the head of sentence-order prediction, which AlbertForMaskedLM does not have",
        ),
    },
    stored=_has_pooler,
)

# RoBERTa ----------------------------------------------------------------------------------------


def _roberta_positions(config: Config) -> dict[str, Any]:
    """Positions start after the padding token, at the row `pad_token_id` + 1 of the table."""
    pad, segments = config["pad_token_id"], config["type_vocab_size"]
    return {
        "pad_token_id": pad,
        "max_sequence_length": config["max_position_embeddings"] - pad - 1,
        "num_segments": segments if segments > 1 else 0,
    }


def _written_roberta_positions(spec: TransformerSpec) -> dict[str, Any]:
    if spec.pad_token_id is None:
        return {}
    return {
        "pad_token_id": spec.pad_token_id,
        "max_position_embeddings": spec.max_sequence_length + spec.pad_token_id + 1,
        "type_vocab_size": max(spec.num_segments, 1),
    }


def _position_rows(read: Read, spec: TransformerSpec) -> np.ndarray:
    """Return the position vectors; the vector of the one segment, if there is one, is in them."""
    rows = read("embeddings.position_embeddings.weight")[(spec.pad_token_id or 0) + 1 :]
    if spec.num_segments:
        return rows
    return rows.astype("float32") + read("embeddings.token_type_embeddings.weight")


def _written_position_rows(rows: np.ndarray, spec: TransformerSpec) -> dict[str, np.ndarray]:
    skipped = np.zeros(((spec.pad_token_id or 0) + 1, rows.shape[1]), rows.dtype)
    tensors = {"embeddings.position_embeddings.weight": np.concatenate([skipped, rows])}
    if not spec.num_segments:
        tensors["embeddings.token_type_embeddings.weight"] = np.zeros_like(rows[:1])
    return tensors


_UNUSED_POOLER = "the pooler of the model without a head, which its classifier does not use"


def _roberta_heads(name: str) -> dict[str, Mapping[str, Any]]:
    return {f"{name}ForMaskedLM": _GELU_HEAD, f"{name}Model": {}, **classifier(name)}


_ROBERTA = tuple(
    Family(
        model_types=(model_type,),
        heads=_roberta_heads(name),
        constants=forms.BERT,
        fields=_SIZES,
        rules=(
            activation("hidden_act"),
            _DROPOUT,
            Rule(
                ("pad_token_id", "max_position_embeddings", "type_vocab_size"),
                _roberta_positions,
                _written_roberta_positions,
            ),
            CLASSES,
        ),
        defaults={**_DEFAULTS, "pad_token_id": 1},
        required=_ABSOLUTE,
        silent={"classifier_dropout": CLASSIFIER_DROPOUT},
        prefix="roberta.",
        layers=lambda spec, config: {
            **_layers(
                {
                    "masked_lm_head.dense": "lm_head.dense",
                    "masked_lm_head.norm": "lm_head.layer_norm",
                    "logits": _logits("lm_head.decoder", "lm_head.bias", config),
                    **(_OWN_POOLER if spec.classes else {}),
                }
            ),
            "encoder.position_embedding": Computed(_position_rows, _written_position_rows),
        },
        left_out={
            "lm_head.bias": _OLD_BIAS,
            **dict.fromkeys(("pooler.dense.weight", "pooler.dense.bias"), _UNUSED_POOLER),
        },
        tied=_tied("embeddings.word_embeddings", "lm_head.decoder", "lm_head.bias"),
        unread=_POSITION_IDS,
        stored=_has_pooler,
    )
    for model_type, name in (
        ("roberta", "Roberta"),
        ("xlm-roberta", "XLMRoberta"),
        ("camembert", "Camembert"),
    )
)

# DistilBERT -------------------------------------------------------------------------------------

_D = "transformer.layer.{i}"

_DISTILBERT = Family(
    model_types=("distilbert",),
    heads={
        "DistilBertForMaskedLM": _MASKED_LM,
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
            f"{_BLOCK}.self_attention.{role}": f"{_D}.attention.{name}_lin"
            for role, name in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "out"))
        },
        f"{_BLOCK}.self_attention.norm": f"{_D}.sa_layer_norm",
        f"{_BLOCK}.feedforward.up": f"{_D}.ffn.lin1",
        f"{_BLOCK}.feedforward.down": f"{_D}.ffn.lin2",
        f"{_BLOCK}.feedforward.norm": f"{_D}.output_layer_norm",
        "masked_lm_head.dense": "vocab_transform",
        "masked_lm_head.norm": "vocab_layer_norm",
        "logits": "vocab_projector",
        "pooler.dense": "pre_classifier",
        "classifier.logits": "classifier",
    },
    tied=(("embeddings.word_embeddings.weight", "vocab_projector.weight"),),
    unread=_POSITION_IDS,
)

FAMILIES: tuple[Family, ...] = (_BERT, *_ROBERTA, _DISTILBERT, _ELECTRA, _ALBERT)
