"""OLMo 2 and Granite: Llama with norms on outputs, or with factors of the residual stream."""

from __future__ import annotations

from functional_models.conversion import forms
from functional_models.hugging_face.family import Family
from functional_models.hugging_face.llama import (
    COMMON,
    DEFAULTS,
    SHARED,
    SIZES,
    THEIRS,
    heads,
    layers,
)
from functional_models.hugging_face.rules import derived

_SIZES = {key: name for key, name in SIZES.items() if key != "head_dim"}
_OUTPUT_NORMS = {
    "self_attention.output_norm": f"{THEIRS}.post_attention_layernorm",
    "feedforward.output_norm": f"{THEIRS}.post_feedforward_layernorm",
}

FAMILIES: tuple[Family, ...] = (
    Family(
        model_types=("olmo2",),
        heads=heads("Olmo2"),
        constants={
            **forms.LLAMA,
            "norm_placement": "output",
            "qk_norm": True,
            "qk_norm_heads": "joint",
        },
        fields={**_SIZES, "attention_bias": "attention_bias"},
        rules=COMMON,
        defaults={
            **DEFAULTS,
            "num_key_value_heads": None,
            "rms_norm_eps": 1e-5,
            "attention_bias": False,
            "pad_token_id": 1,
            "bos_token_id": None,
            "eos_token_id": 50279,
        },
        layers=layers(_OUTPUT_NORMS),
        **SHARED,
    ),
    Family(
        model_types=("granite",),
        heads=heads("Granite"),
        constants={**forms.LLAMA, "merge": "scaled"},
        fields={
            **_SIZES,
            "attention_bias": "attention_bias",
            "mlp_bias": "feedforward_bias",
            "attention_multiplier": "attention_scale",
            "embedding_multiplier": "embedding_scale",
            "residual_multiplier": "branch_scale",
        },
        rules=(
            *COMMON,
            derived(
                "logits_scaling",
                "logit_scale",
                lambda divisor: 1 / divisor,
                lambda spec: 1 / (spec.logit_scale or 1.0),
            ),
        ),
        defaults={
            **DEFAULTS,
            "num_key_value_heads": None,
            "attention_bias": False,
            "mlp_bias": False,
            "attention_multiplier": 1.0,
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "logits_scaling": 1.0,
        },
        layers=layers(),
        **SHARED,
    ),
)
