"""DeepSeek V2 and V3: latent attention, and experts after some blocks with one layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face.block_types import block_pattern
from functional_models.hugging_face.experts import expert_kernels
from functional_models.hugging_face.family import Family, Layers, Place
from functional_models.hugging_face.llama import (
    BLOCK,
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
    without,
    written_scaling,
)
from functional_models.hugging_face.silent import EXECUTION, ROUTER, TRAINING

Part = Callable[[np.ndarray, TransformerSpec], np.ndarray]

# Tensors ----------------------------------------------------------------------------------------


def _in_halves(channels: np.ndarray, axis: int) -> np.ndarray:
    """Return channels whose rotated pairs are r/2 apart, of those whose pairs are side by side."""
    number = np.arange(channels.shape[axis])
    return np.take(channels, [*number[::2], *number[1::2]], axis)


def _plain(channels: np.ndarray, axis: int) -> np.ndarray:
    return channels


def _queries(order: Callable[[np.ndarray, int], np.ndarray] | None) -> Part:
    """Return the part of the queries of all heads that is rotated, in an order, or is not."""

    def part(array: np.ndarray, spec: TransformerSpec) -> np.ndarray:
        rest, others = spec.head_dim - spec.rotary_dim, array.shape[1:]
        by_head = array.reshape(spec.num_heads, spec.head_dim, *others)
        own = by_head[:, :rest] if order is None else order(by_head[:, rest:], 1)
        return own.reshape(-1, *others)

    return part


def _latent(array: np.ndarray, spec: TransformerSpec) -> np.ndarray:
    if len(array) != (spec.latent_dim or 0) + spec.rotary_dim:
        raise ValueError("another number of rows")
    return array[: spec.latent_dim]


def _shared_key(order: Callable[[np.ndarray, int], np.ndarray]) -> Part:
    return lambda array, spec: order(array[spec.latent_dim :], 0)


def _of_latent(is_key: bool) -> Part:
    """Return the keys or the values of all heads."""

    def part(array: np.ndarray, spec: TransformerSpec) -> np.ndarray:
        key, others = spec.head_dim - spec.rotary_dim, array.shape[1:]
        by_head = array.reshape(spec.num_heads, key + spec.value_dim, *others)
        return (by_head[:, :key] if is_key else by_head[:, key:]).reshape(-1, *others)

    return part


def _layers(spec: TransformerSpec, config: Config) -> Layers:
    """Return the layers of a model, whose rotated channels are stored in one of two orders."""
    order = _in_halves if config["rope_interleave"] else _plain
    attention, mlp = f"{THEIRS}.self_attn", f"{THEIRS}.mlp"
    query = f"{attention}.q_{'b_' if spec.query_latent_dim else ''}proj.weight"
    down, up = f"{attention}.kv_a_proj_with_mqa", f"{attention}.kv_b_proj.weight"
    found: dict[str, Any] = {
        "self_attention.query_latent": f"{attention}.q_a_proj",
        "self_attention.query_latent_norm": f"{attention}.q_a_layernorm",
        "self_attention.query": Place(query, part=_queries(None)),
        "self_attention.rotary_query": Place(query, part=_queries(order)),
        "self_attention.latent": Place(f"{down}.weight", f"{down}.bias", _latent),
        "self_attention.latent_norm": f"{attention}.kv_a_layernorm",
        "self_attention.shared_key": Place(f"{down}.weight", f"{down}.bias", _shared_key(order)),
        "self_attention.key": Place(up, part=_of_latent(is_key=True)),
        "self_attention.value": Place(up, part=_of_latent(is_key=False)),
        "feedforward.router": f"{mlp}.gate",
        "feedforward.top_experts": Place(f"{mlp}.gate.e_score_correction_bias"),
    }
    roles = ("gate", "up", "down")
    kernels = expert_kernels(f"{mlp}.experts", {role: f"{role}_proj" for role in roles})
    for role in roles:
        found[f"feedforward.experts.{role}"] = kernels[role]
        found[f"feedforward.shared_expert.{role}"] = f"{mlp}.shared_experts.{role}_proj"
    return {**layers(), **{f"{BLOCK}.{name}": place for name, place in found.items()}}


# Settings ---------------------------------------------------------------------------------------


def _read_widths(config: Config) -> dict[str, Any]:
    if config["kv_lora_rank"] is None:
        raise ValueError("kv_lora_rank=None: must be the width of the latents")
    rotated = config["qk_rope_head_dim"]
    width = config["qk_nope_head_dim"] + rotated
    for key, value in (("head_dim", rotated), ("qk_head_dim", width)):
        if config[key] not in (None, value):
            raise ValueError(f"{key}={config[key]!r}: must be {value}, or absent")
    return {
        "latent_dim": config["kv_lora_rank"],
        "rotary_dim": rotated,
        "head_dim": width,
    }


_WIDTHS = Rule(
    ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim"),
    _read_widths,
    lambda spec: {
        "kv_lora_rank": spec.latent_dim,
        "qk_nope_head_dim": spec.head_dim - spec.rotary_dim,
        "qk_rope_head_dim": spec.rotary_dim,
    },
    optional=("head_dim", "qk_head_dim"),
)


_ROTARY = rotary(shares=())


def _read_positions(config: Config) -> dict[str, Any]:
    """Read the rotation, and the scale of the scores: YaRN's factor on all channels, twice."""
    fields = _ROTARY.read(config)
    settings = config["rope_scaling"] or config["rope_parameters"] or {}
    if fields["rotary_scaling"] == "yarn" and settings.get("mscale_all_dim"):
        width = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
        share = settings["mscale_all_dim"]
        fields["attention_scale"] = _score_scale(width, fields["rotary_factor"], share)
    return fields


