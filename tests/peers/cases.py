"""Tiny models of every family that is read from folders of Hugging Face.

Each case: the class in transformers, and the settings of its configuration. Sizes are distinct
primes where the class allows that, and the texts of the tests are longer than the windows.
"""

from typing import Any

Case = tuple[str, dict[str, Any]]

GPT2 = {
    "vocab_size": 31,
    "n_positions": 17,
    "n_embd": 14,
    "n_layer": 2,
    "n_head": 2,
    "n_inner": 23,
    "bos_token_id": 3,
    "eos_token_id": 3,
}

CASES: dict[str, Case] = {
    "gpt2": ("GPT2LMHeadModel", GPT2),
    "gpt2_options": (
        "GPT2LMHeadModel",
        {
            **GPT2,
            "n_inner": None,
            "activation_function": "relu",
            "layer_norm_epsilon": 0.03,
            "scale_attn_weights": False,
            "tie_word_embeddings": False,
            "pad_token_id": 5,
            "reorder_and_upcast_attn": True,
        },
    ),
    "gpt2_base": ("GPT2Model", {**GPT2, "activation_function": "gelu"}),
}
