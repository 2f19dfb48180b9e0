"""Backbones of keras-nlp and the specs that compute the same: one row of data for each family.

A row says which spec fields all of a family have, which entries of the backbone's configuration
say what other fields say, and by which attribute of the backbone each of our layers is found. It
is read in both directions; see `functional_models.conversion`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from builders import TransformerSpec

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """Entries of a configuration that together say what some spec fields say.

    Attributes:
        names: of the entries.
        read: the configuration -> spec fields.
        write: a spec -> the entries.
    """

    names: tuple[str, ...]
    read: Callable[[Config], dict[str, Any]]
    write: Callable[[TransformerSpec], dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """Where a weight of ours is inside one of theirs.

    Attributes:
        path: of their layer.
        view: gives, of an array of theirs, the view that is ours.
    """

    path: str
    view: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Family:
    """One kind of backbone.

    Attributes:
        backbone: its class in `keras_hub.models`.
        same: spec fields that all of the family have.
        names: entry of the configuration -> spec field of the same value.
        layers: our layer -> the attribute that is theirs; `{i}` is the number of a block. What
            theirs is called there may also be a single variable.
        rules: for entries that are no plain values of a field.
        where: entries that have this value; others are of another family, or of none.
        ignored: entries that this keras-nlp does not apply: as what value it computes, and the
            spec fields by which ours can do what they ask for.
        defaults: spec fields of which the configuration says nothing, and which change no number
            at the tokens of a text.
        target_start: what comes before a target: the token `start`, `padding`, or `end, start`.
    """

    backbone: str
    same: Mapping[str, Any]
    names: Mapping[str, str]
    layers: Mapping[str, str | Part]
    rules: tuple[Rule, ...] = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    ignored: Mapping[str, tuple[Any, tuple[str, ...]]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    target_start: str = "start"

    def spec(self, config: Config) -> TransformerSpec:
        """Return the spec of a backbone of this configuration."""
        fields = {**self.defaults, **self.same}
        fields |= {name: config[entry] for entry, name in self.names.items()}
        for rule in self.rules:
            fields |= rule.read(config)
        return TransformerSpec(**fields)

    def config(self, spec: TransformerSpec) -> dict[str, Any]:
        """Return the configuration of a backbone that computes a spec, if one can."""
        config = {**self.where, **{entry: value for entry, (value, _) in self.ignored.items()}}
        config |= {entry: getattr(spec, name) for entry, name in self.names.items()}
        for rule in self.rules:
            config |= rule.write(spec)
        return config

    @property
    def entries(self) -> set[str]:
        """The entries of a configuration that are known here."""
        of_rules = [name for rule in self.rules for name in rule.names]
        return {*self.names, *self.where, *self.ignored, *of_rules}


# Rules ------------------------------------------------------------------------------------------


def dropout(*places: str) -> Rule:
    """One rate for several places, `dropout` among them."""
    return Rule(
        ("dropout",),
        lambda config: dict.fromkeys(("dropout", *places), config["dropout"]),
        lambda spec: {"dropout": spec.dropout},
    )


def _read_linear(entry: str) -> Callable[[Config], dict[str, Any]]:
    def read(config: Config) -> dict[str, Any]:
        factor = config[entry]
        return {"rotary_scaling": "none" if factor == 1 else "linear", "rotary_factor": factor}

    return read


def linear_scaling(entry: str) -> Rule:
    """Rotary positions divided by a factor; 1 is no scaling."""
    return Rule((entry,), _read_linear(entry), lambda spec: {entry: spec.rotary_factor})


_LLAMA3_ENTRIES = {
    "rope_frequency_adjustment_factor": "rotary_factor",
    "rope_low_freq_factor": "rotary_slow_turns",
    "rope_high_freq_factor": "rotary_fast_turns",
    "rope_pretraining_sequence_length": "rotary_original_length",
}


def _read_llama_scaling(config: Config) -> dict[str, Any]:
    if config["rope_frequency_adjustment_factor"] is None:
        return {}
    given = {name: config[entry] for entry, name in _LLAMA3_ENTRIES.items()}
    return {"rotary_scaling": "llama3", **given}


def _write_llama_scaling(spec: TransformerSpec) -> dict[str, Any]:
    by_llama3 = spec.rotary_scaling == "llama3"
    return {
        entry: getattr(spec, name) if by_llama3 else None for entry, name in _LLAMA3_ENTRIES.items()
    }


_LLAMA_SCALING = Rule(tuple(_LLAMA3_ENTRIES), _read_llama_scaling, _write_llama_scaling)

_NEOX_ROTATION = Rule(
    ("rotary_percentage",),
    lambda config: {
        "rotary_dim": int(config["hidden_dim"] // config["num_heads"] * config["rotary_percentage"])
    },
    lambda spec: {"rotary_percentage": spec.rotary_dim / spec.head_dim},
)

_QWEN_WINDOW = Rule(
    ("use_sliding_window_attention", "sliding_window_size"),
    lambda config: {
        "attention_window": config["sliding_window_size"]
        if config["use_sliding_window_attention"]
        else None
    },
    lambda spec: {
        "use_sliding_window_attention": spec.attention_window is not None,
        "sliding_window_size": spec.attention_window or 4096,
    },
)

# In Gemma's backbone every second block, from the first on, has the window.
_GEMMA_WINDOW = Rule(
    _QWEN_WINDOW.names,
    lambda config: {
        **_QWEN_WINDOW.read(config),
        "full_attention_every": 2 if config["use_sliding_window_attention"] else None,
    },
    _QWEN_WINDOW.write,
)

_HALF_AS_WIDE = Rule(  # the configuration counts gate and projection together
    ("intermediate_dim",),
    lambda config: {"intermediate_dim": config["intermediate_dim"] // 2},
    lambda spec: {"intermediate_dim": 2 * spec.intermediate_dim},
)

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

_T5_TIE = Rule(  # T5 scales down what goes to a table that is tied
    ("tie_embedding_weights",),
    lambda config: dict.fromkeys(
        ("tie_embeddings", "scale_logits"), config["tie_embedding_weights"]
    ),
    lambda spec: {"tie_embedding_weights": spec.tie_embeddings},
)


# Layers -----------------------------------------------------------------------------------------


def _attention(ours: str, theirs: str, pattern: str = "_{role}_dense") -> dict[str, str]:
    roles = ("query", "key", "value", "output")
    return {f"{ours}.{role}": f"{theirs}.{pattern.format(role=role)}" for role in roles}


def _block(ours: str, theirs: str, attentions: str = "self_attention") -> dict[str, str | Part]:
    """Layers of a block of `keras_hub.layers.TransformerEncoder` or `TransformerDecoder`."""
    layers: dict[str, str | Part] = {
        f"{ours}.feedforward.up": f"{theirs}._feedforward_intermediate_dense",
        f"{ours}.feedforward.down": f"{theirs}._feedforward_output_dense",
        f"{ours}.feedforward.norm": f"{theirs}._feedforward_layer_norm",
    }
    for part in attentions.split():
        layers |= _attention(f"{ours}.{part}", f"{theirs}._{part}_layer")
        layers[f"{ours}.{part}.norm"] = f"{theirs}._{part}_layer_norm"
    return layers


def _llama_layers(
    attention: str = "_self_attention_layer",
    norms: tuple[str, str] = ("_self_attention_layernorm", "_feedforward_layernorm"),
    mark: str = "_",
) -> dict[str, str | Part]:
    """Layers of Llama, Mistral and Qwen, whose names begin with a mark; and of Phi-3, without."""
    ours, theirs = "decoder.block_{i}", "transformer_layers.{i}"
    attention = f"{theirs}.{attention}"
    return {
        "decoder.token_embedding": "token_embedding.embeddings",
        **_attention(f"{ours}.self_attention", attention, f"{mark}{{role}}_dense"),
        f"{ours}.self_attention.norm": f"{theirs}.{norms[0]}",
        f"{ours}.self_attention.query_norm": f"{attention}.{mark}query_dense_layer_norm",
        f"{ours}.self_attention.key_norm": f"{attention}.{mark}key_dense_layer_norm",
        f"{ours}.feedforward.gate": f"{theirs}.{mark}feedforward_gate_dense",
        f"{ours}.feedforward.up": f"{theirs}.{mark}feedforward_intermediate_dense",
        f"{ours}.feedforward.down": f"{theirs}.{mark}feedforward_output_dense",
        f"{ours}.feedforward.norm": f"{theirs}.{norms[1]}",
        "decoder.final_norm": "layer_norm",
        "logits": "token_embedding.reverse_embeddings",
    }


def _third(number: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.split(array, 3, axis=-1)[number]


def _heads_second(array: np.ndarray) -> np.ndarray:
    return np.swapaxes(array, 0, 1)


def _gemma_layers() -> dict[str, str | Part]:
    ours, theirs = "decoder.block_{i}", "transformer_layers.{i}"
    kernels = {
        f"{ours}.self_attention.{role}": Part(f"{theirs}.attention.{role}_dense", _heads_second)
        for role in ("query", "key", "value")
    }
    return {
        "decoder.token_embedding": "token_embedding.embeddings",
        **kernels,
        f"{ours}.self_attention.output": f"{theirs}.attention.output_dense",
        f"{ours}.self_attention.norm": f"{theirs}.pre_attention_norm",
        f"{ours}.self_attention.output_norm": f"{theirs}.post_attention_norm",
        f"{ours}.feedforward.gate": f"{theirs}.gating_ffw",
        f"{ours}.feedforward.up": f"{theirs}.gating_ffw_2",
        f"{ours}.feedforward.down": f"{theirs}.ffw_linear",
        f"{ours}.feedforward.norm": f"{theirs}.pre_ffw_norm",
        f"{ours}.feedforward.output_norm": f"{theirs}.post_ffw_norm",
        "decoder.final_norm": "layer_norm",
    }


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
            layers |= _attention(f"{ours}.{part}", f"{theirs}.{part}", "{role}_projector")
            layers[f"{ours}.{part}.norm"] = f"{theirs}.{part}_layer_norm"
        for role, name in feedforward.items():
            layers[f"{ours}.feedforward.{role}"] = f"{theirs}.{name}"
        layers[f"{ours}.feedforward.norm"] = f"{theirs}.layer_norm"
        first = f"{side}_transformer_layers.0.self_attention"
        layers[f"{side}.bucket_bias"] = f"{first}.relative_attention_bias"
        layers[f"{side}.final_norm"] = f"{side}_layer_norm"
    return layers


# Families ---------------------------------------------------------------------------------------

_SIZES = {
    name: name
    for name in ("vocabulary_size", "num_layers", "num_heads", "hidden_dim", "intermediate_dim")
}
_SIZES_AND_LENGTH = {**_SIZES, "max_sequence_length": "max_sequence_length"}
_GROUPED_SIZES = {
    "vocabulary_size": "vocabulary_size",
    "num_layers": "num_layers",
    "num_query_heads": "num_heads",
    "num_key_value_heads": "num_key_value_heads",
    "hidden_dim": "hidden_dim",
    "intermediate_dim": "intermediate_dim",
    "rope_max_wavelength": "rotary_base",
    "layer_norm_epsilon": "norm_epsilon",
}
_EVERYWHERE = dropout("attention_dropout", "embedding_dropout")
# These drop in places, or as often, as no spec says; only a rate of zero is the same.
_NO_DROPOUT = {"dropout": 0}
_GPT = {"kind": "decoder_only", "norm_placement": "pre", "tie_embeddings": True}
_LLAMA = {
    "kind": "decoder_only",
    "norm_placement": "pre",
    "norm": "rms",
    "positions": "rotary",
    "feedforward": "glu",
    "activation": "silu",
    "feedforward_bias": False,
    "attention_bias": False,
}
_GEMMA = {
    **_LLAMA,
    "activation": "gelu_tanh",
    "norm_offset": True,
    "scale_embeddings": True,
    "tie_embeddings": True,
}
_GEMMA_NAMES = {
    "vocabulary_size": "vocabulary_size",
    "num_layers": "num_layers",
    "num_query_heads": "num_heads",
    "num_key_value_heads": "num_key_value_heads",
    "hidden_dim": "hidden_dim",
    "head_dim": "head_dim",
    "layer_norm_epsilon": "norm_epsilon",
    "attention_logit_soft_cap": "attention_soft_cap",
    "final_logit_soft_cap": "logit_soft_cap",
}
_GEMMA_IGNORED = {"query_head_dim_normalize": (True, ("attention_scale",))}
_GEMMA_RULES = (
    _HALF_AS_WIDE,
    _GEMMA_WINDOW,
)
_BERT = {
    "kind": "encoder_only",
    "norm_placement": "post",
    "embedding_norm": True,
    "positions": "learned",
    "activation": "gelu",
    "tie_embeddings": True,
    "logit_bias": True,
}
_T5 = {
    "kind": "encoder_decoder",
    "norm_placement": "pre",
    "norm": "rms",
    "positions": "relative",
    "feedforward_bias": False,
    "attention_bias": False,
    "attention_scale": 1.0,
    "share_embeddings": True,
    "mask_target_padding": False,
}
_T5_NAMES = {**_SIZES, "key_value_dim": "head_dim", "layer_norm_epsilon": "norm_epsilon"}
_T5_RULES = (
    _ACTIVATION,
    _T5_TIE,
    dropout("attention_dropout", "embedding_dropout", "activation_dropout", "final_dropout"),
)


def _unpadded(length: int) -> dict[str, Any]:
    return {"max_sequence_length": length, "pad_token_id": None}


FAMILIES: tuple[Family, ...] = (
    Family(
        "GPT2Backbone",
        {**_GPT, "activation": "gelu_tanh"},
        _SIZES_AND_LENGTH,
        {
            "decoder.token_embedding": "token_embedding.embeddings",
            "decoder.position_embedding": "position_embedding",
            **_block("decoder.block_{i}", "transformer_layers.{i}"),
            "decoder.final_norm": "layer_norm",
        },
        (_EVERYWHERE,),
        defaults={"pad_token_id": None},
    ),
    Family(
        "OPTBackbone",
        {**_GPT, "activation": "relu"},
        _SIZES_AND_LENGTH,
        {
            "decoder.token_embedding": "embeddings.token_embedding.embeddings",
            "decoder.position_embedding": "embeddings.position_embedding",
            **_block("decoder.block_{i}", "transformer_layers.{i}"),
            "decoder.final_norm": "layer_norm",
        },
        (_EVERYWHERE,),
        defaults={"pad_token_id": None},
    ),
    Family(
        "GPTNeoXBackbone",
        {
            "kind": "decoder_only",
            "norm_placement": "parallel",
            "positions": "rotary",
            "activation": "gelu_tanh",
            "tie_embeddings": True,
        },
        {
            **_SIZES_AND_LENGTH,
            "rotary_max_wavelength": "rotary_base",
            "layer_norm_epsilon": "norm_epsilon",
        },
        {
            "decoder.token_embedding": "token_embedding.embeddings",
            **_block("decoder.block_{i}", "transformer_layers.{i}"),
            **{
                f"decoder.block_{{i}}.self_attention.{role}": Part(
                    "transformer_layers.{i}._self_attention_layer._qkv_dense", _third(number)
                )
                for number, role in enumerate(("query", "key", "value"))
            },
            "decoder.final_norm": "layer_norm",
        },
        (_EVERYWHERE, _NEOX_ROTATION),
        defaults={"pad_token_id": None},
    ),
    Family(
        "BloomBackbone",
        {
            **_GPT,
            "activation": "gelu_tanh",
            "positions": "alibi",
            "embedding_norm": True,
        },
        {**_SIZES, "layer_norm_epsilon": "norm_epsilon"},
        {
            "decoder.token_embedding": "token_embedding.embeddings",
            "decoder.embedding_norm": "embeddings_layer_norm",
            **_attention(
                "decoder.block_{i}.self_attention", "transformer_layers.{i}._self_attention_layer"
            ),
            "decoder.block_{i}.self_attention.norm": (
                "transformer_layers.{i}._pre_attention_layernorm"
            ),
            "decoder.block_{i}.feedforward.up": "transformer_layers.{i}._mlp_intermediate_dense",
            "decoder.block_{i}.feedforward.down": "transformer_layers.{i}._mlp_output_dense",
            "decoder.block_{i}.feedforward.norm": (
                "transformer_layers.{i}._post_attention_layernorm"
            ),
            "decoder.final_norm": "layer_norm",
        },
        where=_NO_DROPOUT,
        defaults=_unpadded(2048),
    ),
    *(
        Family(
            backbone,
            _LLAMA,
            {**_GROUPED_SIZES, "tie_word_embeddings": "tie_embeddings"},
            _llama_layers(),
            (_LLAMA_SCALING,),
            where=_NO_DROPOUT,
            ignored={"rope_position_scaling_factor": (1.0, ("rotary_scaling", "rotary_factor"))},
            defaults=_unpadded(length),
        )
        for backbone, length in (("LlamaBackbone", 4096), ("Llama3Backbone", 8192))
    ),
    Family(
        "MistralBackbone",
        _LLAMA,
        {**_GROUPED_SIZES, "head_dim": "head_dim", "sliding_window": "attention_window"},
        _llama_layers(),
        (linear_scaling("rope_scaling_factor"),),
        where=_NO_DROPOUT,
        defaults=_unpadded(32_768),
    ),
    Family(
        "Phi3Backbone",
        _LLAMA,
        {
            **_GROUPED_SIZES,
            "max_sequence_length": "max_sequence_length",
            "pretraining_sequence_length": "rotary_original_length",
        },
        _llama_layers(
            "attention", ("pre_attention_layernorm", "post_attention_layernorm"), mark=""
        ),
        where={
            **_NO_DROPOUT,
            "rope_scaling_type": None,
            "rope_scaling_short_factor": None,
            "rope_scaling_long_factor": None,
        },
        defaults={"pad_token_id": None},
    ),
    Family(
        "QwenBackbone",
        {**_LLAMA, "attention_bias": True, "attention_output_bias": False},
        {**_GROUPED_SIZES, "tie_word_embeddings": "tie_embeddings"},
        _llama_layers(),
        (linear_scaling("rope_scaling_factor"), _QWEN_WINDOW),
        where=_NO_DROPOUT,
        defaults=_unpadded(32_768),
    ),
    Family(
        "Qwen3Backbone",
        {**_LLAMA, "qk_norm": True},
        {
            **_GROUPED_SIZES,
            "head_dim": "head_dim",
            "tie_word_embeddings": "tie_embeddings",
            "sliding_window_size": "attention_window",
        },
        _llama_layers(),
        (linear_scaling("rope_scaling_factor"),),
        where=_NO_DROPOUT,
        defaults=_unpadded(40_960),
    ),
    Family(
        "GemmaBackbone",
        _GEMMA,
        _GEMMA_NAMES,
        _gemma_layers(),
        _GEMMA_RULES,
        where={**_NO_DROPOUT, "use_post_ffw_norm": False, "use_post_attention_norm": False},
        ignored=_GEMMA_IGNORED,
        defaults=_unpadded(8192),
    ),
    Family(
        "GemmaBackbone",
        {**_GEMMA, "norm_placement": "sandwich"},
        _GEMMA_NAMES,
        _gemma_layers(),
        _GEMMA_RULES,
        where={**_NO_DROPOUT, "use_post_ffw_norm": True, "use_post_attention_norm": True},
        ignored=_GEMMA_IGNORED,
        defaults=_unpadded(8192),
    ),
    Family(
        "BertBackbone",
        {**_BERT, "activation": "gelu_tanh", "norm_epsilon": 1e-12, "pooler": True},
        {**_SIZES_AND_LENGTH, "num_segments": "num_segments"},
        {
            "encoder.token_embedding": "token_embedding.embeddings",
            "encoder.position_embedding": "position_embedding",
            "encoder.segment_embedding": "segment_embedding",
            "encoder.embedding_norm": "embeddings_layer_norm",
            **_block("encoder.block_{i}", "transformer_layers.{i}"),
            "pooler.dense": "pooled_dense",
        },
        (_EVERYWHERE,),
        defaults={"pad_token_id": 0},
    ),
    Family(
        "RobertaBackbone",
        {**_BERT, "norm_epsilon": 1e-5},
        _SIZES_AND_LENGTH,
        {
            "encoder.token_embedding": "embeddings.token_embedding.embeddings",
            "encoder.position_embedding": "embeddings.position_embedding",
            "encoder.embedding_norm": "embeddings_layer_norm",
            **_block("encoder.block_{i}", "transformer_layers.{i}"),
        },
        (_EVERYWHERE,),
        defaults={"pad_token_id": 1},
    ),
    Family(
        "DistilBertBackbone",
        {**_BERT, "norm_epsilon": 1e-12},
        _SIZES_AND_LENGTH,
        {
            "encoder.token_embedding": "embeddings.token_embedding.embeddings",
            "encoder.position_embedding": "embeddings.position_embedding",
            "encoder.embedding_norm": "embeddings_layer_norm",
            **_block("encoder.block_{i}", "transformer_layers.{i}"),
        },
        (_EVERYWHERE,),
        defaults={"pad_token_id": 0},
    ),
    Family(
        "BartBackbone",
        {
            "kind": "encoder_decoder",
            "norm_placement": "post",
            "embedding_norm": True,
            "positions": "learned",
            "activation": "gelu",
            "share_embeddings": True,
            "tie_embeddings": True,
        },
        _SIZES_AND_LENGTH,
        {
            "token_embedding": "token_embedding.embeddings",
            "encoder.position_embedding": "encoder_position_embedding",
            "encoder.embedding_norm": "encoder_embeddings_layer_norm",
            **_block("encoder.block_{i}", "encoder_transformer_layers.{i}"),
            "decoder.position_embedding": "decoder_position_embedding",
            "decoder.embedding_norm": "decoder_embeddings_layer_norm",
            **_block(
                "decoder.block_{i}",
                "decoder_transformer_layers.{i}",
                "self_attention cross_attention",
            ),
        },
        (_EVERYWHERE,),
        defaults={"pad_token_id": 1},
        target_start="end, start",
    ),
    Family(
        "T5Backbone",
        {**_T5, "feedforward": "glu"},
        _T5_NAMES,
        _t5_layers({"gate": "input_projector", "up": "gate_projector", "down": "output_projector"}),
        _T5_RULES,
        where={"use_gated_activation": True},
        defaults={"max_sequence_length": 512, "pad_token_id": 0},
        target_start="padding",
    ),
    Family(
        "T5Backbone",
        {**_T5, "feedforward": "mlp"},
        _T5_NAMES,
        _t5_layers({"up": "input_projector", "down": "output_projector"}),
        _T5_RULES,
        where={"use_gated_activation": False},
        defaults={"max_sequence_length": 512, "pad_token_id": 0},
        target_start="padding",
    ),
)
