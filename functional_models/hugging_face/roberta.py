"""RoBERTa, XLM-R and CamemBERT: BERT with positions that start after the padding token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face import bert
from functional_models.hugging_face.classes import CLASSES, classifier
from functional_models.hugging_face.family import Computed, Family, Read
from functional_models.hugging_face.rules import activation, without
from functional_models.hugging_face.silent import CLASSIFIER_DROPOUT


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
    return {f"{name}ForMaskedLM": bert.GELU_HEAD, f"{name}Model": {}, **classifier(name)}


FAMILIES: tuple[Family, ...] = tuple(
    Family(
        model_types=(model_type,),
        heads=_roberta_heads(name),
        constants=forms.BERT,
        fields=without(bert.SIZES, "max_position_embeddings", "type_vocab_size"),
        rules=(
            activation("hidden_act"),
            bert.DROPOUT,
            Rule(
                ("pad_token_id", "max_position_embeddings", "type_vocab_size"),
                _roberta_positions,
                _written_roberta_positions,
            ),
            CLASSES,
        ),
        defaults={**bert.DEFAULTS, "pad_token_id": 1},
        required=bert.ABSOLUTE,
        silent={"classifier_dropout": CLASSIFIER_DROPOUT},
        prefix="roberta.",
        layers=lambda spec, config: {
            **bert.layers_with(
                {
                    "masked_lm_head.dense": "lm_head.dense",
                    "masked_lm_head.norm": "lm_head.layer_norm",
                    "logits": bert.logits_of("lm_head.decoder", "lm_head.bias", config),
                    **(bert.OWN_POOLER if spec.classes else {}),
                }
            ),
            "encoder.position_embedding": Computed(_position_rows, _written_position_rows),
        },
        left_out={
            "lm_head.bias": bert.OLD_BIAS,
            **dict.fromkeys(("pooler.dense.weight", "pooler.dense.bias"), _UNUSED_POOLER),
        },
        tied=bert.tied_logits("lm_head.decoder", "lm_head.bias"),
        unread=bert.POSITION_IDS,
        stored=bert.has_pooler,
    )
    for model_type, name in (
        ("roberta", "Roberta"),
        ("xlm-roberta", "XLMRoberta"),
        ("camembert", "Camembert"),
    )
)
