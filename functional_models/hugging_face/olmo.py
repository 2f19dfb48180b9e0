"""OLMo 1 to 3, EXAONE 4 and Granite: Llama with other norms, or factors of the stream."""

from __future__ import annotations

from typing import Any

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face.block_types import (
    BLOCKS,
    FULL,
    SLIDING,
    check_layer_types,
    every,
    rotary_by_type,
    window_fields,
    windows,
    written_layer_types,
    written_window,
)
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
from functional_models.hugging_face.rules import (
    DECODER_PADDING,
    activation,
    derived,
    rotary,
    without,
)

_SIZES = without(SIZES, "head_dim")
_OUTPUT_NORMS = {
    "self_attention.output_norm": f"{THEIRS}.post_attention_layernorm",
    "feedforward.output_norm": f"{THEIRS}.post_feedforward_layernorm",
}

_DEFAULTS: dict[str, Any] = {
    **DEFAULTS,
    "num_key_value_heads": None,
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "pad_token_id": 1,
    "bos_token_id": None,
    "eos_token_id": 50279,
}
_OLMO2: dict[str, Any] = {
    **forms.LLAMA,
    "norm_placement": "output",
    "qk_norm": True,
    "qk_norm_heads": "joint",
}
_OLMO3_TYPES = every(4)

# EXAONE 4 ---------------------------------------------------------------------------------------

_EXAONE_TYPES = every(4, "sliding_window_pattern")


def _exaone_blocks(config: Config) -> dict[str, Any]:
    """Read windows; with them, blocks of full attention have no positions."""
    window, blocks = config["sliding_window"], config["num_hidden_layers"]
    if window is None:
        given = config["layer_types"]
        types = [FULL] * blocks if given is None else check_layer_types(given, blocks)
        return window_fields(types, None)
    types = _EXAONE_TYPES(config)
    found: dict[str, Any] = window_fields(types, window)
    positions = ["rotary" if kind == SLIDING else "none" for kind in types]
    return {
        BLOCKS: [
            {**own, "positions": name} for own, name in zip(found[BLOCKS], positions, strict=True)
        ]
    }


def _written_exaone_blocks(spec: TransformerSpec) -> dict[str, Any]:
    return {"sliding_window": written_window(spec, None), "layer_types": written_layer_types(spec)}


FAMILIES: tuple[Family, ...] = (
    Family(
        model_types=("olmo",),
        heads=heads("Olmo"),
        constants={**forms.LLAMA, "norm": "layer", "norm_gain": False, "norm_epsilon": 1e-5},
        fields={
            **without(_SIZES, "rms_norm_eps"),
            "attention_bias": "attention_bias",
        },
        # Transformers 4 wants the older name of the type in this family.
        rules=(activation("hidden_act"), rotary(kind="type"), DECODER_PADDING),
        defaults=_DEFAULTS,
        required={"clip_qkv": (None,)},
        layers=layers(),
        **SHARED,
    ),
    Family(
        model_types=("olmo2",),
        heads=heads("Olmo2"),
        constants=_OLMO2,
        fields={**_SIZES, "attention_bias": "attention_bias"},
        rules=COMMON,
        defaults=_DEFAULTS,
        layers=layers(_OUTPUT_NORMS),
        **SHARED,
    ),
    Family(
        model_types=("olmo3",),
        heads=heads("Olmo3"),
        constants=_OLMO2,
        fields={**_SIZES, "attention_bias": "attention_bias"},
        rules=(
            activation("hidden_act"),
            DECODER_PADDING,
            windows(_OLMO3_TYPES),
            rotary_by_type(
                _OLMO3_TYPES,
                {FULL: "rope_theta", SLIDING: "rope_theta"},
                {FULL: None, SLIDING: None},  # 10,000 in transformers 4, and 500,000 in 5
                scaled=(FULL,),
                repeat_parameters=True,  # 5 reads the base of an older folder for one type alone
            ),
        ),
        defaults={**_DEFAULTS, "sliding_window": 4096},
        layers=layers(_OUTPUT_NORMS),
        **SHARED,
    ),
    Family(
        model_types=("exaone4",),
        heads=heads("Exaone4"),
        constants={**forms.LLAMA, "norm_placement": "output", "qk_norm": True},
        fields=SIZES,
        rules=(
            *COMMON,
            Rule(
                ("sliding_window",),
                _exaone_blocks,
                _written_exaone_blocks,
                optional=("layer_types", "sliding_window_pattern"),
            ),
        ),
        defaults={
            **DEFAULTS,
            "rms_norm_eps": 1e-5,
            "num_key_value_heads": 32,
            "sliding_window": 4096,
            "bos_token_id": 0,
            "eos_token_id": 2,
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
