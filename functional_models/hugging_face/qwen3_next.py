"""Qwen3-Next: blocks of Gated DeltaNet and of gated attention, with experts in both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face.block_types import BLOCKS, FULL, blocks_of, check_layer_types
from functional_models.hugging_face.experts import (
    MIXTURES,
    QWEN,
    QWEN_FIELDS,
    QWEN_LAYERS,
    expert_layers,
)
from functional_models.hugging_face.family import Family, Layers, Place
from functional_models.hugging_face.llama import BLOCK, SHARED, THEIRS, heads
from functional_models.hugging_face.rules import DECODER_PADDING, rotary
from functional_models.hugging_face.silent import NOT_READ, ROUTER

# Types of blocks --------------------------------------------------------------------------------

_MIXERS = {"linear_attention": "gated_delta", FULL: "attention"}


def _types(config: Config) -> Sequence[str]:
    blocks, given = config["num_hidden_layers"], config["layer_types"]
    if given is not None:
        return check_layer_types(given, blocks)
    period = 4 if config["full_attention_interval"] is None else config["full_attention_interval"]
    return ["linear_attention" if (i + 1) % period else FULL for i in range(blocks)]


def _read_mixers(config: Config) -> dict[str, Any]:
    types = _types(config)
    if unknown := [kind for kind in types if kind not in _MIXERS]:
        raise ValueError(f"layer_types has {unknown[0]!r}; allowed: {', '.join(_MIXERS)}")
    return {BLOCKS: [{"mixer": _MIXERS[kind]} for kind in types]}


def _written_mixers(spec: TransformerSpec) -> dict[str, Any]:
    names = {mixer: kind for kind, mixer in _MIXERS.items()}
    return {"layer_types": [names.get(block.mixer, block.mixer) for block in blocks_of(spec)]}


_TYPES = Rule(
    (), _read_mixers, _written_mixers, optional=("layer_types", "full_attention_interval")
)

# Tensors ----------------------------------------------------------------------------------------

Part = Callable[[np.ndarray, TransformerSpec], np.ndarray]


def _in_turns(role: str) -> Part:
    """Return the part of queries, keys, values or gates of values, which key heads have in turns.

    The rows of a key head are its query, its key, then values and gates of its value heads.
    """

    def part(array: np.ndarray, spec: TransformerSpec) -> np.ndarray:
        each = spec.delta_value_heads // spec.delta_key_heads
        value = each * spec.delta_value_dim
        key = spec.delta_key_dim
        sizes = {"query": key, "key": key, "value": value, "gate": value}
        return _rows_of_heads(array, spec.delta_key_heads, sizes, role)

    return part


def _of_value_heads(role: str) -> Part:
    """Return the part of the corrections or the decays, which key heads have in turns too."""

    def part(array: np.ndarray, spec: TransformerSpec) -> np.ndarray:
        each = spec.delta_value_heads // spec.delta_key_heads
        return _rows_of_heads(array, spec.delta_key_heads, {"beta": each, "decay": each}, role)

    return part


def _of_query_heads(role: str) -> Part:
    """Return the part of queries or gates of attention, which heads have in turns."""

    def part(array: np.ndarray, spec: TransformerSpec) -> np.ndarray:
        sizes = {"query": spec.head_dim, "output_gate": spec.head_dim}
        return _rows_of_heads(array, spec.num_heads, sizes, role)

    return part


def _rows_of_heads(array: np.ndarray, number: int, sizes: dict[str, int], role: str) -> np.ndarray:
    """Return the rows of a role, from an array that has those of all roles head by head."""
    by_head = array.reshape(number, sum(sizes.values()), *array.shape[1:])
    roles = list(sizes)
    first = sum(sizes[name] for name in roles[: roles.index(role)])
    return by_head[:, first : first + sizes[role]].reshape(-1, *array.shape[1:])


def _convolved(role: str) -> Part:
    """Return the part of the channels of queries, keys or values, one role after the other."""

    def part(array: np.ndarray, spec: TransformerSpec) -> np.ndarray:
        keys = spec.delta_key_heads * spec.delta_key_dim
        sizes = {"query": keys, "key": keys}
        sizes["value"] = spec.delta_value_heads * spec.delta_value_dim
        return _rows_of_heads(array, 1, sizes, role)

    return part


def _layers(spec: TransformerSpec, config: Config) -> Layers:
    found = dict(expert_layers(*QWEN_LAYERS, shared=True))
    attention = f"{BLOCK}.self_attention"
    query = f"{THEIRS}.self_attn.q_proj"
    for role in ("query", "output_gate"):
        found[f"{attention}.{role}"] = Place(
            f"{query}.weight", f"{query}.bias", _of_query_heads(role)
        )
    for index, block in enumerate(blocks_of(spec)):
        if block.mixer == "gated_delta":
            found |= _delta_layers(f"decoder.block_{index}.self_attention")
    return found


def _delta_layers(ours: str) -> dict[str, str | Place]:
    """Return the layers of a Gated DeltaNet of this name, whose names attention has too."""
    theirs = f"{THEIRS}.linear_attn"
    found: dict[str, str | Place] = {
        f"{ours}.decay_rate": Place(f"{theirs}.A_log", f"{theirs}.dt_bias"),
        f"{ours}.read_norm": f"{theirs}.norm",
        f"{ours}.output": f"{theirs}.out_proj",
    }
    for role in ("query", "key", "value", "gate"):
        found[f"{ours}.{role}"] = Place(f"{theirs}.in_proj_qkvz.weight", part=_in_turns(role))
    for role in ("beta", "decay"):
        found[f"{ours}.{role}"] = Place(f"{theirs}.in_proj_ba.weight", part=_of_value_heads(role))
    for role in ("query", "key", "value"):
        found[f"{ours}.{role}_convolution"] = Place(
            f"{theirs}.conv1d.weight", part=_convolved(role), by_channel=True
        )
    return found


FAMILIES: tuple[Family, ...] = (
    Family(
        model_types=("qwen3_next",),
        heads=heads("Qwen3Next"),
        constants={
            **forms.LLAMA,
            "activation": "silu",
            "norm_offset": True,
            "qk_norm": True,
            "attention_gate": True,
            "shared_expert_gate": True,
        },
        fields={
            **QWEN_FIELDS,
            "attention_bias": "attention_bias",
            "shared_expert_intermediate_size": "shared_expert_dim",
            "linear_num_key_heads": "delta_key_heads",
            "linear_num_value_heads": "delta_value_heads",
            "linear_key_head_dim": "delta_key_dim",
            "linear_value_head_dim": "delta_value_dim",
            "linear_conv_kernel_dim": "delta_convolution",
        },
        rules=(rotary(share=0.25), DECODER_PADDING, MIXTURES, _TYPES),
        defaults={
            **QWEN,
            "head_dim": 256,
            "attention_bias": False,
            "norm_topk_prob": True,
            "num_experts": 512,
            "num_experts_per_tok": 10,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 32,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "linear_conv_kernel_dim": 4,
        },
        # Transformers 4 has this activation in its convolutions in any case, and 5 the given one.
        required={"hidden_act": ("silu",)},
        silent={**ROUTER, "use_sliding_window": NOT_READ},
        layers=_layers,
        prefix=SHARED["prefix"],
        tied=SHARED["tied"],
        unread={
            **SHARED["unread"],
            r"mtp\..*": "of blocks that predict later tokens, which transformers does not read",
        },
    ),
)
