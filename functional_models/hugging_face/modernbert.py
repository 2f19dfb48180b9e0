"""ModernBERT: an encoder with rotary positions, and windows in two of three blocks."""

from __future__ import annotations

from typing import Any

from builders import TransformerSpec
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face.block_types import (
    BLOCKS,
    FULL,
    SLIDING,
    every,
    rotary_by_type,
    window_fields,
    written_layer_types,
    written_window,
)
from functional_models.hugging_face.family import Family, Layers, Place
from functional_models.hugging_face.gpt import fused, third
from functional_models.hugging_face.phi3 import row_parts
from functional_models.hugging_face.rules import (
    PADDING,
    SIZES,
    activation_named,
    several,
    without,
    written_activation,
)
from functional_models.hugging_face.silent import CLASSIFIER, EXECUTION, NOT_READ, TRAINING

_BLOCK, _THEIRS = "encoder.block_{i}", "layers.{i}"
_PERIOD = "global_attn_every_n_layers"
_TYPES = every(3, _PERIOD, first=True)
_ACTIVATION_KEYS = ("hidden_activation", "classifier_activation")
_HEADS = {"ModernBertForMaskedLM": {"masked_lm_head": True}, "ModernBertModel": {}}


def _activations(config: Config) -> dict[str, Any]:
    """Read the activation, which that of the head must equal."""
    own, head = (activation_named(key, config[key]) for key in _ACTIVATION_KEYS)
    if config.get("architectures") == ["ModernBertForMaskedLM"] and own != head:
        raise ValueError(
            f"hidden_activation={own!r} and classifier_activation={head!r}: a spec has one "
            "activation for the blocks and the head; save the model without its head"
        )
    return {"activation": own}


_ACTIVATIONS = Rule(
    _ACTIVATION_KEYS,
    _activations,
    lambda spec: {
        **dict.fromkeys(_ACTIVATION_KEYS, written_activation(spec)),
        "classifier_bias": True,  # the projection of the head has a bias here
    },
)


def _blocks(config: Config) -> dict[str, Any]:
    """Read windows of as many tokens on either side; the first block has no norm of its input."""
    types, period = _TYPES(config), config[_PERIOD]
    if period is not None and types != _TYPES({**config, "layer_types": None}):
        raise ValueError(
            f"layer_types={types!r} and {_PERIOD}={period!r} contradict each other; transformers "
            "4 reads the latter, and 5 the former"
        )
    found: dict[str, Any] = window_fields(types, config["local_attention"] // 2 + 1)
    return {
        BLOCKS: [{**own, "attention_norm": number > 0} for number, own in enumerate(found[BLOCKS])]
    }


def _written_blocks(spec: TransformerSpec) -> dict[str, Any]:
    types, window = written_layer_types(spec), written_window(spec, 65)
    later = types[1:].index(FULL) if FULL in types[1:] else len(types)
    return {
        "local_attention": 2 * ((window or 1) - 1),
        "layer_types": types,
        _PERIOD: later + 1,  # as transformers 4 reads it
    }


_WINDOWS = Rule(("local_attention",), _blocks, _written_blocks, optional=("layer_types", _PERIOD))


def _layers(spec: TransformerSpec, config: Config) -> Layers:
    parts = {"gate": ("gate",), "up": ("gate", "up")}
    bias = "head.dense.bias" if config["classifier_bias"] else ""
    return {
        "encoder.token_embedding": "embeddings.tok_embeddings",
        "encoder.embedding_norm": "embeddings.norm",
        f"{_BLOCK}.self_attention.norm": f"{_THEIRS}.attn_norm",
        **fused(f"{_THEIRS}.attn.Wqkv", third, block=_BLOCK),
        f"{_BLOCK}.self_attention.output": f"{_THEIRS}.attn.Wo",
        f"{_BLOCK}.feedforward.norm": f"{_THEIRS}.mlp_norm",
        **{
            f"{_BLOCK}.feedforward.{role}": Place(
                f"{_THEIRS}.mlp.Wi.weight", f"{_THEIRS}.mlp.Wi.bias", row_parts(*names)
            )
            for role, names in parts.items()
        },
        f"{_BLOCK}.feedforward.down": f"{_THEIRS}.mlp.Wo",
        "encoder.final_norm": "final_norm",
        "masked_lm_head.dense": Place("head.dense.weight", bias),
        "masked_lm_head.norm": "head.norm",
        "logits": "decoder",
    }


FAMILIES: tuple[Family, ...] = (
    Family(
        model_types=("modernbert",),
        heads=_HEADS,
        constants={
            "kind": "encoder_only",
            "norm_placement": "pre",
            "embedding_norm": True,
            "positions": "rotary",
            "feedforward": "glu",
            "feedforward_dropout": 0.0,
        },
        fields={
            **without(SIZES, "attention_dropout"),
            "intermediate_size": "intermediate_dim",
            "norm_eps": "norm_epsilon",
            "norm_bias": "norm_bias",
            "attention_bias": "attention_bias",
            "mlp_bias": "feedforward_bias",
            "mlp_dropout": "activation_dropout",
            "embedding_dropout": "embedding_dropout",
            "decoder_bias": "logit_bias",
        },
        rules=(
            _ACTIVATIONS,
            PADDING,
            several("attention_dropout", "attention_dropout", "dropout"),
            _WINDOWS,
            rotary_by_type(
                _TYPES,
                {FULL: "global_rope_theta", SLIDING: "local_rope_theta"},
                {FULL: 160_000.0, SLIDING: 10_000.0},
                scaled=(FULL, SLIDING),
            ),
        ),
        defaults={
            "hidden_activation": "gelu",
            "classifier_activation": "gelu",
            "classifier_bias": False,
            "norm_eps": 1e-5,
            "norm_bias": False,
            "attention_bias": False,
            "mlp_bias": False,
            "mlp_dropout": 0.0,
            "embedding_dropout": 0.0,
            "attention_dropout": 0.0,
            "decoder_bias": True,
            "tie_word_embeddings": True,
            "local_attention": 128,
            "pad_token_id": 50283,
        },
        never_null=("global_rope_theta", "local_rope_theta"),
        silent={
            "classifier_bias": "says whether the head has a bias, which is read",
            "classifier_pooling": CLASSIFIER,
            "classifier_dropout": CLASSIFIER,
            "deterministic_flash_attn": EXECUTION,
            "reference_compile": EXECUTION,
            "repad_logits_with_grad": EXECUTION,
            "initializer_cutoff_factor": TRAINING,
            "sparse_prediction": TRAINING,
            "sparse_pred_ignore_index": TRAINING,
            "layer_norm_eps": NOT_READ,
            "position_embedding_type": NOT_READ,
        },
        layers=_layers,
        prefix="model.",
        tied=(("embeddings.tok_embeddings.weight", "decoder.weight"),),
    ),
)
