"""Decoders with mixtures of experts: Mixtral, Qwen1.5-MoE, Qwen3-MoE and gpt-oss."""

from __future__ import annotations

from typing import Any

import numpy as np

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import NO_DROPOUT, Config, Family, Part, Rule, unpadded
from functional_models.conversion.llama import (
    GROUPED_SIZES,
    SILU,
    WINDOW,
    linear_scaling,
    llama_layers,
)

_SHARED = {
    "num_experts": "num_experts",
    "top_k": "num_active_experts",
}
_QWEN = {
    **GROUPED_SIZES,
    **_SHARED,
    "moe_intermediate_dim": "expert_dim",
    "norm_top_k_prob": "renormalize_scores",
    "tie_word_embeddings": "tie_embeddings",
    "router_aux_loss_coefficient": "balance_loss",
}

# The width of Mixtral's experts has the name of that of a dense layer.
_EXPERT_WIDTH = Rule(
    ("intermediate_dim",),
    lambda config: dict.fromkeys(("intermediate_dim", "expert_dim"), config["intermediate_dim"]),
    lambda spec: {"intermediate_dim": spec.expert_dim},
)


def _expert_layers(block: str, prefix: str) -> dict[str, str | Part]:
    """Return the layers of a decoder whose mixture has this name; its experts are variables."""
    ours, theirs = "decoder.block_{i}.feedforward", f"transformer_layers.{{i}}.{block}"
    layers = llama_layers(prefix=prefix)
    bank = f"{theirs}.expert_bank._expert_feedforward"
    return {
        **{name: place for name, place in layers.items() if not name.startswith(ours)},
        f"{ours}.norm": layers[f"{ours}.norm"],
        f"{ours}.router": f"{theirs}._sparse_feedforward_gate_dense",
        f"{ours}.experts.gate": f"{bank}_gate_dense",
        f"{ours}.experts.up": f"{bank}_intermediate_dense",
        f"{ours}.experts.down": f"{bank}_output_dense",
    }


def _gate(kernels: np.ndarray) -> np.ndarray:
    return kernels[..., : kernels.shape[-1] // 2]


def _up(kernels: np.ndarray) -> np.ndarray:
    return kernels[..., kernels.shape[-1] // 2 :]


def _qwen_layers(prefix: str) -> dict[str, str | Part]:
    """Return the layers of Qwen, which stores gate and up projection as one kernel."""
    layers = _expert_layers("mlp", prefix)
    block, theirs = "decoder.block_{i}", "transformer_layers.{i}"
    ours, shared = f"{block}.feedforward", f"{theirs}.mlp.shared_expert"
    both = str(layers[f"{ours}.experts.gate"])
    return {
        **layers,
        f"{block}.self_attention.output": f"{theirs}._self_attention_layer._output_dense",
        f"{ours}.experts.gate": Part(both, _gate),
        f"{ours}.experts.up": Part(both, _up),
        f"{ours}.shared_expert.gate": f"{shared}_dense._feedforward_gate_dense",
        f"{ours}.shared_expert.up": f"{shared}_dense._feedforward_intermediate_dense",
        f"{ours}.shared_expert.down": f"{shared}_dense._feedforward_output_dense",
        f"{ours}.shared_expert.share": f"{shared}_gate_dense",
    }


# gpt-oss ----------------------------------------------------------------------------------------


# In the backbone every second block has the window, which the first has in the released model, and
# in which a query attends to itself and to as many keys before it.
def _read_gpt_oss_window(config: Config) -> dict[str, Any]:
    window = config["sliding_window"]
    if not window or window < 0:
        return {}
    pattern: tuple[dict[str, Any], ...] = ({"attention_window": None}, {})
    return {"attention_window": window + 1, "block_overrides": pattern[: config["num_layers"]]}


def _write_gpt_oss_window(spec: TransformerSpec) -> dict[str, Any]:
    window = spec.attention_window
    return {"sliding_window": None if window is None else window - 1}


_GPT_OSS_WINDOW = Rule(("sliding_window",), _read_gpt_oss_window, _write_gpt_oss_window)


def _even(kernels: np.ndarray) -> np.ndarray:
    return kernels[..., ::2]


def _odd(kernels: np.ndarray) -> np.ndarray:
    return kernels[..., 1::2]


def _gpt_oss_layers() -> dict[str, str | Part]:
    ours, theirs = "decoder.block_{i}", "transformer_layers.{i}"
    norms = ("input_layernorm", "post_attention_layernorm")
    experts = f"{theirs}.sparse_moe_block.experts"
    both = f"{experts}.gate_up_proj {experts}.gate_up_proj_bias"
    return {
        **llama_layers("self_attention_layer", norms, prefix=""),
        f"{ours}.self_attention.sinks": f"{theirs}.self_attention_layer.sinks",
        f"{ours}.feedforward.router": f"{theirs}.sparse_moe_block.router.router_dense",
        f"{ours}.feedforward.experts.gate": Part(both, _even),
        f"{ours}.feedforward.experts.up": Part(both, _odd),
        f"{ours}.feedforward.experts.down": f"{experts}.down_proj {experts}.down_proj_bias",
    }


_GPT_OSS: dict[str, Any] = {
    **forms.GPT_OSS,
    "rotary_scaling": "yarn",
    "rotary_original_length": 4096,
    "rotary_high_freq_factor": 32.0,
    "rotary_whole_pairs": False,
}

_EVERYWHERE: dict[str, Any] = {**NO_DROPOUT, "decoder_sparse_step": 1, "mlp_only_layers": []}

FAMILIES: tuple[Family, ...] = (
    Family(
        "MixtralBackbone",
        {**forms.LLAMA, **SILU},
        {
            **{entry: name for entry, name in GROUPED_SIZES.items() if entry != "intermediate_dim"},
            **_SHARED,
            "sliding_window": "attention_window",
            "router_aux_loss_coef": "balance_loss",
        },
        _expert_layers("_sparse_moe_block", ""),
        (_EXPERT_WIDTH, linear_scaling("rope_scaling_factor")),
        required={**NO_DROPOUT, "router_jitter_noise": 0},
        defaults=unpadded(32_768),
    ),
    Family(
        "QwenMoeBackbone",
        {**forms.QWEN, **SILU, "shared_expert_gate": True},
        {**_QWEN, "shared_expert_intermediate_dim": "shared_expert_dim"},
        _qwen_layers(""),
        (linear_scaling("rope_scaling_factor"), WINDOW),
        required={**_EVERYWHERE, "output_router_logits": False},
        defaults=unpadded(8192),
    ),
    Family(
        "Qwen3MoeBackbone",
        {**forms.LLAMA, **SILU, "qk_norm": True},
        {**_QWEN, "head_dim": "head_dim", "sliding_window_size": "attention_window"},
        _qwen_layers("_"),
        (linear_scaling("rope_scaling_factor"),),
        required=_EVERYWHERE,
        defaults=unpadded(40_960),
    ),
    Family(
        "GptOssBackbone",
        _GPT_OSS,
        {
            **{entry: name for entry, name in GROUPED_SIZES.items() if entry != "intermediate_dim"},
            **_SHARED,
            "head_dim": "head_dim",
            "rope_scaling_factor": "rotary_factor",
        },
        _gpt_oss_layers(),
        (_EXPERT_WIDTH, _GPT_OSS_WINDOW),
        required={**NO_DROPOUT, "output_router_logits": False},
        defaults=unpadded(131_072),
    ),
)
