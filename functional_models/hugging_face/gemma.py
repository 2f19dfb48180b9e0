"""Gemma 1 to 3; of Gemma 3, the models of text."""

from __future__ import annotations

from typing import Any

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face.block_types import (
    FULL,
    SLIDING,
    every,
    rotary_by_type,
    windows,
)
from functional_models.hugging_face.family import NEEDS_TIED, Family
from functional_models.hugging_face.llama import (
    COMMON,
    DEFAULTS,
    SHARED,
    SIZES,
    THEIRS,
    heads,
    layers,
)
from functional_models.hugging_face.rules import (
    DECODER_PADDING,
    activation,
    activation_named,
    derived,
    written_activation,
)
from functional_models.hugging_face.silent import NOT_READ


def _gemma_activation(config: Config) -> dict[str, Any]:
    # "gelu" in the first releases meant the tanh approximation, which transformers 5 applies.
    given = {"gelu": "gelu_pytorch_tanh"}
    used, other = config["hidden_act"], config["hidden_activation"]
    if other is not None and given.get(other, other) != given.get(used, used):
        raise ValueError(
            f"hidden_act={used!r} and hidden_activation={other!r}: versions of transformers "
            "disagree on which is used; give both the same value"
        )
    return {"activation": activation_named("hidden_act", given.get(used, used))}


def _written_gemma_activation(spec: TransformerSpec) -> dict[str, Any]:
    name = written_activation(spec)
    given = "gelu_pytorch_tanh" if name == "gelu_new" else name
    return dict.fromkeys(("hidden_act", "hidden_activation"), given)


_FIRST_ACTIVATION = Rule(
    ("hidden_act",),
    _gemma_activation,
    _written_gemma_activation,
    optional=("hidden_activation",),
)

_SCALE = derived(
    "query_pre_attn_scalar",
    "attention_scale",
    lambda scalar: scalar**-0.5,
    lambda spec: round((spec.attention_scale or spec.head_dim**-0.5) ** -2),
)
_LAYERS = {
    "self_attention.output_norm": f"{THEIRS}.post_attention_layernorm",
    "feedforward.norm": f"{THEIRS}.pre_feedforward_layernorm",
    "feedforward.output_norm": f"{THEIRS}.post_feedforward_layernorm",
}

_DEFAULTS: dict[str, Any] = {
    **DEFAULTS,
    "head_dim": 256,
    "attention_bias": False,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
_CAUSAL = {"use_bidirectional_attention": (False, None)}
_GEMMA3_TYPES = every(6, "sliding_window_pattern")

FAMILIES: tuple[Family, ...] = (
    Family(
        model_types=("gemma",),
        heads=heads("Gemma"),
        constants=forms.GEMMA,
        fields={**SIZES, "attention_bias": "attention_bias"},
        rules=(_FIRST_ACTIVATION, *COMMON[1:]),
        defaults={**_DEFAULTS, "hidden_act": "gelu_pytorch_tanh"},
        required=_CAUSAL,
        layers=layers(),
        **SHARED,
    ),
    Family(
        model_types=("gemma2",),
        heads=heads("Gemma2"),
        constants={**forms.GEMMA, "norm_placement": "sandwich"},
        fields={
            **SIZES,
            "attention_bias": "attention_bias",
            "attn_logit_softcapping": "attention_soft_cap",
            "final_logit_softcapping": "logit_soft_cap",
        },
        rules=(
            activation("hidden_activation"),
            *COMMON[1:],
            windows(every(2)),
            _SCALE,
        ),
        defaults={
            **_DEFAULTS,
            "hidden_activation": "gelu_pytorch_tanh",
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
        },
        required=_CAUSAL,
        silent={"hidden_act": "not read, since hidden_activation is"},
        layers=layers(_LAYERS),
        **SHARED,
    ),
    Family(
        model_types=("gemma3_text",),
        heads={"Gemma3ForCausalLM": {}, "Gemma3TextModel": NEEDS_TIED},
        constants={**forms.GEMMA, "norm_placement": "sandwich", "qk_norm": True},
        fields={
            **SIZES,
            "attention_bias": "attention_bias",
            "final_logit_softcapping": "logit_soft_cap",
        },
        rules=(
            activation("hidden_activation"),
            DECODER_PADDING,
            windows(_GEMMA3_TYPES, "sliding_window_pattern"),
            rotary_by_type(
                _GEMMA3_TYPES,
                {FULL: "rope_theta", SLIDING: "rope_local_base_freq"},
                {FULL: 1_000_000.0, SLIDING: 10_000.0},
                scaled=(FULL,),
            ),
            _SCALE,
        ),
        defaults={
            **_DEFAULTS,
            "hidden_activation": "gelu_pytorch_tanh",
            "final_logit_softcapping": None,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "vocab_size": 262_208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "max_position_embeddings": 131_072,
        },
        # Of a cap of scores, versions of transformers have only the setting.
        required={**_CAUSAL, "attn_logit_softcapping": (None,)},
        silent={"_sliding_window_pattern": NOT_READ},
        layers=layers(_LAYERS),
        **SHARED,
    ),
)