def _score_scale(head_dim: int, factor: float, share: float) -> float:
    """Return the scale of the scores for a value of mscale_all_dim."""
    return float(head_dim**-0.5 * (0.1 * share * math.log(factor) + 1) ** 2)


def _written_positions(spec: TransformerSpec) -> dict[str, Any]:
    scaling = written_scaling(spec)
    if scaling is not None and spec.rotary_scaling == "yarn" and spec.attention_scale is not None:
        scaling["mscale_all_dim"] = share = _share(spec, spec.attention_scale)
        if spec.rotary_magnitude == 1:
            del scaling["attention_factor"]
            scaling["mscale"] = share
    return {"rope_theta": spec.rotary_base, "rope_scaling": scaling}


def _share(spec: TransformerSpec, scale: float) -> float:
    """Return the shortest number that is read as a scale of the scores, or the nearest one."""
    if spec.rotary_factor == 1:
        return 0.0
    exact = (math.sqrt(scale * spec.head_dim**0.5) - 1) / (0.1 * math.log(spec.rotary_factor))
    rounded = (round(exact, digits) for digits in range(17))
    is_read = (x for x in rounded if _score_scale(spec.head_dim, spec.rotary_factor, x) == scale)
    return next(is_read, exact)


_POSITIONS = Rule((), _read_positions, _written_positions, _ROTARY.optional)


def _read_blocks(config: Config) -> dict[str, Any]:
    """Read which blocks have experts, and how many are shared by all tokens."""
    blocks, first = config["num_hidden_layers"], config["first_k_dense_replace"]
    shared = config["n_shared_experts"]
    if not isinstance(shared, int) or shared < 1:
        raise ValueError(f"n_shared_experts={shared!r}: must be a positive int")
    one_layer = {"num_experts": 0, "num_active_experts": 0}
    return {
        "shared_expert_dim": shared * config["moe_intermediate_size"],
        "block_overrides": block_pattern([one_layer if i < first else {} for i in range(blocks)]),
    }


def _written_blocks(spec: TransformerSpec) -> dict[str, Any]:
    number, rest = divmod(spec.shared_expert_dim, spec.expert_dim)
    experts = [block.num_experts > 0 for block in spec.blocks(spec.stacks[-1])]
    return {
        "first_k_dense_replace": [*experts, True].index(True),
        "n_shared_experts": spec.shared_expert_dim / spec.expert_dim if rest else number,
    }


_BLOCKS = Rule(("first_k_dense_replace", "n_shared_experts"), _read_blocks, _written_blocks)


