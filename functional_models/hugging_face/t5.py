"""T5, mT5 and umT5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face.family import (
    NEEDS_TIED,
    Family,
    Layers,
    StoredTensors,
)
from functional_models.hugging_face.rules import (
    PADDING,
    activation_named,
    several,
    written_activation,
)
from functional_models.hugging_face.silent import CLASSIFIER, NOT_READ, TRAINING

TABLES = (
    "shared.weight",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
    "lm_head.weight",
)
"""The tensors of one table of tokens."""


def _feedforward(config: Config) -> dict[str, Any]:
    """Read "relu" or "gated-gelu"; the two other keys are copies of what it means."""
    given = config["feed_forward_proj"]
    kind, _, name = given.rpartition("-")
    if kind not in ("", "gated"):
        raise ValueError(f"feed_forward_proj={given!r}: must be an activation, or 'gated-' and one")
    if given == "gated-gelu":
        name = "gelu_new"
    function, gated = config["dense_act_fn"], config["is_gated_act"]
    if function not in (None, name) or gated not in (None, kind == "gated"):
        raise ValueError(
            f"feed_forward_proj={given!r}, dense_act_fn={function!r} and is_gated_act={gated!r} "
            "contradict each other; remove the last two"
        )
    found = activation_named("feed_forward_proj", name)
    return {"feedforward": "glu" if kind else "mlp", "activation": found}


def _written_feedforward(spec: TransformerSpec) -> dict[str, Any]:
    name = written_activation(spec)
    gated = f"gated-{'gelu' if name == 'gelu_new' else name}"
    return {"feed_forward_proj": gated if spec.feedforward == "glu" else name}


_FEEDFORWARD = Rule(
    ("feed_forward_proj",),
    _feedforward,
    _written_feedforward,
    optional=("dense_act_fn", "is_gated_act"),
)

_DEPTH = Rule(
    ("num_layers",),
    lambda config: {
        "num_encoder_layers": config["num_layers"],
        "num_layers": config["num_decoder_layers"] or config["num_layers"],
    },
    lambda spec: {"num_layers": spec.num_encoder_layers, "num_decoder_layers": spec.num_layers},
    optional=("num_decoder_layers",),
)


def _scale(config: Config) -> dict[str, Any]:
    tied, scaled = config["tie_word_embeddings"], config["scale_decoder_outputs"]
    return {"tie_embeddings": tied, "scale_logits": tied if scaled is None else scaled}


_TIE = Rule(
    ("tie_word_embeddings",),
    _scale,
    lambda spec: {"tie_word_embeddings": spec.tie_embeddings},
    optional=("scale_decoder_outputs",),
)


def _is_tied(tensors: StoredTensors, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Transformers 5 writes that logits are tied also where the folder has other weights."""
    if not fields["scale_logits"] and tensors.differ("shared.weight", "lm_head.weight"):
        return {"tie_embeddings": False}
    return {}


def _scale_mt5(config: Config) -> dict[str, Any]:
    """Transformers 4 scales hidden states before tied logits of mT5, transformers 5 does not."""
    tied, version = config["tie_word_embeddings"], config["transformers_version"]
    is_new = str(version).partition(".")[0] not in ("None", "2", "3", "4")
    return {"tie_embeddings": tied, "scale_logits": tied and not is_new}


_TIE_MT5 = Rule(
    ("tie_word_embeddings",),
    _scale_mt5,
    lambda spec: {"tie_word_embeddings": False},  # tied logits are written as those of T5
    optional=("transformers_version",),
)


