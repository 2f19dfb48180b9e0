"""Decoders with mixtures of experts: Mixtral, Qwen1.5-MoE (Qwen2Moe) and Qwen3-MoE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face.block_types import BLOCKS, blocks_of, check_layer_types
from functional_models.hugging_face.family import Family, Layers, OfExperts
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
    rotary,
    several,
    without,
)
from functional_models.hugging_face.silent import ROUTER

_OURS = "decoder.block_{i}.feedforward"
_HALVES = {"gate": 0, "up": 1}


def expert_kernels(experts: str, names: Mapping[str, str]) -> dict[str, OfExperts]:
    """Return the places of the kernels of experts by role.

    Args:
        experts: name of the experts of a block.
        names: role -> name in an expert.
    """
    return {
        role: OfExperts(
            f"{experts}.{{e}}.{name}.weight",
            f"{experts}.{'down_proj' if role == 'down' else 'gate_up_proj'}",
            _HALVES.get(role),
        )
        for role, name in names.items()
    }


def expert_layers(block: str, gate: str, up: str, down: str, shared: bool = False) -> Layers:
    """Return the layers of Llama, with a mixture of this name, and these names in an expert."""
    theirs = f"{THEIRS}.{block}"
    found = dict(layers())
    found[f"{_OURS}.router"] = f"{theirs}.gate"
    names = {"gate": gate, "up": up, "down": down}
    kernels = expert_kernels(f"{theirs}.experts", names)
    found |= {f"{_OURS}.experts.{role}": place for role, place in kernels.items()}
    if shared:
        of_all = {role: f"{theirs}.shared_expert.{name}" for role, name in names.items()}
        found |= {f"{_OURS}.shared_expert.{role}": name for role, name in of_all.items()}
        found[f"{_OURS}.shared_expert.share"] = f"{theirs}.shared_expert_gate"
    return found


QWEN_LAYERS = ("mlp", "gate_proj", "up_proj", "down_proj")

QWEN_FIELDS = {
    **SIZES,
    "moe_intermediate_size": "expert_dim",
    "norm_topk_prob": "renormalize_scores",
}

QWEN: dict[str, Any] = {
    **DEFAULTS,
    "norm_topk_prob": False,
    "decoder_sparse_step": 1,
    "bos_token_id": None,
    "eos_token_id": None,
}


def _mixtures(config: Config) -> dict[str, Any]:
    """Read which blocks have a mixture: every n-th, but for those that are listed."""
    blocks, step = range(config["num_hidden_layers"]), config["decoder_sparse_step"]
    dense = config["mlp_only_layers"] or []
    if not isinstance(dense, list) or not set(dense) <= set(blocks):
        raise ValueError(f"mlp_only_layers={dense!r}: must be a list of blocks of {len(blocks)}")
    mixture = {
        "num_experts": config["num_experts"],
        "num_active_experts": config["num_experts_per_tok"],
    }
    plain = {"num_experts": 0, "num_active_experts": 0}
    return {BLOCKS: [mixture if (i + 1) % step == 0 and i not in dense else plain for i in blocks]}


def _written_mixtures(spec: TransformerSpec) -> dict[str, Any]:
    blocks = blocks_of(spec)
    mixture = next((block for block in blocks if block.num_experts), spec)
    return {
        "num_experts": mixture.num_experts,
        "num_experts_per_tok": mixture.num_active_experts,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [i for i, block in enumerate(blocks) if not block.num_experts],
    }


MIXTURES = Rule(
    ("num_experts", "num_experts_per_tok", "decoder_sparse_step"),
    _mixtures,
    _written_mixtures,
    optional=("mlp_only_layers",),
)


def _window(config: Config) -> dict[str, Any]:
    if not config["use_sliding_window"]:
        return {}
    if config["sliding_window"] is None:
        raise ValueError("sliding_window=None: must be an int where use_sliding_window=True")
    return {"attention_window": config["sliding_window"]}


def _no_window(config: Config) -> dict[str, Any]:
    if config["layer_types"] is not None:
        check_layer_types(config["layer_types"], config["num_hidden_layers"])
        if set(config["layer_types"]) != {"full_attention"}:
            raise ValueError("layer_types: must be full_attention where use_sliding_window=False")
    return {"attention_window": None}


_NO_WINDOW = Rule((), _no_window, optional=("layer_types",))
_OFF = "of windows, which use_sliding_window=False switches off"

# Qwen3-MoE has the window in all blocks.
_WINDOW = Rule(
    ("use_sliding_window", "sliding_window"),
    _window,
    lambda spec: {
        "use_sliding_window": spec.attention_window is not None,
        "sliding_window": spec.attention_window,
    },
)

FAMILIES: tuple[Family, ...] = (
    Family(
        model_types=("mixtral",),
        heads=heads("Mixtral"),
        constants=forms.LLAMA,
        fields={
            **without(SIZES, "intermediate_size"),
            "num_local_experts": "num_experts",
            "num_experts_per_tok": "num_active_experts",
            "sliding_window": "attention_window",
        },
        rules=(
            activation("hidden_act"),
            rotary(base=1_000_000.0),
            DECODER_PADDING,
            several("intermediate_size", "expert_dim", "intermediate_dim"),
        ),
        defaults={
            **DEFAULTS,
            "rms_norm_eps": 1e-5,
            "sliding_window": None,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
        silent=ROUTER,
        layers=expert_layers("block_sparse_moe", "w1", "w3", "w2"),
        renamed={".mlp.": ".block_sparse_moe."},  # as transformers 5 saves its own layout
        **SHARED,
    ),
    Family(
        model_types=("qwen2_moe",),
        heads=heads("Qwen2Moe"),
        constants={**forms.QWEN, "shared_expert_gate": True},
        fields={
            **without(QWEN_FIELDS, "head_dim"),
            "shared_expert_intermediate_size": "shared_expert_dim",
            "qkv_bias": "attention_bias",
        },
        rules=(*COMMON, _NO_WINDOW, MIXTURES),
        defaults={
            **QWEN,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "qkv_bias": True,
        },
        # Versions of transformers disagree on which blocks have the window.
        required={"use_sliding_window": (False,)},
        silent={**ROUTER, **dict.fromkeys(("sliding_window", "max_window_layers"), _OFF)},
        layers=expert_layers(*QWEN_LAYERS, shared=True),
        **SHARED,
    ),
    Family(
        model_types=("qwen3_moe",),
        heads=heads("Qwen3Moe"),
        constants={**forms.LLAMA, "qk_norm": True},
        fields={**QWEN_FIELDS, "attention_bias": "attention_bias"},
        rules=(*COMMON, _WINDOW, MIXTURES),
        defaults={
            **QWEN,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "attention_bias": False,
            "use_sliding_window": False,
            "sliding_window": 4096,
        },
        silent={**ROUTER, "max_window_layers": "of other blocks than those with windows"},
        aliases={"num_local_experts": "num_experts"},
        layers=expert_layers(*QWEN_LAYERS),
        **SHARED,
    ),
)
