"""Spec fields that are constant in a family, for the tables of KerasHub and of Hugging Face."""

from __future__ import annotations

from typing import Any

Fields = dict[str, Any]

GPT: Fields = {"kind": "decoder_only", "norm_placement": "pre"}

NEOX: Fields = {**GPT, "norm_placement": "parallel", "positions": "rotary"}

BLOOM: Fields = {**GPT, "activation": "gelu_tanh", "positions": "alibi", "embedding_norm": True}

LLAMA: Fields = {
    "kind": "decoder_only",
    "norm_placement": "pre",
    "norm": "rms",
    "positions": "rotary",
    "feedforward": "glu",
    "feedforward_bias": False,
    "attention_bias": False,
}

GPT_OSS: Fields = {
    **LLAMA,
    "attention_bias": True,
    "attention_sinks": True,
    "feedforward": "clamped_glu",
    "activation": "gelu_sigmoid",
    "feedforward_bias": True,
    "router_bias": True,
}

QWEN: Fields = {**LLAMA, "attention_bias": True, "attention_output_bias": False}

GEMMA: Fields = {**LLAMA, "norm_offset": True, "scale_embeddings": True}

BERT: Fields = {
    "kind": "encoder_only",
    "norm_placement": "post",
    "embedding_norm": True,
    "positions": "learned",
    "tie_embeddings": True,
    "logit_bias": True,
}

BART: Fields = {
    "kind": "encoder_decoder",
    "norm_placement": "post",
    "embedding_norm": True,
    "positions": "learned",
    "share_embeddings": True,
}

T5: Fields = {
    "kind": "encoder_decoder",
    "norm_placement": "pre",
    "norm": "rms",
    "positions": "relative",
    "feedforward_bias": False,
    "attention_bias": False,
    "attention_scale": 1.0,
    "share_embeddings": True,
    "mask_target_padding": False,  # targets start with the padding token
}
