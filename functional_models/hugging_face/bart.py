"""BART, mBART, Pegasus, Marian and M2M100."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face.family import (
    NEEDS_TIED,
    Computed,
    Family,
    Layers,
    Place,
    Read,
    StoredTensors,
)
from functional_models.hugging_face.gpt import skipped
from functional_models.hugging_face.rules import PADDING, activation, equal, several, without
from functional_models.hugging_face.silent import CLASSIFIER, ORIGIN, TRAINING
from functional_models.hugging_face.t5 import TABLES

_ROLES = {"query": "q", "key": "k", "value": "v", "output": "out"}
_POSITIONS = "embed_positions.weight"


def _has_bias(tensors: StoredTensors, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return whether logits have a bias; where it is zero, it is left out."""
    bias = tensors.find("final_logits_bias")
    has_bias = bias is not None and bool(np.any(bias))
    return {"logit_bias": has_bias, **_has_two_tables(tensors, fields)}


def _has_two_tables(tensors: StoredTensors, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return whether the stacks have tables of their own, as transformers 5 makes untied ones."""
    tables = [f"{side}.embed_tokens.weight" for side in ("encoder", "decoder")]
    two = any(tensors.differ("shared.weight", table) for table in tables)
    return {"share_embeddings": False} if two and not fields["tie_embeddings"] else {}


def _layers(position: Callable[[str], Place | Computed | None]) -> Layers:
    layers: dict[str, Any] = {
        "token_embedding": "shared",
        "logits": Place("lm_head.weight", "final_logits_bias"),
    }
    for side in ("encoder", "decoder"):
        ours, theirs = f"{side}.block_{{i}}", f"{side}.layers.{{i}}"
        attentions = {"self_attention": "self_attn"}
        if side == "decoder":
            attentions["cross_attention"] = "encoder_attn"
        for part, name in attentions.items():
            for role, letter in _ROLES.items():
                layers[f"{ours}.{part}.{role}"] = f"{theirs}.{name}.{letter}_proj"
            layers[f"{ours}.{part}.norm"] = f"{theirs}.{name}_layer_norm"
        layers[f"{ours}.feedforward.up"] = f"{theirs}.fc1"
        layers[f"{ours}.feedforward.down"] = f"{theirs}.fc2"
        layers[f"{ours}.feedforward.norm"] = f"{theirs}.final_layer_norm"
        layers[f"{side}.token_embedding"] = f"{side}.embed_tokens"
        layers[f"{side}.embedding_norm"] = f"{side}.layernorm_embedding"
        layers[f"{side}.final_norm"] = f"{side}.layer_norm"
        layers[f"{side}.position_embedding"] = position(side)
    return layers


def _learned(side: str) -> Place:
    return Place(f"{side}.{_POSITIONS}", part=skipped(2))


def _tensor2tensor_rows(read: Read, spec: TransformerSpec) -> np.ndarray:
    """Return sinusoids from the position after the padding token on, as in tensor2tensor.

    Wavelengths grow by 10000^(1 / (d/2 - 1)), where the spec's sinusoids have 10000^(1 / (d/2)).
    """
    half, first = spec.hidden_dim // 2, (spec.pad_token_id or 0) + 1
    frequencies = np.exp(np.arange(half) * -(math.log(10_000) / (half - 1)))
    angles = np.arange(first, first + spec.max_sequence_length)[:, None] * frequencies
    rows = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return np.pad(rows, ((0, 0), (0, spec.hidden_dim % 2)))


def _written_tensor2tensor_rows(rows: np.ndarray, spec: TransformerSpec) -> dict[str, np.ndarray]:
    expected = _tensor2tensor_rows(lambda name: rows, spec)
    if not np.allclose(rows, expected, atol=1e-5):
        raise ValueError("its position vectors are trained, and those of m2m_100 are sinusoids")
    return {}


def _sinusoids(spec: TransformerSpec) -> np.ndarray:
    """Return the table of `sinusoidal_concat`."""
    half = spec.hidden_dim // 2
    frequencies = 10_000 ** -(np.arange(half) / half)
    angles = np.arange(spec.max_sequence_length)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


_SIZES = {
    "vocab_size": "vocabulary_size",
    "d_model": "hidden_dim",
    "encoder_layers": "num_encoder_layers",
    "decoder_layers": "num_layers",
    "max_position_embeddings": "max_sequence_length",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "scale_embedding": "scale_embeddings",
    "tie_word_embeddings": "tie_embeddings",
}
_RULES = (
    activation("activation_function"),
    PADDING,
    equal("encoder_attention_heads", "decoder_attention_heads", "num_heads"),
    equal("encoder_ffn_dim", "decoder_ffn_dim", "intermediate_dim"),
    several("dropout", "dropout", "embedding_dropout"),
)
_DEFAULTS: dict[str, Any] = {
    "activation_function": "gelu",
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "scale_embedding": False,
    "tie_word_embeddings": True,
    "pad_token_id": 1,
}
_SILENT = {
    **dict.fromkeys(("classifier_dropout", "classif_dropout"), CLASSIFIER),
    **dict.fromkeys(("init_std", "encoder_layerdrop", "decoder_layerdrop"), TRAINING),
    **dict.fromkeys(
        (
            "_num_labels",
            "extra_pos_embeddings",
            "replacing_rate",
            "save_step",
            "student_encoder_layers",
            "student_decoder_layers",
        ),
        ORIGIN,
    ),
}
_ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "encoder_attention_heads",
    "num_hidden_layers": "encoder_layers",
}
_UNREAD_TABLE = {"shared.weight": "it is not read where both stacks have their own table"}
# Targets are not masked: those of Marian and Pegasus start with the padding token.
_BART = {**forms.BART, "mask_target_padding": False}


def _flags(pre: bool, embedding_norm: bool, sinusoids: bool) -> dict[str, tuple[Any, ...]]:
    """Return the values of keys of old folders, which the class implies now."""
    return {
        "normalize_before": (pre,),
        "add_final_layer_norm": (pre,),
        "normalize_embedding": (embedding_norm,),
        "static_position_embeddings": (sinusoids,),
        "add_bias_logits": (False,),
    }


def _family(name: str, model_type: str, **changes: Any) -> Family:
    common: dict[str, Any] = {
        "model_types": (model_type,),
        "heads": {f"{name}ForConditionalGeneration": {}, f"{name}Model": NEEDS_TIED},
        "fields": _SIZES,
        "rules": _RULES,
        "defaults": _DEFAULTS,
        "silent": _SILENT,
        "aliases": _ALIASES,
        "prefix": "model.",
        "tied": (TABLES,),
        "stored": _has_bias,
        "left_out": _UNREAD_TABLE,
        "unread": {"final_logits_bias": "a bias of zeros"},
    }
    return Family(**{**common, **changes})


def _marian_vocabularies(config: Config) -> dict[str, Any]:
    shared, decoder = config["share_encoder_decoder_embeddings"], config["decoder_vocab_size"]
    source = config["vocab_size"]
    target = source if decoder is None else decoder
    if shared and target != source:
        raise ValueError(
            f"decoder_vocab_size={decoder!r} and vocab_size={source!r}: must be equal where "
            "share_encoder_decoder_embeddings=True"
        )
    return {
        "share_embeddings": shared,
        "vocabulary_size": target,
        "source_vocabulary_size": None if shared else source,
    }


_PRE = {**_BART, "norm_placement": "pre"}
_SINUSOIDAL = {"embedding_norm": False, "positions": "sinusoidal_concat"}
_STORED_SINUSOIDS = {f"{side}.{_POSITIONS}": _sinusoids for side in ("encoder", "decoder")}

FAMILIES: tuple[Family, ...] = (
    _family(
        "Bart",
        "bart",
        constants=_BART,
        layers=_layers(_learned),
        required=_flags(pre=False, embedding_norm=True, sinusoids=False),
    ),
    _family(
        "MBart",
        "mbart",
        constants=_PRE,
        layers=_layers(_learned),
        required=_flags(pre=True, embedding_norm=True, sinusoids=False),
    ),
    _family(
        "Pegasus",
        "pegasus",
        constants={**_PRE, **_SINUSOIDAL},
        layers=_layers(lambda side: None),
        defaults={**_DEFAULTS, "pad_token_id": 0},
        required=_flags(pre=True, embedding_norm=False, sinusoids=True),
        computed=_STORED_SINUSOIDS,
    ),
    Family(
        model_types=("marian",),
        heads={"MarianMTModel": {}, "MarianModel": NEEDS_TIED},
        constants={**without(_BART, "share_embeddings"), **_SINUSOIDAL},
        fields=without(_SIZES, "vocab_size"),
        rules=(
            *_RULES,
            Rule(
                ("share_encoder_decoder_embeddings", "vocab_size"),
                _marian_vocabularies,
                lambda spec: {
                    "share_encoder_decoder_embeddings": spec.share_embeddings,
                    "vocab_size": spec.source_vocabulary_size,
                    "decoder_vocab_size": spec.vocabulary_size,
                },
                optional=("decoder_vocab_size",),
            ),
        ),
        layers=_layers(lambda side: None),
        defaults={
            **_DEFAULTS,
            "pad_token_id": 58100,
            "share_encoder_decoder_embeddings": True,
        },
        required=_flags(pre=False, embedding_norm=False, sinusoids=True),
        silent=_SILENT,
        aliases=_ALIASES,
        prefix="model.",
        tied=(TABLES,),
        computed=_STORED_SINUSOIDS,
        unread={"final_logits_bias": "a bias of zeros"},
        stored=_has_bias,
        left_out=_UNREAD_TABLE,
    ),
    _family(
        "M2M100",
        "m2m_100",
        constants={**_PRE, "embedding_norm": False},
        layers=_layers(lambda side: Computed(_tensor2tensor_rows, _written_tensor2tensor_rows)),
        defaults={
            **_DEFAULTS,
            "activation_function": "relu",
            "attention_dropout": 0.1,
            "scale_embedding": True,
        },
        required=_flags(pre=True, embedding_norm=False, sinusoids=True),
        unread={r"embed_positions\.weights": "sinusoids, which are computed"},
        stored=_has_two_tables,
    ),
)
