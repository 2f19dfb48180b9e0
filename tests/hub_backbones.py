"""Small KerasHub backbones with random weights, and their outputs."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import keras_hub
import numpy as np
from small_models import (
    as_array,
    relative_error,
)

import builders

LENGTHS = (11, 7, 5)
SOURCE_LENGTHS = (5, 13, 7)
SIZES = {
    "vocabulary_size": 31,
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 14,
    "intermediate_dim": 23,
}
LONG = {**SIZES, "max_sequence_length": 17}
ELECTRA = {
    **{("vocab_size" if name == "vocabulary_size" else name): n for name, n in LONG.items()},
    "num_segments": 3,
}
GROUPED = {
    "vocabulary_size": 31,
    "num_layers": 3,
    "num_query_heads": 6,
    "num_key_value_heads": 3,
    "hidden_dim": 24,  # heads of 4, since rotary positions need pairs of channels
    "intermediate_dim": 23,
}
LLAMA3_SCALING = {
    "rope_frequency_adjustment_factor": 5.0,
    "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 3.0,
    "rope_pretraining_sequence_length": 7,
}
SU = {
    "rope_scaling_type": "su",
    "rope_scaling_short_factor": [1.0, 1.5],
    "rope_scaling_long_factor": [2.0, 7.0],
}
EXPERTS = {"num_experts": 5, "top_k": 3, "moe_intermediate_dim": 11}
GEMMA = {**GROUPED, "num_key_value_heads": 2, "head_dim": 10, "intermediate_dim": 46}
GEMMA2 = {
    **GEMMA,
    "use_post_ffw_norm": True,
    "use_post_attention_norm": True,
    "attention_logit_soft_cap": 1.5,
    "final_logit_soft_cap": 2.5,
    "use_sliding_window_attention": True,
    "sliding_window_size": 3,
}
GEMMA3 = {**GEMMA, "intermediate_dim": 23, "image_size": 16}
T5 = {**SIZES, "key_value_dim": 5}
GELU_TANH = keras_hub.src.utils.keras_utils.gelu_approximate

QUICK_BACKBONES = ("gpt2", "gpt_neo_x", "bloom", "llama3", "gemma2", "smollm3", "bert", "bart")
BACKBONES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", LONG),
    "opt": ("OPT", LONG),
    "gpt_neo_x": ("GPTNeoX", {**LONG, "hidden_dim": 22, "rotary_percentage": 0.4}),
    "bloom": ("Bloom", {**SIZES, "num_heads": 3, "hidden_dim": 15}),
    "llama": ("Llama", GROUPED),
    "llama3": ("Llama3", {**GROUPED, **LLAMA3_SCALING, "rope_max_wavelength": 5000}),
    "llama3, tied": ("Llama3", {**GROUPED, "tie_word_embeddings": True}),
    "mistral": ("Mistral", {**GROUPED, "sliding_window": 3, "rope_scaling_factor": 2.0}),
    "mistral, wide heads": ("Mistral", {**GROUPED, "head_dim": 10, "sliding_window": None}),
    "phi3": ("Phi3", {**GROUPED, "max_sequence_length": 17, "pretraining_sequence_length": 13}),
    "phi3, longrope": (
        "Phi3",
        {**GROUPED, "max_sequence_length": 37, "pretraining_sequence_length": 13, **SU},
    ),
    "phi3, longrope, long": (
        "Phi3",
        {**GROUPED, "max_sequence_length": 37, "pretraining_sequence_length": 7, **SU},
    ),
    "qwen": ("Qwen", {**GROUPED, "tie_word_embeddings": False, "rope_scaling_factor": 2.0}),
    "qwen, window": (
        "Qwen",
        {**GROUPED, "use_sliding_window_attention": True, "sliding_window_size": 3},
    ),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 10, "sliding_window_size": None}),
    "qwen3, window": ("Qwen3", {**GROUPED, "head_dim": 10, "sliding_window_size": 3}),
    "gemma": ("Gemma", GEMMA),
    "gemma2": ("Gemma", GEMMA2),
    "gemma3": (
        "Gemma3",
        {
            **GEMMA3,
            "num_layers": 7,
            "use_post_ffw_norm": True,
            "use_post_attention_norm": True,
            "use_sliding_window_attention": True,
            "sliding_window_size": 3,
            "local_rope_scaling_factor": 2.0,
            "global_rope_scaling_factor": 8.0,
        },
    ),
    "gemma3, full": (
        "Gemma3",
        {
            **GEMMA3,
            "use_query_key_norm": False,
            "attention_logit_soft_cap": 1.5,
            "final_logit_soft_cap": 2.5,
        },
    ),
    "smollm3": (
        "SmolLM3",
        {
            **{name: value for name, value in GROUPED.items() if name != "num_query_heads"},
            "num_attention_heads": 6,
            "attention_bias": True,
            "attention_dropout": 0.0,
            "rope_layer_enabled_list": [True, False],
            "layer_types": ["full_attention"] * 3,
            "mlp_bias": True,
            "layer_norm_epsilon": 0.03,
            "max_position_embeddings": 17,
            "rope_theta": 500.0,
            "partial_rotary_factor": 1.0,
        },
    ),
    "mixtral": ("Mixtral", {**GROUPED, "num_experts": 5, "sliding_window": 3}),
    "qwen_moe": ("QwenMoe", {**GROUPED, **EXPERTS, "shared_expert_intermediate_dim": 13}),
    "qwen3_moe": (
        "Qwen3Moe",
        {
            **GROUPED,
            **EXPERTS,
            "head_dim": 10,
            "norm_top_k_prob": True,
            "sliding_window_size": None,
        },
    ),
    "gpt_oss": (
        "GptOss",
        {**GROUPED, "head_dim": 10, "num_experts": 5, "top_k": 3, "sliding_window": 3}
        | {"rope_scaling_factor": 4.0, "rope_max_wavelength": 500},
    ),
    "bert": ("Bert", {**LONG, "num_segments": 3}),
    "electra": ("Electra", {**ELECTRA, "embedding_dim": 14}),
    "electra, projected": ("Electra", {**ELECTRA, "embedding_dim": 11}),
    "albert": ("Albert", {**LONG, "embedding_dim": 11, "num_segments": 3}),
    "albert, two blocks": (
        "Albert",
        {**LONG, "embedding_dim": 11, "num_segments": 3, "num_inner_repetitions": 2},
    ),
    "roberta": ("Roberta", LONG),
    "distil_bert": ("DistilBert", LONG),
    "bart": ("Bart", LONG),
    "t5": ("T5", {**T5, "activation": "relu", "use_gated_activation": False}),
    "t5 1.1": ("T5", {**T5, "activation": GELU_TANH, "tie_embedding_weights": False}),
}


def backbone_of(name: str, seed: int = 0) -> Any:
    """Return a backbone with random weights, including norms and biases."""
    cls, config = BACKBONES[name]
    backbone = getattr(keras_hub.models, f"{cls}Backbone")(**config)
    randomise(backbone, seed)
    return backbone


@cache
def shared_backbone(name: str) -> Any:
    """Return `backbone_of`, built once for all tests that do not change it."""
    return backbone_of(name)


def randomise(model: Any, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if variable.path.endswith("inv_freq"):  # which follow from the settings
            continue
        noise = rng.normal(size=variable.shape).astype("float32")
        if variable.path.endswith(("gamma", "scale", "weight")):
            variable.assign(1.0 + 0.3 * noise)
        else:
            variable.assign(0.3 * noise)


def tokens_of(pad: int, lengths: Sequence[int] = LENGTHS) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens (b, t) of rows of unequal length, and the mask of real tokens."""
    rng = np.random.default_rng(lengths[0])
    tokens = rng.integers(2, 31, (len(lengths), max(lengths)), dtype="int32")
    real = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
    return np.where(real, tokens, pad).astype("int32"), real


