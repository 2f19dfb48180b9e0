"""Command R (Cohere) and Command R7B (Cohere 2), whose sublayers share one norm."""

from __future__ import annotations

from typing import Any

from functional_models.conversion import forms
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face.block_types import every, positions_in_windows, windows
from functional_models.hugging_face.falcon import halves
from functional_models.hugging_face.family import Family, Layers, Place
from functional_models.hugging_face.llama import (
    BLOCK,
    COMMON,
    LAYER_NORM_SIZES,
    SHARED,
    THEIRS,
    layers,
)
from functional_models.hugging_face.rules import DECODER_PADDING, activation, rotary
from functional_models.hugging_face.silent import NOT_READ

_ATTENTION = f"{THEIRS}.self_attn"


def _layers() -> Layers:
    """Return the layers of Llama with one norm in a block, and pairs of channels side by side."""
    found = dict(layers())
    del found[f"{BLOCK}.feedforward.norm"]
    found[f"{BLOCK}.norm"] = found.pop(f"{BLOCK}.self_attention.norm")
    for role in ("query", "key"):
        name = f"{_ATTENTION}.{role[0]}"
        found[f"{BLOCK}.self_attention.{role}"] = Place(
            f"{name}_proj.weight", f"{name}_proj.bias", halves
        )
        found[f"{BLOCK}.self_attention.{role}_norm"] = Place(
            f"{name}_norm.weight", part=halves, by_head=True
        )
    return found


_CONSTANTS = {
    **forms.LLAMA,
    "norm": "layer",
    "norm_bias": False,
    "norm_placement": "parallel_shared_norm",
}
_FIELDS = {
    **LAYER_NORM_SIZES,
    "layer_norm_eps": "norm_epsilon",
    "attention_bias": "attention_bias",
}
_DEFAULTS: dict[str, Any] = {
    "head_dim": None,
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "layer_norm_eps": 1e-5,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "logit_scale": 0.0625,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 5,
    "eos_token_id": 255001,
}
_LOGIT_SCALE = Rule(
    ("logit_scale",),
    lambda config: {"logit_scale": config["logit_scale"]},
    lambda spec: {"logit_scale": spec.logit_scale or 1.0},
)


def _width(config: Config) -> dict[str, Any]:
    """Versions of transformers disagree on heads of another width in Cohere 2."""
    width = config["hidden_size"] // config["num_attention_heads"]
    if config["head_dim"] not in (None, width):
        raise ValueError(
            f"head_dim={config['head_dim']!r}: must be hidden_size / num_attention_heads = {width}"
        )
    return {}


_TYPES = every(4, "sliding_window_pattern")
_NAMED_IN_RELEASES: dict[str, tuple[Any, ...]] = {
    "order_of_interleaved_layers": ("local_attn_first",),
    "position_embedding_type": ("rope_gptj",),
    "rotary_pct": (1.0,),
    "use_embedding_sharing": (True,),
    "use_gated_activation": (True,),
    "use_parallel_block": (True,),
    "use_parallel_embedding": (True,),
    "use_qk_norm": (False,),
}

FAMILIES: tuple[Family, ...] = (
    Family(
        model_types=("cohere",),
        heads={"CohereForCausalLM": {}},  # without the head, there is no factor of the logits
        constants={**_CONSTANTS, "qk_norm_heads": "separate"},
        fields={**_FIELDS, "use_qk_norm": "qk_norm"},
        rules=(
            activation("hidden_act"),
            rotary(base=None),  # by default 10,000 in transformers 4, and 500,000 in 5
            DECODER_PADDING,
            _LOGIT_SCALE,
        ),
        defaults={**_DEFAULTS, "use_qk_norm": False},
        silent={"model_max_length": NOT_READ},
        layers=_layers(),
        **SHARED,
    ),
    Family(
        model_types=("cohere2",),
        heads={"Cohere2ForCausalLM": {}},
        constants=_CONSTANTS,
        fields=_FIELDS,
        rules=(
            *COMMON,
            _LOGIT_SCALE,
            windows(_TYPES, "sliding_window_pattern"),
            positions_in_windows(_TYPES),
            Rule((), _width, optional=("head_dim",)),
        ),
        defaults={**_DEFAULTS, "sliding_window": 4096},
        required=_NAMED_IN_RELEASES,
        silent={
            "layer_switch": NOT_READ,
            "_sliding_window_pattern": NOT_READ,
        },
        layers=_layers(),
        **SHARED,
    ),
)
