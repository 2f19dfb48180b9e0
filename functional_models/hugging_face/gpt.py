"""GPT-2, GPT-NeoX, OPT and BLOOM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face.family import NEEDS_TIED, Family, Place
from functional_models.hugging_face.rules import (
    DECODER_PADDING,
    FREQUENCIES,
    SIZES,
    activation,
    derived,
    rotary,
    several,
)
from functional_models.hugging_face.silent import CLASSIFIER, EXECUTION, SUMMARY, TRAINING

CAUSAL_MASK = "a causal mask, which is computed"


def third(number: int) -> Callable[[np.ndarray, TransformerSpec], np.ndarray]:
    """Return the part of queries, keys or values, each of all heads, of fused projections."""
    return lambda array, spec: np.split(array, 3)[number]


def _conv1d(name: str) -> Place:
    return Place(f"{name}.weight", f"{name}.bias", inputs_first=True)


def of_each_head(number: int) -> Callable[[np.ndarray, TransformerSpec], np.ndarray]:
    """Return the part of queries, keys or values of projections that are fused head by head."""

    def part(array: np.ndarray, spec: TransformerSpec) -> np.ndarray:
        by_head = array.reshape(spec.num_heads, 3, spec.head_dim, *array.shape[1:])
        return by_head[:, number].reshape(-1, *array.shape[1:])

    return part


_ROLES = ("query", "key", "value")


def fused(
    name: str,
    part: Callable[[int], Any],
    inputs_first: bool = False,
    block: str = "decoder.block_{i}",
) -> dict[str, Place]:
    """Return the layers of fused projections of queries, keys and values."""
    return {
        f"{block}.self_attention.{role}": Place(
            f"{name}.weight", f"{name}.bias", part(number), inputs_first
        )
        for number, role in enumerate(_ROLES)
    }


_BLOCK, _H, _LAYER = "decoder.block_{i}", "h.{i}", "layers.{i}"

GPT_FIELDS = {
    "vocab_size": "vocabulary_size",
    "n_positions": "max_sequence_length",
    "n_embd": "hidden_dim",
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "n_inner": "intermediate_dim",
    "layer_norm_epsilon": "norm_epsilon",
    "resid_pdrop": "dropout",
    "embd_pdrop": "embedding_dropout",
    "attn_pdrop": "attention_dropout",
    "tie_word_embeddings": "tie_embeddings",
}
GPT_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

_GPT2 = Family(
    model_types=("gpt2",),
    heads={"GPT2LMHeadModel": {}, "GPT2Model": NEEDS_TIED},
    constants={**forms.GPT, "positions": "learned"},
    fields=GPT_FIELDS,
    rules=(
        activation("activation_function"),
        DECODER_PADDING,
        Rule(
            ("scale_attn_weights",),
            lambda config: {"attention_scale": None if config["scale_attn_weights"] else 1.0},
            lambda spec: {"scale_attn_weights": spec.attention_scale is None},
        ),
    ),
    defaults={
        "n_inner": None,
        "activation_function": "gelu_new",
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
        "pad_token_id": None,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    },
    required={"scale_attn_by_inverse_layer_idx": (False,)},
    silent={
        "n_ctx": "an old name of n_positions",
        "reorder_and_upcast_attn": EXECUTION,
        **SUMMARY,
    },
    aliases=GPT_ALIASES,
    prefix="transformer.",
    layers={
        "decoder.token_embedding": "wte",
        "decoder.position_embedding": "wpe",
        f"{_BLOCK}.self_attention.norm": f"{_H}.ln_1",
        **fused(f"{_H}.attn.c_attn", third, inputs_first=True),
        f"{_BLOCK}.self_attention.output": _conv1d(f"{_H}.attn.c_proj"),
        f"{_BLOCK}.feedforward.norm": f"{_H}.ln_2",
        f"{_BLOCK}.feedforward.up": _conv1d(f"{_H}.mlp.c_fc"),
        f"{_BLOCK}.feedforward.down": _conv1d(f"{_H}.mlp.c_proj"),
        "decoder.final_norm": "ln_f",
        "logits": "lm_head",
    },
    tied=(("wte.weight", "lm_head.weight"),),
    unread={r"attn\.(masked_)?bias": CAUSAL_MASK},
)

_NEOX = Family(
    model_types=("gpt_neox",),
    heads={"GPTNeoXForCausalLM": {}, "GPTNeoXModel": NEEDS_TIED},
    constants=forms.NEOX,
    fields={
        **SIZES,
        "intermediate_size": "intermediate_dim",
        "layer_norm_eps": "norm_epsilon",
        "attention_bias": "attention_bias",
    },
    rules=(
        activation("hidden_act"),
        DECODER_PADDING,
        rotary(
            share=0.25,
            bases=("rope_theta", "rotary_emb_base"),
            shares=("partial_rotary_factor", "rotary_pct"),
        ),
        several("hidden_dropout", "dropout", "embedding_dropout"),
        derived(
            "use_parallel_residual",
            "norm_placement",
            lambda parallel: "parallel" if parallel else "pre",
            lambda spec: spec.norm_placement == "parallel",
        ),
    ),
    defaults={
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "attention_bias": True,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
        "pad_token_id": None,
        "bos_token_id": 0,
        "eos_token_id": 2,
    },
    silent={
        "classifier_dropout": CLASSIFIER,
        **dict.fromkeys(("attention_probs_dropout_prob", "hidden_dropout_prob"), TRAINING),
    },
    prefix="gpt_neox.",
    layers={
        "decoder.token_embedding": "embed_in",
        f"{_BLOCK}.self_attention.norm": f"{_LAYER}.input_layernorm",
        **fused(f"{_LAYER}.attention.query_key_value", of_each_head),
        f"{_BLOCK}.self_attention.output": f"{_LAYER}.attention.dense",
        f"{_BLOCK}.feedforward.norm": f"{_LAYER}.post_attention_layernorm",
        f"{_BLOCK}.feedforward.up": f"{_LAYER}.mlp.dense_h_to_4h",
        f"{_BLOCK}.feedforward.down": f"{_LAYER}.mlp.dense_4h_to_h",
        "decoder.final_norm": "final_layer_norm",
        "logits": "embed_out",
    },
    tied=(("embed_in.weight", "embed_out.weight"),),
    unread={r"attention\.(masked_)?bias": CAUSAL_MASK, **FREQUENCIES},
)


def _opt_norms(config: Config) -> dict[str, Any]:
    if not config["do_layer_norm_before"]:
        return {"norm_placement": "post"}
    return {"final_norm": not config["_remove_final_layer_norm"]}


def _opt_width(config: Config) -> dict[str, Any]:
    width = config["word_embed_proj_dim"]
    if width not in (None, config["hidden_size"]) and not config["tie_word_embeddings"]:
        raise ValueError(
            f"word_embed_proj_dim={width!r} with tie_word_embeddings=False: no spec has a "
            "projection before logits that are not tied"
        )
    return {"embedding_dim": width}


def skipped(rows: int) -> Callable[[np.ndarray, TransformerSpec], np.ndarray]:
    """Return the part of a table after its first rows, which are never used."""
    return lambda array, spec: array[rows:]


_OPT_LAYER = "decoder.layers.{i}"

_OPT = Family(
    model_types=("opt",),
    heads={"OPTForCausalLM": {}, "OPTModel": NEEDS_TIED},
    constants={**forms.GPT, "positions": "learned"},
    fields={
        **SIZES,
        "ffn_dim": "intermediate_dim",
        "dropout": "dropout",
    },
    rules=(
        activation("activation_function"),
        DECODER_PADDING,
        several("enable_bias", "attention_bias", "feedforward_bias"),
        Rule(
            ("do_layer_norm_before", "_remove_final_layer_norm"),
            _opt_norms,
            lambda spec: {
                "do_layer_norm_before": spec.norm_placement != "post",
                "_remove_final_layer_norm": not spec.final_norm,
            },
        ),
        Rule(
            ("word_embed_proj_dim",),
            _opt_width,
            lambda spec: {"word_embed_proj_dim": spec.embedding_dim},
        ),
    ),
    defaults={
        "activation_function": "relu",
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "enable_bias": True,
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "word_embed_proj_dim": None,
        "tie_word_embeddings": True,
        "pad_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 2,
    },
    required={"layer_norm_elementwise_affine": (True,)},
    silent=dict.fromkeys(("activation_dropout", "init_std", "layerdrop"), TRAINING),
    prefix="model.",
    layers={
        "decoder.token_embedding": "decoder.embed_tokens",
        "decoder.position_embedding": Place("decoder.embed_positions.weight", part=skipped(2)),
        "decoder.embedding_projection": "decoder.project_in",
        f"{_BLOCK}.self_attention.norm": f"{_OPT_LAYER}.self_attn_layer_norm",
        **{
            f"{_BLOCK}.self_attention.{role}": f"{_OPT_LAYER}.self_attn.{role[0]}_proj"
            for role in _ROLES
        },
        f"{_BLOCK}.self_attention.output": f"{_OPT_LAYER}.self_attn.out_proj",
        f"{_BLOCK}.feedforward.norm": f"{_OPT_LAYER}.final_layer_norm",
        f"{_BLOCK}.feedforward.up": f"{_OPT_LAYER}.fc1",
        f"{_BLOCK}.feedforward.down": f"{_OPT_LAYER}.fc2",
        "decoder.final_norm": "decoder.final_layer_norm",
        "logit_projection": "decoder.project_out",
        "logits": "lm_head",
    },
    tied=(("decoder.embed_tokens.weight", "lm_head.weight"),),
)

_BLOOM = Family(
    model_types=("bloom",),
    heads={"BloomForCausalLM": {}, "BloomModel": NEEDS_TIED},
    constants=forms.BLOOM,
    fields={
        "vocab_size": "vocabulary_size",
        "hidden_size": "hidden_dim",
        "n_layer": "num_layers",
        "n_head": "num_heads",
        "seq_length": "max_sequence_length",
        "layer_norm_epsilon": "norm_epsilon",
        "attention_dropout": "attention_dropout",
        "hidden_dropout": "dropout",
        "tie_word_embeddings": "tie_embeddings",
    },
    rules=(DECODER_PADDING,),
    defaults={
        "seq_length": 2048,
        "layer_norm_epsilon": 1e-5,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "tie_word_embeddings": True,
        "pad_token_id": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    required={"apply_residual_connection_post_layernorm": (False,), "n_inner": (None,)},
    silent=dict.fromkeys(
        (
            "attention_softmax_in_fp32",
            "bias_dropout_fusion",
            "masked_softmax_fusion",
            "offset_alibi",
            "pretraining_tp",
            "skip_bias_add",
            "skip_bias_add_qkv",
            "slow_but_exact",
        ),
        EXECUTION,
    ),
    aliases={"n_embed": "hidden_size", "num_attention_heads": "n_head"}
    | {"num_hidden_layers": "n_layer"},
    prefix="transformer.",
    layers={
        "decoder.token_embedding": "word_embeddings",
        "decoder.embedding_norm": "word_embeddings_layernorm",
        f"{_BLOCK}.self_attention.norm": f"{_H}.input_layernorm",
        **fused(f"{_H}.self_attention.query_key_value", of_each_head),
        f"{_BLOCK}.self_attention.output": f"{_H}.self_attention.dense",
        f"{_BLOCK}.feedforward.norm": f"{_H}.post_attention_layernorm",
        f"{_BLOCK}.feedforward.up": f"{_H}.mlp.dense_h_to_4h",
        f"{_BLOCK}.feedforward.down": f"{_H}.mlp.dense_4h_to_h",
        "decoder.final_norm": "ln_f",
        "logits": "lm_head",
    },
    tied=(("word_embeddings.weight", "lm_head.weight"),),
)

FAMILIES: tuple[Family, ...] = (_GPT2, _NEOX, _OPT, _BLOOM)
