"""Llama and its relatives without experts."""

from case_types import Cases

LLAMA = {
    "vocab_size": 31,
    "hidden_size": 12,
    "intermediate_size": 13,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 37,
    "rms_norm_eps": 1e-5,
}
SQUARE = {**LLAMA, "hidden_size": 16, "head_dim": 4}  # heads are as wide as the model
SQUARE_WITHOUT_HEAD_DIM = {key: value for key, value in SQUARE.items() if key != "head_dim"}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 5.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 3.0,
    "original_max_position_embeddings": 7,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 11}
WINDOWS = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0}
LONGROPE = {
    **SQUARE,
    "hidden_size": 32,
    "head_dim": 8,
    "partial_rotary_factor": 0.5,
    "pad_token_id": 7,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 7.0]},
}
GEMMA2 = {
    **LLAMA,
    "num_hidden_layers": 3,
    "attn_logit_softcapping": 1.5,
    "final_logit_softcapping": 2.5,
    "query_pre_attn_scalar": 11,
    "sliding_window": 5,
}
GEMMA3 = {
    **{key: value for key, value in GEMMA2.items() if key != "attn_logit_softcapping"},
    "rope_theta": 500.0,
    "rope_local_base_freq": 50.0,
}
LAYER_NORM = {
    **{key: value for key, value in LLAMA.items() if key not in ("rms_norm_eps", "head_dim")},
    "hidden_size": 24,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
}
COHERE = {**LAYER_NORM, "rope_theta": 500.0, "logit_scale": 0.3, "layer_norm_eps": 0.03}
EXAONE = {**SQUARE, "num_hidden_layers": 3, "rope_theta": 500.0}
OLMO3 = {**SQUARE_WITHOUT_HEAD_DIM, "num_hidden_layers": 4, "rope_theta": 500_000.0}