def _layers(spec: TransformerSpec, config: Config) -> Layers:
    up = "wi_1" if spec.feedforward == "glu" else "wi"
    layers = {"token_embedding": "shared", "logits": "lm_head"}
    for side, attentions in (
        ("encoder", {"self_attention": "SelfAttention"}),
        ("decoder", {"self_attention": "SelfAttention", "cross_attention": "EncDecAttention"}),
    ):
        ours, theirs = f"{side}.block_{{i}}", f"{side}.block.{{i}}.layer"
        for number, (part, name) in enumerate(attentions.items()):
            for role in ("query", "key", "value", "output"):
                layers[f"{ours}.{part}.{role}"] = f"{theirs}.{number}.{name}.{role[0]}"
            layers[f"{ours}.{part}.norm"] = f"{theirs}.{number}.layer_norm"
        last = len(attentions)
        dense = f"{theirs}.{last}.DenseReluDense"
        layers[f"{ours}.feedforward.norm"] = f"{theirs}.{last}.layer_norm"
        layers[f"{ours}.feedforward.gate"] = f"{dense}.wi_0"
        layers[f"{ours}.feedforward.up"] = f"{dense}.{up}"
        layers[f"{ours}.feedforward.down"] = f"{dense}.wo"
        biases = f"{side}.block.{{}}.layer.0.SelfAttention.relative_attention_bias"
        if spec.relative_by_block:
            layers[f"{ours}.self_attention.relative_position_bias"] = biases.format("{i}")
        else:
            layers[f"{side}.relative_position_bias"] = biases.format(0)
        layers[f"{side}.final_norm"] = f"{side}.final_layer_norm"
    return layers


_RULES = (
    PADDING,
    _FEEDFORWARD,
    _DEPTH,
    several(
        "dropout_rate",
        "dropout",
        "attention_dropout",
        "embedding_dropout",
        "activation_dropout",
        "final_dropout",
    ),
)
_SHARED: dict[str, Any] = {
    "constants": forms.T5,
    "fields": {
        "vocab_size": "vocabulary_size",
        "d_model": "hidden_dim",
        "d_kv": "head_dim",
        "d_ff": "intermediate_dim",
        "num_heads": "num_heads",
        "n_positions": "max_sequence_length",
        "relative_attention_num_buckets": "relative_buckets",
        "relative_attention_max_distance": "relative_max_distance",
        "layer_norm_epsilon": "norm_epsilon",
    },
    "silent": {"classifier_dropout": CLASSIFIER, "initializer_factor": TRAINING},
    "aliases": {"hidden_size": "d_model", "num_attention_heads": "num_heads"}
    | {"num_hidden_layers": "num_layers", "head_dim": "d_kv"},
    "layers": _layers,
    "tied": (TABLES,),
    "unread": {
        r"EncDecAttention\.relative_attention_bias\.weight": "a bias of cross-attention, which no "
        "version of T5 uses"
    },
}
_DEFAULTS: dict[str, Any] = {
    "n_positions": 512,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "dropout_rate": 0.1,
    "pad_token_id": 0,
}
# Both are false then. Transformers 4 has no scale_decoder_outputs.
_NEVER_NULL = ("scale_decoder_outputs", "is_gated_act")

FAMILIES: tuple[Family, ...] = (
    Family(
        model_types=("t5",),
        heads={"T5ForConditionalGeneration": {}, "T5Model": NEEDS_TIED},
        defaults={**_DEFAULTS, "feed_forward_proj": "relu", "tie_word_embeddings": True},
        never_null=_NEVER_NULL,
        stored=_is_tied,
        **{**_SHARED, "rules": (*_RULES, _TIE)},
    ),
    Family(
        model_types=("mt5",),
        heads={"MT5ForConditionalGeneration": {}},
        defaults={**_DEFAULTS, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        never_null=("is_gated_act",),
        stored=_is_tied,
        **{**_SHARED, "rules": (*_RULES, _TIE_MT5)},
    ),
    Family(
        model_types=("umt5",),
        heads={"UMT5ForConditionalGeneration": {}, "UMT5Model": NEEDS_TIED},
        defaults={**_DEFAULTS, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": True},
        never_null=_NEVER_NULL,
        stored=_is_tied,
        **{
            **_SHARED,
            "constants": {**forms.T5, "relative_by_block": True},
            "rules": (*_RULES, _TIE),
            "silent": {**_SHARED["silent"], "scalable_attention": NOT_READ},
        },
    ),
)
