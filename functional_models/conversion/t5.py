"""T5, whose two kinds of feed-forward layers share a KerasHub backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import (
    SIZES,
    Config,
    Family,
    Part,
    Rule,
    attention_layers,
    dropout,
)

_T5_NAMES = {**SIZES, "key_value_dim": "head_dim", "layer_norm_epsilon": "norm_epsilon"}

_GELU_TANH = "keras_hub>gelu_approximate"


def _read_activation(config: Config) -> dict[str, Any]:
    given = config["activation"]
    name = given["config"] if isinstance(given, Mapping) else given
    return {"activation": {_GELU_TANH: "gelu_tanh"}.get(name, name)}


def _write_activation(spec: TransformerSpec) -> dict[str, Any]:
    by_name = {"class_name": "function", "config": _GELU_TANH, "registered_name": "function"}
    tanh = {"module": "builtins", **by_name}
    return {"activation": tanh if spec.activation == "gelu_tanh" else spec.activation}


_ACTIVATION = Rule(("activation",), _read_activation, _write_activation)

_T5_TIE = Rule(  # T5 scales the hidden states before tied logits
    ("tie_embedding_weights",),
    lambda config: dict.fromkeys(
        ("tie_embeddings", "scale_logits"), config["tie_embedding_weights"]
    ),
    lambda spec: {"tie_embedding_weights": spec.tie_embeddings},
)

_T5_RULES = (
    _ACTIVATION,
    _T5_TIE,
    dropout("attention_dropout", "embedding_dropout", "activation_dropout", "final_dropout"),
)


def _t5_layers(feedforward: Mapping[str, str]) -> dict[str, str | Part]:
    layers: dict[str, str | Part] = {
        "token_embedding": "token_embedding.embeddings",
        "logits": "token_embedding.reverse_embeddings",
    }
    for side, attentions in (
        ("encoder", ["self_attention"]),
        ("decoder", ["self_attention", "cross_attention"]),
    ):
        ours, theirs = f"{side}.block_{{i}}", f"{side}_transformer_layers.{{i}}"
        for part in attentions:
            layers |= attention_layers(f"{ours}.{part}", f"{theirs}.{part}", "{role}_projector")
            layers[f"{ours}.{part}.norm"] = f"{theirs}.{part}_layer_norm"
        for role, name in feedforward.items():
            layers[f"{ours}.feedforward.{role}"] = f"{theirs}.{name}"
        layers[f"{ours}.feedforward.norm"] = f"{theirs}.layer_norm"
        first = f"{side}_transformer_layers.0.self_attention"
        layers[f"{side}.relative_position_bias"] = f"{first}.relative_attention_bias"
        layers[f"{side}.final_norm"] = f"{side}_layer_norm"
    return layers


FAMILIES: tuple[Family, ...] = (
    Family(
        "T5Backbone",
        {**forms.T5, "feedforward": "glu"},
        _T5_NAMES,
        _t5_layers({"gate": "input_projector", "up": "gate_projector", "down": "output_projector"}),
        _T5_RULES,
        required={"use_gated_activation": True},
        defaults={"max_sequence_length": 512, "pad_token_id": 0},
        target_start="padding",
    ),
    Family(
        "T5Backbone",
        {**forms.T5, "feedforward": "mlp"},
        _T5_NAMES,
        _t5_layers({"up": "input_projector", "down": "output_projector"}),
        _T5_RULES,
        required={"use_gated_activation": False},
        defaults={"max_sequence_length": 512, "pad_token_id": 0},
        target_start="padding",
    ),
)
