"""Llama and similar families: Mistral, Qwen, StableLM and StarCoder 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from functional_models.conversion import forms
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face import rules
from functional_models.hugging_face.block_types import (
    check_layer_types,
    window_fields,
    written_layer_types,
    written_window,
)
from functional_models.hugging_face.family import NEEDS_TIED, Family, Layers, Place
from functional_models.hugging_face.rules import (
    DECODER_PADDING,
    FREQUENCIES,
    activation,
    rotary,
    several,
)
from functional_models.hugging_face.silent import EXECUTION, ORIGIN

SIZES = {
    **rules.SIZES,
    "intermediate_size": "intermediate_dim",
    "num_key_value_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "rms_norm_eps": "norm_epsilon",
}
LAYER_NORM_SIZES = rules.without(SIZES, "rms_norm_eps")

DEFAULTS: dict[str, Any] = {
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
COMMON = (activation("hidden_act"), rotary(), DECODER_PADDING)
_TIED = (("embed_tokens.weight", "lm_head.weight"),)


def heads(name: str) -> dict[str, Mapping[str, Any]]:
    """Return the classes of a family; the one without a head needs tied logits."""
    return {f"{name}ForCausalLM": {}, f"{name}Model": NEEDS_TIED}


BLOCK, THEIRS = "decoder.block_{i}", "layers.{i}"


def layers(changes: Mapping[str, str | Place] | None = None) -> Layers:
    """Return the layers of Llama, with others for some, which are named without the block."""
    attention = f"{THEIRS}.self_attn"
    found: dict[str, Any] = {
        "decoder.token_embedding": "embed_tokens",
        f"{BLOCK}.self_attention.norm": f"{THEIRS}.input_layernorm",
        f"{BLOCK}.self_attention.query": f"{attention}.q_proj",
        f"{BLOCK}.self_attention.key": f"{attention}.k_proj",
        f"{BLOCK}.self_attention.value": f"{attention}.v_proj",
        f"{BLOCK}.self_attention.query_norm": f"{attention}.q_norm",
        f"{BLOCK}.self_attention.key_norm": f"{attention}.k_norm",
        f"{BLOCK}.self_attention.output": f"{attention}.o_proj",
        f"{BLOCK}.feedforward.norm": f"{THEIRS}.post_attention_layernorm",
        f"{BLOCK}.feedforward.gate": f"{THEIRS}.mlp.gate_proj",
        f"{BLOCK}.feedforward.up": f"{THEIRS}.mlp.up_proj",
        f"{BLOCK}.feedforward.down": f"{THEIRS}.mlp.down_proj",
        "decoder.final_norm": "norm",
        "logits": "lm_head",
    }
    return found | {f"{BLOCK}.{name}": place for name, place in (changes or {}).items()}


# Windows of some blocks -------------------------------------------------------------------------


def _qwen_windows(config: Config) -> dict[str, Any]:
    blocks, types = config["num_hidden_layers"], config["layer_types"]
    window = config["sliding_window"] if config["use_sliding_window"] else None
    if types is None:
        from_block = blocks if window is None else config["max_window_layers"]
        types = [f"{'sliding' if i >= from_block else 'full'}_attention" for i in range(blocks)]
    return window_fields(check_layer_types(types, blocks), window)


_QWEN_WINDOWS = Rule(
    ("use_sliding_window", "sliding_window", "max_window_layers"),
    _qwen_windows,
    lambda spec: {
        "use_sliding_window": any(spec.windows),
        "sliding_window": written_window(spec),
        "max_window_layers": 0 if any(spec.windows) else spec.num_layers,
        "layer_types": written_layer_types(spec),
    },
    optional=("layer_types",),
)


# Families ---------------------------------------------------------------------------------------

SHARED: dict[str, Any] = {"prefix": "model.", "tied": _TIED, "unread": FREQUENCIES}

FAMILIES: tuple[Family, ...] = (
    Family(
        model_types=("llama",),
        heads=heads("Llama"),
        constants=forms.LLAMA,
        fields={**SIZES, "attention_bias": "attention_bias", "mlp_bias": "feedforward_bias"},
        rules=COMMON,
        defaults={
            **DEFAULTS,
            "num_key_value_heads": None,
            "attention_bias": False,
            "mlp_bias": False,
        },
        required={"rope_interleaved": (False,)},
        silent={
            "pretraining_tp": EXECUTION,
            "is_llama_config": ORIGIN,
            "transformers.js_config": ORIGIN,
        },
        layers=layers(),
        **SHARED,
    ),
    Family(
        model_types=("mistral",),
        heads=heads("Mistral"),
        constants=forms.LLAMA,
        fields={**SIZES, "sliding_window": "attention_window"},
        rules=COMMON,
        defaults={**DEFAULTS, "sliding_window": 4096},
        layers=layers(),
        **SHARED,
    ),
    Family(
        model_types=("qwen2",),
        heads=heads("Qwen2"),
        constants=forms.QWEN,
        fields=SIZES,
        rules=(*COMMON, _QWEN_WINDOWS),
        defaults={
            **DEFAULTS,
            "use_sliding_window": False,
            "sliding_window": 4096,
            "max_window_layers": 28,
            "bos_token_id": None,
            "eos_token_id": None,
        },
        required={"use_mrope": (False,)},
        layers=layers(),
        **SHARED,
    ),
    Family(
        model_types=("qwen3",),
        heads=heads("Qwen3"),
        constants={**forms.LLAMA, "qk_norm": True},
        fields={**SIZES, "attention_bias": "attention_bias"},
        rules=(*COMMON, _QWEN_WINDOWS),
        defaults={
            **DEFAULTS,
            "head_dim": 128,
            "attention_bias": False,
            "use_sliding_window": False,
            "sliding_window": 4096,
            "max_window_layers": 28,
            "bos_token_id": None,
            "eos_token_id": None,
        },
        layers=layers(),
        **SHARED,
    ),
    Family(
        model_types=("stablelm",),
        heads=heads("StableLm"),
        constants={**forms.LLAMA, "norm": "layer", "attention_output_bias": False},
        fields={
            **LAYER_NORM_SIZES,
            "layer_norm_eps": "norm_epsilon",
            "use_qkv_bias": "attention_bias",
            "hidden_dropout": "feedforward_dropout",
        },
        rules=(activation("hidden_act"), rotary(share=0.25), DECODER_PADDING),
        defaults={
            **DEFAULTS,
            "layer_norm_eps": 1e-5,
            "use_qkv_bias": False,
            "hidden_dropout": 0.0,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        required={"qk_layernorm": (False,), "use_parallel_residual": (False,)},
        layers=layers(),
        **SHARED,
    ),
    Family(
        model_types=("starcoder2",),
        heads=heads("Starcoder2"),
        constants={**forms.GPT, "positions": "rotary"},
        fields={
            **LAYER_NORM_SIZES,
            "norm_epsilon": "norm_epsilon",
            "sliding_window": "attention_window",
            "residual_dropout": "dropout",
            "embedding_dropout": "embedding_dropout",
        },
        rules=(*COMMON, several("use_bias", "attention_bias", "feedforward_bias")),
        defaults={
            **DEFAULTS,
            "hidden_act": "gelu_pytorch_tanh",
            "norm_epsilon": 1e-5,
            "sliding_window": None,
            "residual_dropout": 0.0,
            "embedding_dropout": 0.0,
            "use_bias": True,
            "tie_word_embeddings": True,
            "bos_token_id": 50256,
            "eos_token_id": 50256,
        },
        required={"norm_type": ("layer_norm",), "mlp_type": ("default",)},
        layers=layers(
            {
                "feedforward.up": f"{THEIRS}.mlp.c_fc",
                "feedforward.down": f"{THEIRS}.mlp.c_proj",
            }
        ),
        **SHARED,
    ),
)
