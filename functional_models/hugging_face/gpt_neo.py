"""GPT-Neo, whose blocks alternate between full attention and a window."""

from __future__ import annotations

from itertools import islice
from typing import Any

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face.block_types import (
    FULL,
    SLIDING,
    window_fields,
    written_layer_types,
    written_window,
)
from functional_models.hugging_face.family import NEEDS_TIED, Family
from functional_models.hugging_face.gpt import CAUSAL_MASK
from functional_models.hugging_face.rules import DECODER_PADDING, activation
from functional_models.hugging_face.silent import CLASSIFIER, SUMMARY

_TYPES = {"global": FULL, "local": SLIDING}
_BLOCK, _H = "decoder.block_{i}", "h.{i}"


def _windows(config: Config) -> dict[str, Any]:
    """Read `attention_types`, patterns with the number of their repetitions."""
    given, listed = config["attention_types"], config["attention_layers"]
    every = (name for names, times in given for _ in range(times) for name in names)
    types = list(islice(every, config["num_layers"] + 1))  # a number of times may be huge
    if listed not in (None, types):
        raise ValueError(
            f"attention_layers={listed!r} and attention_types={given!r} contradict each other; "
            "remove the first"
        )
    if len(types) != config["num_layers"] or not set(types) <= _TYPES.keys():
        raise ValueError(
            f"attention_types={given!r}: must give 'global' or 'local' to each of "
            f"{config['num_layers']} blocks"
        )
    return window_fields([_TYPES[name] for name in types], config["window_size"])


def _written_windows(spec: TransformerSpec) -> dict[str, Any]:
    names = {kind: name for name, kind in _TYPES.items()}
    types = [names[kind] for kind in written_layer_types(spec)]
    return {"attention_types": [[types, 1]], "window_size": written_window(spec, 256)}


FAMILIES: tuple[Family, ...] = (
    Family(
        model_types=("gpt_neo",),
        heads={"GPTNeoForCausalLM": {}, "GPTNeoModel": NEEDS_TIED},
        constants={
            **forms.GPT,
            "positions": "learned",
            "attention_scale": 1.0,
            "attention_bias": False,
            "attention_output_bias": True,
        },
        fields={
            "vocab_size": "vocabulary_size",
            "max_position_embeddings": "max_sequence_length",
            "hidden_size": "hidden_dim",
            "num_layers": "num_layers",
            "num_heads": "num_heads",
            "intermediate_size": "intermediate_dim",
            "layer_norm_epsilon": "norm_epsilon",
            "resid_dropout": "dropout",
            "embed_dropout": "embedding_dropout",
            "attention_dropout": "attention_dropout",
            "tie_word_embeddings": "tie_embeddings",
        },
        rules=(
            activation("activation_function"),
            DECODER_PADDING,
            Rule(
                ("attention_types", "window_size"),
                _windows,
                _written_windows,
                optional=("attention_layers",),
            ),
        ),
        defaults={
            "intermediate_size": None,
            "activation_function": "gelu_new",
            "window_size": 256,
            "resid_dropout": 0.0,
            "embed_dropout": 0.0,
            "attention_dropout": 0.0,
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
            "pad_token_id": None,
            "bos_token_id": 50256,
            "eos_token_id": 50256,
        },
        silent={"classifier_dropout": CLASSIFIER, **SUMMARY},
        aliases={"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"},
        prefix="transformer.",
        layers={
            "decoder.token_embedding": "wte",
            "decoder.position_embedding": "wpe",
            f"{_BLOCK}.self_attention.norm": f"{_H}.ln_1",
            **{
                f"{_BLOCK}.self_attention.{role}": f"{_H}.attn.attention.{name}_proj"
                for role, name in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "out"))
            },
            f"{_BLOCK}.feedforward.norm": f"{_H}.ln_2",
            f"{_BLOCK}.feedforward.up": f"{_H}.mlp.c_fc",
            f"{_BLOCK}.feedforward.down": f"{_H}.mlp.c_proj",
            "decoder.final_norm": "ln_f",
            "logits": "lm_head",
        },
        tied=(("wte.weight", "lm_head.weight"),),
        unread={r"attention\.(masked_)?bias": CAUSAL_MASK},
    ),
)
