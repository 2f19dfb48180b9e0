"""Backbones of KerasHub for text and speech at a small size, with the number of skip paths.

The numbers follow from the constructors: two for each layer of an encoder or a decoder, three for
each layer of a decoder with cross-attention, one for each residual block of a convolutional network
with equal sizes on both sides, and what is said otherwise.
"""

from collections.abc import Callable
from typing import Any

import keras_hub

SIZES = {
    "vocabulary_size": 31,
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 23,
}
GROUPED = {
    "vocabulary_size": 31,
    "num_layers": 3,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 22,
}
HEADS = {**GROUPED, "head_dim": 8}
SCALED = {"image_size": 16, "vision_encoder": None}
EXPERTS = {**GROUPED, "num_experts": 3, "top_k": 2}
LINEAR = {
    **HEADS,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "partial_rotary_factor": 0.5,
}
T5GEMMA = {
    "vocabulary_size": 31,
    **{
        f"{part}_{name}": value
        for part in ("encoder", "decoder")
        for name, value in {
            "hidden_dim": 16,
            "intermediate_dim": 22,
            "num_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "layer_types": ["full_attention"] * 2,
        }.items()
    },
}


def backbone(name: str, *sizes: dict[str, Any], **more: Any) -> Callable[[], Any]:
    together = {key: value for given in (*sizes, more) for key, value in given.items()}
    return lambda: getattr(keras_hub.models, f"{name}Backbone")(**together)


TEXT_MODELS: dict[str, tuple[Callable[[], Any], int]] = {
    # Encoders and decoders of text
    "Albert": (backbone("Albert", SIZES, embedding_dim=8), 6),
    "Bart": (backbone("Bart", SIZES), 3 * 2 + 3 * 3),
    "Bert": (backbone("Bert", SIZES), 6),
    "Bloom": (backbone("Bloom", SIZES), 6),
    "DebertaV3": (backbone("DebertaV3", SIZES), 6),
    "DistilBert": (backbone("DistilBert", SIZES), 6),
    "EdRec": (
        backbone(
            "EdRec",
            vocab_size=31,
            num_layers_enc=2,
            num_layers_dec=2,
            hidden_dim=16,
            intermediate_dim=22,
            num_heads=2,
        ),
        2 * 2 + 2 * 3,
    ),
    "Electra": (
        backbone(
            "Electra",
            vocab_size=31,
            num_layers=3,
            num_heads=2,
            hidden_dim=16,
            embedding_dim=8,
            intermediate_dim=22,
        ),
        6,
    ),
    "ESM2": (backbone("ESM2", SIZES), 6),
    "ESM2, pre": (backbone("ESM2", SIZES, use_pre_layer_norm=True), 6),
    "FNet": (
        backbone("FNet", vocabulary_size=31, num_layers=3, hidden_dim=16, intermediate_dim=22),
        6,
    ),
    "Falcon": (  # parallel: attention and feed-forward are added up
        backbone(
            "Falcon",
            vocabulary_size=31,
            num_layers=3,
            num_attention_heads=2,
            hidden_dim=16,
            intermediate_dim=22,
        ),
        6,
    ),
    "GPT2": (backbone("GPT2", SIZES), 6),
    # Attention and feed-forward are parallel, and added up first.
    "GPTNeoX": (backbone("GPTNeoX", SIZES, rotary_percentage=0.5), 3),
    "Gemma": (backbone("Gemma", HEADS), 6),
    "Gemma3": (backbone("Gemma3", HEADS, SCALED), 6),
    "Gemma4": (backbone("Gemma4", HEADS, SCALED), 6),
    "GptOss": (backbone("GptOss", EXPERTS, num_layers=4), 8),
    "Llama": (backbone("Llama", GROUPED), 6),
    "Llama3": (backbone("Llama3", GROUPED), 6),
    "Mistral": (backbone("Mistral", GROUPED), 6),
    "Mixtral": (backbone("Mixtral", EXPERTS), 6),
    "OPT": (backbone("OPT", SIZES), 6),
    "Phi3": (backbone("Phi3", GROUPED), 6),
    "Qwen2": (backbone("Qwen2", GROUPED), 6),
    "Qwen3": (backbone("Qwen3", HEADS), 6),
    "Qwen3Moe": (backbone("Qwen3Moe", EXPERTS, head_dim=8, moe_intermediate_dim=10), 6),
    "Qwen3_5": (backbone("Qwen3_5", LINEAR), 6),
    "Qwen3_5Moe": (
        backbone(
            "Qwen3_5Moe",
            {k: v for k, v in LINEAR.items() if k != "intermediate_dim"},
            moe_intermediate_dim=10,
            shared_expert_intermediate_size=10,
            num_experts=3,
            top_k=2,
        ),
        6,
    ),
    "QwenMoe": (
        backbone("QwenMoe", EXPERTS, moe_intermediate_dim=10, shared_expert_intermediate_dim=10),
        6,
    ),
    "RWKV7": (
        backbone(
            "RWKV7",
            hidden_size=16,
            head_size=8,
            num_layers=3,
            vocabulary_size=31,
            intermediate_dim=22,
            gate_lora=4,
            mv_lora=4,
            aaa_lora=4,
            decay_lora=4,
        ),
        6,
    ),
    "Roberta": (backbone("Roberta", SIZES), 6),
    "RoformerV2": (backbone("RoformerV2", SIZES, head_size=8), 6),
    "SmolLM3": (
        backbone(
            "SmolLM3",
            vocabulary_size=31,
            hidden_dim=16,
            intermediate_dim=22,
            num_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            attention_bias=False,
            attention_dropout=0.0,
            rope_layer_enabled_list=[True, True, False],
            layer_types=["attention"] * 3,
            mlp_bias=False,
            layer_norm_epsilon=1e-5,
            max_position_embeddings=64,
            rope_theta=10000.0,
            partial_rotary_factor=1.0,
        ),
        6,
    ),
    "T5": (backbone("T5", SIZES), 3 * 2 + 3 * 3),
    "T5Gemma": (backbone("T5Gemma", T5GEMMA), 2 * 2 + 2 * 3),
    "T5Gemma2": (backbone("T5Gemma2", T5GEMMA), 2 * 2 + 2 * 2),  # merged attention
    "XLMRoberta": (backbone("XLMRoberta", SIZES), 6),
    "XLNet": (backbone("XLNet", SIZES), 6),
    # Speech
    "Moonshine": (
        backbone(
            "Moonshine",
            vocabulary_size=31,
            filter_dim=16,
            encoder_num_layers=2,
            decoder_num_layers=2,
            hidden_dim=16,
            intermediate_dim=22,
            encoder_num_heads=2,
            decoder_num_heads=2,
        ),
        2 * 2 + 2 * 3,
    ),
    "Whisper": (backbone("Whisper", SIZES), 3 * 2 + 3 * 3),
}
