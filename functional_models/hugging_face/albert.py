"""ELECTRA and ALBERT: BERT with embeddings of another width, and blocks that share weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face import bert
from functional_models.hugging_face.classes import CLASSES, classifier
from functional_models.hugging_face.family import Family, Layers
from functional_models.hugging_face.rules import PADDING, activation, without
from functional_models.hugging_face.silent import CLASSIFIER, CLASSIFIER_DROPOUT, NOT_READ


def _width(read: Callable[[Config], dict[str, Any]]) -> Rule:
    return Rule(("embedding_size",), read, lambda spec: {"embedding_size": spec.embedding_dim})


# ELECTRA ----------------------------------------------------------------------------------------


def _electra_width(config: Config) -> dict[str, Any]:
    width = config["embedding_size"]
    is_projected = width != config["hidden_size"]
    return {"embedding_dim": width, "embedding_projection": "sum" if is_projected else "tokens"}


_ELECTRA = Family(
    model_types=("electra",),
    heads={
        "ElectraForMaskedLM": bert.GELU_HEAD,
        "ElectraModel": {},
        **classifier("Electra", "gelu"),
    },
    constants=forms.BERT,
    fields=bert.SIZES,
    rules=(activation("hidden_act"), PADDING, bert.DROPOUT, _width(_electra_width), CLASSES),
    defaults={**bert.DEFAULTS, "pad_token_id": 0, "embedding_size": 128},
    required=bert.ABSOLUTE,
    silent={
        "classifier_dropout": CLASSIFIER_DROPOUT,
        **dict.fromkeys(
            ("summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout"),
            CLASSIFIER,
        ),
    },
    prefix="electra.",
    layers=bert.layers_with(
        {
            "encoder.embedding_projection": "embeddings_project",
            "masked_lm_head.dense": "generator_predictions.dense",
            "masked_lm_head.norm": "generator_predictions.LayerNorm",
            "logits": "generator_lm_head",
            **bert.OWN_POOLER,
        }
    ),
    tied=(("embeddings.word_embeddings.weight", "generator_lm_head.weight"),),
    unread=bert.POSITION_IDS,
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
        **bert.EMBEDDINGS,
        "encoder.embedding_projection": "encoder.embedding_hidden_mapping_in",
        **{
            f"{bert.BLOCK}.self_attention.{role}": f"{block}.attention.{role}"
            for role in ("query", "key", "value")
        },
        f"{bert.BLOCK}.self_attention.output": f"{block}.attention.dense",
        f"{bert.BLOCK}.self_attention.norm": f"{block}.attention.LayerNorm",
        f"{bert.BLOCK}.feedforward.up": f"{block}.ffn",
        f"{bert.BLOCK}.feedforward.down": f"{block}.ffn_output",
        f"{bert.BLOCK}.feedforward.norm": f"{block}.full_layer_layer_norm",
        "pooler.dense": "pooler",
        "masked_lm_head.dense": "predictions.dense",
        "masked_lm_head.norm": "predictions.LayerNorm",
        "logits": bert.logits_of("predictions.decoder", "predictions.bias", config),
        "classifier.logits": "classifier",
    }


def _albert_dropout(config: Config) -> dict[str, Any]:
    rate = config["hidden_dropout_prob"]
    return {"dropout": rate, "embedding_dropout": rate, "feedforward_dropout": 0.0}


_ALBERT = Family(
    model_types=("albert",),
    heads={"AlbertForMaskedLM": bert.MASKED_LM, "AlbertModel": {}, **classifier("Albert")},
    constants={**forms.BERT, "embedding_projection": "sum"},
    fields=without(bert.SIZES, "num_hidden_layers"),
    rules=(
        activation("hidden_act"),
        PADDING,
        Rule(
            ("hidden_dropout_prob",),
            _albert_dropout,
            lambda spec: {"hidden_dropout_prob": spec.dropout},
        ),
        _width(_albert_width),
        Rule(
            ("num_hidden_layers", "num_hidden_groups", "inner_group_num"),
            _albert_blocks,
            _written_albert_blocks,
        ),
        CLASSES,
    ),
    defaults={
        **bert.DEFAULTS,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "num_hidden_groups": 1,
        "inner_group_num": 1,
        "embedding_size": 128,
        "pad_token_id": 0,
    },
    required=bert.ABSOLUTE,
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
            NOT_READ,
        ),
    },
    prefix="albert.",
    layers=_albert_layers,
    tied=bert.tied_logits("predictions.decoder", "predictions.bias"),
    unread=bert.POSITION_IDS,
    left_out={
        "predictions.bias": bert.OLD_BIAS,
        **dict.fromkeys(
            ("sop_classifier.classifier.weight", "sop_classifier.classifier.bias"),
            "the head of sentence-order prediction, which AlbertForMaskedLM does not have",
        ),
    },
    stored=bert.has_pooler,
)

FAMILIES: tuple[Family, ...] = (_ELECTRA, _ALBERT)
