"""gpt-oss, whose experts are stored together, gate and up projection by turns."""

from __future__ import annotations

from typing import Any

import numpy as np

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.hugging_face.block_types import every, windows
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
from functional_models.hugging_face.rules import DECODER_PADDING, rotary, several, without
from functional_models.hugging_face.silent import ROUTER

_EXPERTS = f"{THEIRS}.mlp.experts"


def _every_other(first: int) -> Any:
    """Return the function that returns every other of 2 f rows, from the first or second on."""

    def part(array: np.ndarray, spec: TransformerSpec) -> np.ndarray:
        if len(array) != 2 * spec.expert_dim:
            raise ValueError("another number of rows")
        return array[first::2]

    return part


def _of_experts(name: str, part: Any = None) -> Place:
    """Return the place of the kernels and biases of all experts."""
    weight = f"{_EXPERTS}.{name}"
    return Place(weight, f"{weight}_bias", part, inputs_first=True, of_experts=True)


_LAYERS: Layers = {
    **layers(),
    f"{BLOCK}.self_attention.sinks": Place(f"{THEIRS}.self_attn.sinks"),
    f"{BLOCK}.feedforward.router": f"{THEIRS}.mlp.router",
    f"{BLOCK}.feedforward.experts.gate": _of_experts("gate_up_proj", _every_other(0)),
    f"{BLOCK}.feedforward.experts.up": _of_experts("gate_up_proj", _every_other(1)),
    f"{BLOCK}.feedforward.experts.down": _of_experts("down_proj"),
}

FAMILIES: tuple[Family, ...] = (
    Family(
        model_types=("gpt_oss",),
        heads=heads("GptOss"),
        constants=without(forms.GPT_OSS, "attention_bias"),
        fields={
            **without(SIZES, "intermediate_size"),
            "attention_bias": "attention_bias",
            "num_local_experts": "num_experts",
            "num_experts_per_tok": "num_active_experts",
            "swiglu_limit": "glu_limit",
        },
        rules=(
            rotary(base=150_000.0, scales=True),
            DECODER_PADDING,
            windows(every(2)),
            several("intermediate_size", "expert_dim", "intermediate_dim"),
        ),
        defaults={
            **DEFAULTS,
            "head_dim": 64,
            "rms_norm_eps": 1e-5,
            "attention_bias": True,
            "num_experts_per_tok": 4,
            "swiglu_limit": 7.0,
            "sliding_window": 128,
            "bos_token_id": None,
            "eos_token_id": None,
        },
        required={"swiglu_alpha": (1.702,)},
        silent={
            "hidden_act": "not read, since the experts have an activation of their own",
            "initial_context_length": "the original length, which the rotary settings have too",
            **ROUTER,
        },
        aliases={"num_experts": "num_local_experts", "experts_per_token": "num_experts_per_tok"},
        layers=_LAYERS,
        **SHARED,
    ),
)
