"""GPT-2."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import Rule
from functional_models.hugging_face.family import NEEDS_TIED, Family, Place
from functional_models.hugging_face.rules import DECODER_PADDING, activation
from functional_models.hugging_face.silent import CLASSIFIER, EXECUTION

CAUSAL_MASK = "a causal mask, which is computed"


def third(number: int) -> Callable[[np.ndarray, TransformerSpec], np.ndarray]:
    """Return the part of queries, keys or values, each of all heads, of fused projections."""
    return lambda array, spec: np.split(array, 3)[number]


def _conv1d(name: str) -> Place:
    return Place(f"{name}.weight", f"{name}.bias", inputs_first=True)


_BLOCK, _H = "decoder.block_{i}", "h.{i}"

_GPT2 = Family(
    model_types=("gpt2",),
    heads={"GPT2LMHeadModel": {}, "GPT2Model": NEEDS_TIED},
    constants={**forms.GPT, "positions": "learned"},
    fields={
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
    },
    rules=(
        activation("activation_function"),
        DECODER_PADDING,
        Rule(
            ("scale_attn_weights",),
            lambda config: {"attention_scale": None if config["scale_attn_weights"] else 1.0},
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
        **dict.fromkeys(
            (
                "summary_type",
                "summary_use_proj",
                "summary_activation",
                "summary_first_dropout",
                "summary_proj_to_labels",
            ),
            CLASSIFIER,
        ),
    },
    prefix="transformer.",
    layers={
        "decoder.token_embedding": "wte",
        "decoder.position_embedding": "wpe",
        f"{_BLOCK}.self_attention.norm": f"{_H}.ln_1",
        **{
            f"{_BLOCK}.self_attention.{role}": Place(
                f"{_H}.attn.c_attn.weight", f"{_H}.attn.c_attn.bias", third(number), True
            )
            for number, role in enumerate(("query", "key", "value"))
        },
        f"{_BLOCK}.self_attention.output": _conv1d(f"{_H}.attn.c_proj"),
        f"{_BLOCK}.feedforward.norm": f"{_H}.ln_2",
        f"{_BLOCK}.feedforward.up": _conv1d(f"{_H}.mlp.c_fc"),
        f"{_BLOCK}.feedforward.down": _conv1d(f"{_H}.mlp.c_proj"),
        "decoder.final_norm": "ln_f",
        "logits": "lm_head",
    },
    copies={"lm_head.weight": "wte.weight"},
    unread={r"attn\.(masked_)?bias": CAUSAL_MASK},
)

FAMILIES: tuple[Family, ...] = (_GPT2,)
