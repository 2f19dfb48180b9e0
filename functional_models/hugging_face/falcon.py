"""Falcon, GPT-J and Phi, whose sublayers may share one norm; MPT."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face.family import NEEDS_TIED, Family, Layers, Place
from functional_models.hugging_face.gpt import (
    CAUSAL_MASK,
    GPT_ALIASES,
    GPT_FIELDS,
    fused,
    third,
)
from functional_models.hugging_face.rules import (
    DECODER_PADDING,
    FREQUENCIES,
    SIZES,
    activation,
    derived,
    rotary,
    settings_of,
)
from functional_models.hugging_face.silent import (
    EXECUTION,
    REQUIRED,
    SILENT,
    SUMMARY,
    TRAINING,
)

_BLOCK, _H, _LAYER = "decoder.block_{i}", "h.{i}", "layers.{i}"
_SHARED_NORM = {**forms.NEOX, "norm_placement": "parallel_shared_norm"}
_NORM = "input_layernorm"
_ROLES = ("query", "key", "value")

# Falcon -----------------------------------------------------------------------------------------


def _falcon_blocks(config: Config) -> dict[str, Any]:
    """Read the norms and the key/value heads of the three architectures of Falcon."""
    if config["num_ln_in_parallel_attn"] not in (None, 1, 2):
        raise ValueError(f"num_ln_in_parallel_attn={config['num_ln_in_parallel_attn']!r}: unknown")
    new, heads = config["new_decoder_architecture"], config["num_kv_heads"]
    if new and not config["parallel_attn"]:
        raise ValueError("parallel_attn=False: must be True where new_decoder_architecture=True")
    if not new and not config["multi_query"] and heads not in (None, config["num_attention_heads"]):
        raise ValueError(
            f"num_kv_heads={heads!r}: must be num_attention_heads={config['num_attention_heads']} "
            "where multi_query=False and new_decoder_architecture=False"
        )
    if not new:
        heads = 1 if config["multi_query"] else None
    placement = "pre"
    if new or config["parallel_attn"]:
        has_two = new and config["num_ln_in_parallel_attn"] != 1
        placement = "parallel" if has_two else "parallel_shared_norm"
    fields = {"num_key_value_heads": heads, "norm_placement": placement}
    return fields | dict.fromkeys(("attention_bias", "feedforward_bias"), config["bias"])


def _written_falcon_blocks(spec: TransformerSpec) -> dict[str, Any]:
    """Write the new architecture where only that has the norms, or the groups of heads."""
    has_two = spec.norm_placement == "parallel"
    shares = spec.norm_placement == "parallel_shared_norm"
    grouped = spec.num_key_value_heads not in (1, spec.num_heads)
    new = has_two or (shares and grouped)
    return {
        "new_decoder_architecture": new,
        "num_ln_in_parallel_attn": 1 + has_two if new else None,
        "parallel_attn": has_two or shares,
        "multi_query": spec.num_key_value_heads == 1,
        "num_kv_heads": spec.num_key_value_heads,
        "bias": spec.feedforward_bias,
    }


def _groups(number: int) -> Callable[[np.ndarray, TransformerSpec], np.ndarray]:
    """Return the part of queries, keys or values, fused by groups of query heads."""

    def part(array: np.ndarray, spec: TransformerSpec) -> np.ndarray:
        groups = spec.num_key_value_heads
        each = spec.num_heads // groups
        by_head = array.reshape(groups, each + 2, spec.head_dim, *array.shape[1:])
        own = by_head[:, :each] if number == 0 else by_head[:, each + number - 1]
        return own.reshape(-1, *array.shape[1:])

    return part


def _falcon_layers(spec: TransformerSpec, config: Config) -> Layers:
    last = "post_attention_layernorm"
    first, last = ("ln_attn", "ln_mlp") if spec.norm_placement == "parallel" else (_NORM, last)
    return {
        "decoder.token_embedding": "word_embeddings",
        f"{_BLOCK}.norm": f"{_H}.{_NORM}",
        f"{_BLOCK}.self_attention.norm": f"{_H}.{first}",
        **fused(f"{_H}.self_attention.query_key_value", _groups),
        f"{_BLOCK}.self_attention.output": f"{_H}.self_attention.dense",
        f"{_BLOCK}.feedforward.norm": f"{_H}.{last}",
        f"{_BLOCK}.feedforward.up": f"{_H}.mlp.dense_h_to_4h",
        f"{_BLOCK}.feedforward.down": f"{_H}.mlp.dense_4h_to_h",
        "decoder.final_norm": "ln_f",
        "logits": "lm_head",
    }


_FALCON = Family(
    model_types=("falcon",),
    heads={"FalconForCausalLM": {}, "FalconModel": NEEDS_TIED},
    constants=forms.NEOX,
    fields={
        **SIZES,
        "ffn_hidden_size": "intermediate_dim",
        "layer_norm_epsilon": "norm_epsilon",
        "hidden_dropout": "dropout",
    },
    rules=(
        activation("activation"),
        DECODER_PADDING,
        rotary(),
        Rule(
            ("new_decoder_architecture", "multi_query", "parallel_attn", "bias", "num_kv_heads"),
            _falcon_blocks,
            _written_falcon_blocks,
            optional=("num_ln_in_parallel_attn",),
        ),
    ),
    defaults={
        "activation": "gelu",
        "ffn_hidden_size": None,
        "max_position_embeddings": 2048,
        "layer_norm_epsilon": 1e-5,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "new_decoder_architecture": False,
        "multi_query": True,
        "parallel_attn": True,
        "bias": False,
        "num_kv_heads": None,
        "tie_word_embeddings": True,
        "pad_token_id": None,
        "bos_token_id": 11,
        "eos_token_id": 11,
    },
    # Falcon scales its ALiBi by 1 / sqrt(h).
    required={
        "alibi": (False,),
        "apply_residual_connection_post_layernorm": (False,),
    },
    aliases={"n_embed": "hidden_size"},
    prefix="transformer.",
    layers=_falcon_layers,
    tied=(("word_embeddings.weight", "lm_head.weight"),),
    unread=FREQUENCIES,
)

# GPT-J and Phi ----------------------------------------------------------------------------------


def halves(array: np.ndarray, spec: TransformerSpec) -> np.ndarray:
    """Return queries or keys whose pairs of rotated channels are r/2 apart, not side by side."""
    rotated = np.arange(spec.rotary_dim)
    order = [*rotated[::2], *rotated[1::2], *range(spec.rotary_dim, spec.head_dim)]
    by_head = array.reshape(-1, spec.head_dim, *array.shape[1:])
    return by_head[:, order].reshape(array.shape)


_GPTJ = Family(
    model_types=("gptj",),
    heads={"GPTJForCausalLM": {}},
    constants={**_SHARED_NORM, "attention_bias": False, "logit_bias": True},
    fields=GPT_FIELDS,
    rules=(
        activation("activation_function"),
        DECODER_PADDING,
        Rule(
            ("rotary_dim",),
            lambda config: {"rotary_dim": int(config["rotary_dim"])},
            lambda spec: {"rotary_dim": spec.rotary_dim},
        ),
    ),
    defaults={
        "n_inner": None,
        "rotary_dim": 64,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": False,
        "pad_token_id": None,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    },
    required={"rotary": (True,), "scale_attn_weights": (True,)},
    silent={
        **SUMMARY,
        "n_ctx": "an old name of n_positions",
    },
    aliases=GPT_ALIASES,
    prefix="transformer.",
    layers={
        "decoder.token_embedding": "wte",
        f"{_BLOCK}.norm": f"{_H}.ln_1",
        f"{_BLOCK}.self_attention.query": Place(f"{_H}.attn.q_proj.weight", part=halves),
        f"{_BLOCK}.self_attention.key": Place(f"{_H}.attn.k_proj.weight", part=halves),
        f"{_BLOCK}.self_attention.value": f"{_H}.attn.v_proj",
        f"{_BLOCK}.self_attention.output": f"{_H}.attn.out_proj",
        f"{_BLOCK}.feedforward.up": f"{_H}.mlp.fc_in",
        f"{_BLOCK}.feedforward.down": f"{_H}.mlp.fc_out",
        "decoder.final_norm": "ln_f",
        "logits": "lm_head",
    },
    tied=(("wte.weight", "lm_head.weight"),),
    unread={r"attn\.(masked_)?bias": CAUSAL_MASK},
)

_PHI = Family(
    model_types=("phi",),
    heads={"PhiForCausalLM": {}},
    constants={**_SHARED_NORM, "logit_bias": True},
    fields={
        **SIZES,
        "intermediate_size": "intermediate_dim",
        "num_key_value_heads": "num_key_value_heads",
        "layer_norm_eps": "norm_epsilon",
        "resid_pdrop": "dropout",
        "embd_pdrop": "embedding_dropout",
    },
    rules=(activation("hidden_act"), DECODER_PADDING, rotary(share=0.5)),
    defaults={
        "hidden_act": "gelu_new",
        "num_key_value_heads": None,
        "layer_norm_eps": 1e-5,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "pad_token_id": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    required={"qk_layernorm": (False,)},
    prefix="model.",
    layers={
        "decoder.token_embedding": "embed_tokens",
        f"{_BLOCK}.norm": f"{_LAYER}.{_NORM}",
        **{f"{_BLOCK}.self_attention.{x}": f"{_LAYER}.self_attn.{x[0]}_proj" for x in _ROLES},
        f"{_BLOCK}.self_attention.output": f"{_LAYER}.self_attn.dense",
        f"{_BLOCK}.feedforward.up": f"{_LAYER}.mlp.fc1",
        f"{_BLOCK}.feedforward.down": f"{_LAYER}.mlp.fc2",
        "decoder.final_norm": "final_layernorm",
        "logits": "lm_head",
    },
    tied=(("embed_tokens.weight", "lm_head.weight"),),
    unread=FREQUENCIES,
)

# MPT --------------------------------------------------------------------------------------------

_MPT_ATTENTION: Mapping[str, tuple[Any, ...]] = {
    **REQUIRED,
    "alibi": (True,),
    "alibi_bias_max": (8,),
    "attn_type": ("multihead_attention",),
    "attn_uses_sequence_id": (False,),
    "clip_qkv": (None,),
    "prefix_lm": (False,),
    "qk_ln": (False,),
}
_MPT_SILENT = {*SILENT, "attn_impl", "model_type", "architectures"}


def _mpt_attention(config: Config) -> dict[str, Any]:
    given = settings_of("attn_config", config["attn_config"])
    for key, allowed in _MPT_ATTENTION.items():
        value = given.pop(key, allowed[0])
        if value not in allowed:
            raise ValueError(f"attn_config has {key}={value!r}: must be {allowed[0]!r}")
    rate, scale = given.pop("attn_pdrop", 0.0), given.pop("softmax_scale", None)
    if unknown := sorted(given.keys() - _MPT_SILENT):
        raise ValueError(
            f"attn_config has {unknown[0]}={given[unknown[0]]!r}, of unknown meaning; remove it, "
            "if it says nothing about the outputs"
        )
    return {"attention_dropout": rate, "dropout": rate, "attention_scale": scale}


def _written_mpt_attention(spec: TransformerSpec) -> dict[str, Any]:
    scale = {} if spec.attention_scale is None else {"softmax_scale": spec.attention_scale}
    return {"attn_config": {"attn_pdrop": spec.attention_dropout, **scale}}


def _mpt_length(length: int) -> int:
    if length == 1:
        raise ValueError(
            "max_seq_len=1: transformers then adds the ALiBi bias of distance 0 to all scores; "
            "give the length that the model was trained on"
        )
    return length


_MPT = Family(
    model_types=("mpt",),
    heads={"MptForCausalLM": {}, "MptModel": NEEDS_TIED},
    constants={
        **forms.GPT,
        "positions": "alibi",
        "norm_bias": False,
        "attention_bias": False,
        "feedforward_bias": False,
        "activation": "gelu",
    },
    fields={
        "vocab_size": "vocabulary_size",
        "d_model": "hidden_dim",
        "n_layers": "num_layers",
        "n_heads": "num_heads",
        "layer_norm_epsilon": "norm_epsilon",
        "tie_word_embeddings": "tie_embeddings",
    },
    rules=(
        DECODER_PADDING,
        Rule(("attn_config",), _mpt_attention, _written_mpt_attention),
        derived("max_seq_len", "max_sequence_length", _mpt_length, lambda s: s.max_sequence_length),
    ),
    defaults={
        "max_seq_len": 2048,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
        "attn_config": None,
        "pad_token_id": None,
    },
    required={
        "expansion_ratio": (4,),
        "embedding_fraction": (1,),
        "logit_scale": (None,),
        "no_bias": (True,),
        "norm_type": ("low_precision_layernorm",),
    },
    silent={
        **dict.fromkeys(("init_config", "init_device", "emb_pdrop", "resid_pdrop"), TRAINING),
        "learned_pos_emb": "not read where alibi is",
        "verbose": EXECUTION,
        "tokenizer_name": "names a tokenizer",
    },
    aliases={
        "hidden_size": "d_model",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
    },
    prefix="transformer.",
    layers={
        "decoder.token_embedding": "wte",
        f"{_BLOCK}.self_attention.norm": "blocks.{i}.norm_1",
        **fused("blocks.{i}.attn.Wqkv", third),
        f"{_BLOCK}.self_attention.output": "blocks.{i}.attn.out_proj",
        f"{_BLOCK}.feedforward.norm": "blocks.{i}.norm_2",
        f"{_BLOCK}.feedforward.up": "blocks.{i}.ffn.up_proj",
        f"{_BLOCK}.feedforward.down": "blocks.{i}.ffn.down_proj",
        "decoder.final_norm": "norm_f",
        "logits": "lm_head",
    },
    tied=(("wte.weight", "lm_head.weight"),),
)

FAMILIES: tuple[Family, ...] = (_FALCON, _GPTJ, _PHI, _MPT)