def theirs(backbone: Any, pad: int) -> dict[str, Any]:
    """Return inputs, the mask of real tokens, and the outputs of a backbone."""
    tokens, real = tokens_of(pad)
    mask = real.astype("int32")
    if "encoder_token_ids" in backbone.input:
        sources, sources_real = tokens_of(pad, SOURCE_LENGTHS)
        found = backbone(
            {
                "encoder_token_ids": sources,
                "encoder_padding_mask": sources_real.astype("int32"),
                "decoder_token_ids": tokens,
                "decoder_padding_mask": mask,
            }
        )
        hidden = found["decoder_sequence_output"]
        inputs: Any = {"source": sources, "target": tokens}
    elif "segment_ids" in backbone.input:
        segments = np.random.default_rng(2).integers(0, 3, tokens.shape, dtype="int32")
        found = backbone({"token_ids": tokens, "segment_ids": segments, "padding_mask": mask})
        hidden = found["sequence_output"]
        inputs = {"tokens": tokens, "segments": segments}
    else:
        found = hidden = backbone({"token_ids": tokens, "padding_mask": mask})
        inputs = tokens
    return {"inputs": inputs, "real": real, "hidden": as_array(hidden), "found": found}


def logits_of_task(backbone: Any, hidden: np.ndarray) -> np.ndarray:
    """Return the logits of KerasHub's tasks for hidden states."""
    if type(backbone).__name__ == "T5Backbone" and backbone.tie_embedding_weights:
        hidden = hidden * backbone.hidden_dim**-0.5
    return as_array(backbone.token_embedding(hidden, reverse=True))


def hidden_of(model: Any, inputs: Any) -> np.ndarray:
    """Return the hidden states before the logits: the last norm of the stack."""
    spec = model.spec
    last = f"decoder.block_{spec.num_layers - 1}.feedforward.norm"
    name = "decoder.final_norm" if spec.final_norm else last
    return as_array(builders.build_probe(model.model, spec, name)(inputs)[name])


def assert_same_hidden_states_and_logits(model: Any, backbone: Any) -> None:
    spec = model.spec
    expected = theirs(backbone, spec.pad_token_id or 0)
    inputs, real = expected["inputs"], expected["real"]
    if spec.kind == "encoder_only":
        found = model.model(inputs)
        assert relative_error(as_array(found["hidden"])[real], expected["hidden"][real]) < 1e-5
        if spec.pooler:
            pooled = as_array(expected["found"]["pooled_output"])
            assert relative_error(as_array(found["pooled"]), pooled) < 1e-5
        return
    assert relative_error(hidden_of(model, inputs)[real], expected["hidden"][real]) < 1e-5
    logits = logits_of_task(backbone, expected["hidden"])
    assert relative_error(as_array(model.model(inputs))[real], logits[real]) < 1e-5