CASES: Cases = {
    "llama": ("LlamaForCausalLM", LLAMA),
    "llama_options": (
        "LlamaForCausalLM",
        {
            **LLAMA,
            "attention_bias": True,
            "mlp_bias": True,
            "hidden_act": "gelu",
            "rope_theta": 500.0,
            "pad_token_id": 5,
        },
    ),
    "llama_base": ("LlamaModel", {**LLAMA, "tie_word_embeddings": True}),
    "llama_linear": (
        "LlamaForCausalLM",
        {**LLAMA, "rope_scaling": {"rope_type": "linear", "factor": 3.0}},
    ),
    "llama3": ("LlamaForCausalLM", {**LLAMA, "rope_scaling": LLAMA3, "rope_theta": 500.0}),
    "llama_yarn": ("LlamaForCausalLM", {**LLAMA, "rope_scaling": YARN}),
    "llama_yarn_magnitude": (
        "LlamaForCausalLM",
        {**LLAMA, "rope_scaling": {**YARN, "attention_factor": 0.7}},
    ),
    "mistral": ("MistralForCausalLM", {**LLAMA, "sliding_window": 5}),
    "mistral_tied": (
        "MistralForCausalLM",
        {**SQUARE, "sliding_window": None, "head_dim": None, "pad_token_id": 5}
        | {"tie_word_embeddings": True},
    ),
    "qwen2": ("Qwen2ForCausalLM", {**LLAMA, "tie_word_embeddings": True}),
    "qwen2_windows": (
        "Qwen2ForCausalLM",
        {**LLAMA, **WINDOWS, "rope_scaling": YARN, "pad_token_id": 5},
    ),
    "qwen3": ("Qwen3ForCausalLM", LLAMA),
    "qwen3_windows": ("Qwen3ForCausalLM", {**LLAMA, **WINDOWS, "attention_bias": True}),
    "gemma": ("GemmaForCausalLM", {**LLAMA, "num_key_value_heads": 1}),
    "gemma_options": (
        "GemmaForCausalLM",
        {**LLAMA, "attention_bias": True, "rms_norm_eps": 0.03, "rope_theta": 500.0}
        | {"tie_word_embeddings": False, "hidden_act": "relu"},
    ),
    "gemma2": ("Gemma2ForCausalLM", GEMMA2),
    "gemma3_text": (
        "Gemma3ForCausalLM",
        {**GEMMA3, "rope_scaling": {"rope_type": "linear", "factor": 3.0}}
        | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "gemma3_text_options": (
        "Gemma3ForCausalLM",
        {**GEMMA3, "final_logit_softcapping": None, "attention_bias": True, "hidden_size": 20}
        | {"sliding_window_pattern": 2, "tie_word_embeddings": False, "hidden_activation": "silu"},
    ),
    "cohere": ("CohereForCausalLM", COHERE),
    "cohere_options": (
        "CohereForCausalLM",
        {**COHERE, "num_attention_heads": 6, "num_key_value_heads": 2, "use_qk_norm": True}
        | {"attention_bias": True, "tie_word_embeddings": False, "pad_token_id": 7},
    ),
    "cohere2": (
        "Cohere2ForCausalLM",
        {**COHERE, "num_hidden_layers": 3, "sliding_window": 5, "sliding_window_pattern": 2},
    ),
    "smollm3": (
        "SmolLM3ForCausalLM",
        {**SQUARE_WITHOUT_HEAD_DIM, "num_hidden_layers": 3, "no_rope_layer_interval": 2}
        | {"pad_token_id": 7},
    ),
    "smollm3_options": (
        "SmolLM3ForCausalLM",
        {**SQUARE_WITHOUT_HEAD_DIM, "no_rope_layers": [0, 1], "use_sliding_window": True}
        | {"sliding_window": 5, "attention_bias": True, "mlp_bias": True, "rope_theta": 500.0}
        | {"pad_token_id": None, "tie_word_embeddings": False},
    ),
    "olmo": (
        "OlmoForCausalLM",
        {key: value for key, value in SQUARE_WITHOUT_HEAD_DIM.items() if key != "rms_norm_eps"},
    ),
    "olmo_options": (
        "OlmoForCausalLM",
        {key: value for key, value in SQUARE_WITHOUT_HEAD_DIM.items() if key != "rms_norm_eps"}
        | {"attention_bias": True, "tie_word_embeddings": True, "rope_theta": 500.0}
        | {"rope_scaling": {"type": "linear", "factor": 3.0}},
    ),
    "olmo3": ("Olmo3ForCausalLM", {**OLMO3, "sliding_window": 5, "rope_scaling": YARN}),
    "olmo3_options": (
        "Olmo3ForCausalLM",
        {**OLMO3, "sliding_window": 3, "attention_bias": True, "num_hidden_layers": 2}
        | {"layer_types": ["full_attention", "sliding_attention"], "hidden_act": "gelu"},
    ),
    "exaone4": ("Exaone4ForCausalLM", {**EXAONE, "sliding_window": 5, "sliding_window_pattern": 2}),
    "exaone4_full": (
        "Exaone4ForCausalLM",
        {**EXAONE, "sliding_window": None, "layer_types": ["full_attention"] * 3}
        | {"rope_scaling": LLAMA3, "tie_word_embeddings": True},
    ),
    "olmo2": ("Olmo2ForCausalLM", {**SQUARE_WITHOUT_HEAD_DIM, "attention_bias": True}),
    "granite": (
        "GraniteForCausalLM",
        {**SQUARE_WITHOUT_HEAD_DIM, "attention_multiplier": 0.4, "embedding_multiplier": 3.0}
        | {"residual_multiplier": 0.22, "logits_scaling": 5.0, "tie_word_embeddings": True},
    ),
    "phi3": ("Phi3ForCausalLM", {**SQUARE, "sliding_window": 5, "pad_token_id": 7}),
    "phi3_partial": (
        "Phi3ForCausalLM",
        {**SQUARE, "partial_rotary_factor": 0.5, "pad_token_id": 7, "tie_word_embeddings": True},
    ),
    "phi3_longrope": ("Phi3ForCausalLM", {**LONGROPE, "original_max_position_embeddings": 13}),
    "phi3_longrope_long": (
        "Phi3ForCausalLM",
        {**LONGROPE, "original_max_position_embeddings": 7, "tie_word_embeddings": True}
        | {"sliding_window": 64},
    ),
    "stablelm": ("StableLmForCausalLM", LAYER_NORM),
    "stablelm_bias": (
        "StableLmForCausalLM",
        {**LAYER_NORM, "use_qkv_bias": True, "partial_rotary_factor": 0.5, "hidden_act": "gelu"},
    ),
    "starcoder2": ("Starcoder2ForCausalLM", {**LAYER_NORM, "sliding_window": 5}),
    "starcoder2_plain": (
        "Starcoder2ForCausalLM",
        {**LAYER_NORM, "use_bias": False, "tie_word_embeddings": False, "norm_epsilon": 0.03},
    ),
}