def _read_groups(config: Config) -> dict[str, Any]:
    method = config["topk_method"]
    if method == "greedy":
        return {}
    if method != "group_limited_greedy":
        raise ValueError(f"topk_method={method!r}: must be greedy or group_limited_greedy")
    return {"num_expert_groups": config["n_group"], "num_active_groups": config["topk_group"]}


_GROUPS = Rule(
    ("topk_method", "n_group", "topk_group"),
    _read_groups,
    lambda spec: {
        "topk_method": "greedy"
        if spec.num_active_groups == spec.num_expert_groups
        else "group_limited_greedy",
        "n_group": spec.num_expert_groups,
        "topk_group": spec.num_active_groups,
    },
)

# Families ---------------------------------------------------------------------------------------

_FIELDS = {
    **without(SIZES, "head_dim"),
    "attention_bias": "attention_bias",
    "q_lora_rank": "query_latent_dim",
    "v_head_dim": "value_dim",
    "n_routed_experts": "num_experts",
    "num_experts_per_tok": "num_active_experts",
    "moe_intermediate_size": "expert_dim",
    "routed_scaling_factor": "router_scale",
}
_RULES = (activation("hidden_act"), DECODER_PADDING, _WIDTHS, _POSITIONS, _BLOCKS)
_DEFAULTS: dict[str, Any] = {
    **without(DEFAULTS, "head_dim"),
    "num_key_value_heads": None,
    "attention_bias": False,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "rope_interleave": True,
}
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "rms_norm_eps": (1e-6,),  # that of the norms of latents, which is constant
    "moe_layer_freq": (1,),
    "mlp_bias": (False,),
}
_SILENT = {
    **dict.fromkeys(("aux_loss_alpha", "seq_aux"), TRAINING),
    **dict.fromkeys(("ep_size", "pretraining_tp"), EXECUTION),
    **ROUTER,
}
_LATER_TOKENS = "of a block that predicts the token after the next one, which is not read"

FAMILIES: tuple[Family, ...] = (
    Family(
        model_types=("deepseek_v2",),
        heads=heads("DeepseekV2"),
        constants={**forms.LLAMA, "renormalize_scores": False},
        fields=_FIELDS,
        rules=(*_RULES, _GROUPS),
        defaults={
            **_DEFAULTS,
            "first_k_dense_replace": 0,
            "moe_intermediate_size": 1407,
            "n_group": None,
            "n_routed_experts": 64,
            "n_shared_experts": 2,
            "routed_scaling_factor": 1.0,
            "topk_group": None,
            "topk_method": "greedy",
        },
        required={**_REQUIRED, "scoring_func": ("softmax",), "norm_topk_prob": (False, None)},
        silent=_SILENT,
        aliases={"num_experts": "n_routed_experts"},
        layers=_layers,
        **SHARED,
    ),
    Family(
        model_types=("deepseek_v3",),
        heads=heads("DeepseekV3"),
        constants={
            **forms.LLAMA,
            "router_scores": "sigmoid",
            "router_correction_rate": 0.001,
            "group_score_experts": 2,
        },
        fields={
            **_FIELDS,
            "n_group": "num_expert_groups",
            "topk_group": "num_active_groups",
            "norm_topk_prob": "renormalize_scores",
        },
        rules=_RULES,
        defaults={
            **_DEFAULTS,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "first_k_dense_replace": 3,
            "moe_intermediate_size": 2048,
            "n_group": 8,
            "n_routed_experts": 256,
            "n_shared_experts": 1,
            "norm_topk_prob": True,
            "num_experts_per_tok": 8,
            "routed_scaling_factor": 2.5,
            "topk_group": 4,
        },
        required={**_REQUIRED, "scoring_func": ("sigmoid",), "topk_method": ("noaux_tc",)},
        silent={
            **_SILENT,
            "rope_interleave": "the order of stored channels, which are read in the other one",
            **dict.fromkeys(("num_nextn_predict_layers", "num_mtp_layers"), _LATER_TOKENS),
        },
        aliases={"num_local_experts": "n_routed_experts"},
        layers=_layers,
        later_tokens="eh_proj.weight",
        **SHARED,
    ),
)
