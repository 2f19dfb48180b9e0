"""Decoders with mixtures of experts."""

from case_types import Cases
from cases_llama import LLAMA, LLAMA3, YARN

# PyTorch multiplies experts whose widths are multiples of 16 bytes.
EXPERTS = {**LLAMA, "num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 20}
GPT_OSS = {
    **LLAMA,
    "intermediate_size": 20,
    "num_local_experts": 5,
    "num_experts_per_tok": 3,
    "sliding_window": 5,
    "rope_scaling": {**YARN, "truncate": False, "beta_fast": 3.0},
}
LLAMA4 = {
    **LLAMA,
    "num_hidden_layers": 4,
    "intermediate_size": 20,
    "intermediate_size_mlp": 13,
    "num_local_experts": 5,
    "attention_chunk_size": 4,
    "floor_scale": 3,
    "attn_scale": 0.5,
}
DEEPSEEK = {
    "vocab_size": 31,
    "hidden_size": 12,
    "intermediate_size": 13,
    "moe_intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 37,
    "kv_lora_rank": 8,  # rows of an even number of channels, for complex numbers in PyTorch
    "q_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 3,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 3,
}
QWEN3_NEXT = {
    **EXPERTS,
    "num_hidden_layers": 4,
    "head_dim": 8,
    "shared_expert_intermediate_size": 11,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 3,
    "linear_value_head_dim": 5,
}
GROUPS = {"n_group": 3, "topk_group": 2}

CASES: Cases = {
    "mixtral": (
        "MixtralForCausalLM",
        {**LLAMA, "intermediate_size": 20, "num_local_experts": 5, "sliding_window": 5},
    ),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        {key: value for key, value in EXPERTS.items() if key != "head_dim"}
        | {"hidden_size": 24, "shared_expert_intermediate_size": 11},
    ),
    "qwen2_moe_dense": (
        "Qwen2MoeForCausalLM",
        {key: value for key, value in EXPERTS.items() if key != "head_dim"}
        | {"hidden_size": 24, "shared_expert_intermediate_size": 11, "num_hidden_layers": 3}
        | {"mlp_only_layers": [1]},
    ),
    "qwen3_moe": ("Qwen3MoeForCausalLM", EXPERTS),
    "qwen3_moe_dense": (
        "Qwen3MoeForCausalLM",
        {**EXPERTS, "decoder_sparse_step": 2, "num_hidden_layers": 3},
    ),
    "qwen3_moe_options": (
        "Qwen3MoeForCausalLM",
        {**EXPERTS, "norm_topk_prob": True, "use_sliding_window": True, "sliding_window": 5}
        | {"attention_bias": True, "tie_word_embeddings": True},
    ),
    "qwen3_next": ("Qwen3NextForCausalLM", QWEN3_NEXT),
    "qwen3_next_options": (
        "Qwen3NextForCausalLM",
        {**QWEN3_NEXT, "num_hidden_layers": 3, "full_attention_interval": 2}
        | {"linear_num_value_heads": 2, "linear_conv_kernel_dim": 3, "mlp_only_layers": [1]}
        | {"partial_rotary_factor": 0.5, "attention_bias": True, "tie_word_embeddings": True}
        | {"norm_topk_prob": False, "pad_token_id": 5, "rope_theta": 500.0},
    ),
    "gpt_oss": ("GptOssForCausalLM", GPT_OSS),
    "gpt_oss_options": (
        "GptOssForCausalLM",
        {**GPT_OSS, "rope_scaling": {"rope_type": "default"}, "tie_word_embeddings": True}
        | {"layer_types": ["full_attention", "sliding_attention"], "pad_token_id": 5}
        | {"num_experts_per_tok": 1, "attention_bias": False, "rope_theta": 500.0},
    ),
    "llama4_text": (
        "Llama4ForCausalLM",
        {**LLAMA4, "rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}},
    ),
    "llama4_text_options": (
        "Llama4ForCausalLM",
        {**LLAMA4, "use_qk_norm": False, "interleave_moe_layer_step": 2, "pad_token_id": 5}
        | {"no_rope_layers": [0, 1, 1, 0], "num_experts_per_tok": 2, "tie_word_embeddings": True},
    ),
    "deepseek_v2": ("DeepseekV2ForCausalLM", {**DEEPSEEK, "q_lora_rank": None}),
    "deepseek_v2_groups": (
        "DeepseekV2ForCausalLM",
        {**DEEPSEEK, **GROUPS, "topk_method": "group_limited_greedy", "attention_bias": True}
        | {"routed_scaling_factor": 1.7, "first_k_dense_replace": 0, "n_shared_experts": 1},
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {**DEEPSEEK, **GROUPS, "rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}},
    ),
    "deepseek_v3_options": (
        "DeepseekV3ForCausalLM",
        {**DEEPSEEK, "n_group": 1, "topk_group": 1, "q_lora_rank": None, "attention_bias": True}
        | {"rope_interleave": False, "norm_topk_prob": False, "first_k_dense_replace": 0}
        | {"rope_scaling": {**YARN, "mscale_all_dim": 0.5}, "tie_word_embeddings": True}
        | {"pad_token_id": 5},
    ),
}
