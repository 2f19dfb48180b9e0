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
LONGROPE = {
    **SQUARE,
    "hidden_size": 32,
    "head_dim": 8,
    "partial_rotary_factor": 0.5,
    "pad_token_id": 7,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 7.0]},
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
GROUPS = {"n_group": 3, "topk_group": 2}
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
MODERNBERT = {
    "vocab_size": 31,
    "hidden_size": 24,
    "intermediate_size": 13,
    "num_hidden_layers": 5,
    "num_attention_heads": 3,
    "max_position_embeddings": 17,
    "pad_token_id": 5,
    "local_attention": 6,
    "global_rope_theta": 500.0,
    "local_rope_theta": 50.0,
}
NEOX = {
    **{key: value for key, value in LAYER_NORM.items() if key != "num_key_value_heads"},
    "bos_token_id": 3,
    "eos_token_id": 3,
}
OPT = {
    "vocab_size": 31,
    "hidden_size": 14,
    "ffn_dim": 23,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 17,
    "word_embed_proj_dim": 14,
}
BLOOM = {"vocab_size": 31, "hidden_size": 15, "n_layer": 2, "n_head": 3, "pad_token_id": 5}

BERT = {
    "vocab_size": 31,
    "hidden_size": 14,
    "intermediate_size": 23,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 17,
    "type_vocab_size": 3,
}
ROBERTA = {**BERT, "max_position_embeddings": 19, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
DISTILBERT = {
    "vocab_size": 31,
    "dim": 14,
    "hidden_dim": 23,
    "n_layers": 2,
    "n_heads": 2,
    "max_position_embeddings": 17,
}

T5 = {
    "vocab_size": 31,
    "d_model": 14,
    "d_kv": 5,
    "d_ff": 23,
    "num_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 11,
    "decoder_start_token_id": 0,
}
BART = {
    "vocab_size": 31,
    "max_position_embeddings": 17,
    "d_model": 14,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 23,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 23,
    "decoder_start_token_id": 2,
}
MARIAN = {**BART, "pad_token_id": 30, "decoder_start_token_id": 30, "decoder_vocab_size": 31}

FALCON = {
    "vocab_size": 31,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_hidden_size": 13,
    "max_position_embeddings": 17,
}
GPTJ = {
    "vocab_size": 31,
    "n_positions": 17,
    "n_embd": 20,
    "n_layer": 2,
    "n_head": 2,
    "n_inner": 13,
    "rotary_dim": 4,
    "bos_token_id": 3,
    "eos_token_id": 3,
}
GPT_NEO = {
    "vocab_size": 31,
    "max_position_embeddings": 17,
    "hidden_size": 14,
    "num_layers": 3,
    "num_heads": 2,
    "intermediate_size": 23,
    "window_size": 5,
    "bos_token_id": 3,
    "eos_token_id": 3,
}
PHI = {key: value for key, value in LAYER_NORM.items() if key != "num_key_value_heads"}
MPT = {"vocab_size": 31, "d_model": 15, "n_layers": 2, "n_heads": 3, "max_seq_len": 17}

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
    "gpt_neox": ("GPTNeoXForCausalLM", NEOX),
    "gpt_neox_options": (
        "GPTNeoXForCausalLM",
        {**NEOX, "use_parallel_residual": False, "attention_bias": False, "rotary_pct": 0.5}
        | {"rotary_emb_base": 500, "hidden_act": "gelu_new", "tie_word_embeddings": True},
    ),
    "opt": ("OPTForCausalLM", OPT),
    "opt_post": (
        "OPTForCausalLM",
        {**OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 11},
    ),
    "opt_options": (
        "OPTForCausalLM",
        {**OPT, "enable_bias": False, "_remove_final_layer_norm": True}
        | {"activation_function": "gelu", "tie_word_embeddings": False},
    ),
    "bloom": ("BloomForCausalLM", BLOOM),
    "bloom_untied": (
        "BloomForCausalLM",
        {**BLOOM, "layer_norm_epsilon": 0.03, "tie_word_embeddings": False, "pad_token_id": None},
    ),
    "bert": ("BertForMaskedLM", BERT),
    "bert_base": ("BertModel", {**BERT, "hidden_act": "relu", "pad_token_id": 5}),
    "bert_untied": ("BertForMaskedLM", {**BERT, "tie_word_embeddings": False}),
    "roberta": ("RobertaForMaskedLM", ROBERTA),
    "roberta_base": ("RobertaModel", {**ROBERTA, "type_vocab_size": 2, "pad_token_id": 3}),
    "xlm_roberta": ("XLMRobertaForMaskedLM", ROBERTA),
    "camembert": ("CamembertModel", {**ROBERTA, "hidden_act": "gelu_new"}),
    "distilbert": ("DistilBertForMaskedLM", DISTILBERT),
    "distilbert_base": ("DistilBertModel", {**DISTILBERT, "activation": "relu"}),
    "electra": ("ElectraForMaskedLM", {**BERT, "embedding_size": 14}),
    "electra_base": ("ElectraModel", {**BERT, "embedding_size": 14, "layer_norm_eps": 0.03}),
    "modernbert": ("ModernBertForMaskedLM", MODERNBERT),
    "modernbert_base": (
        "ModernBertModel",
        {**MODERNBERT, "num_hidden_layers": 3, "global_attn_every_n_layers": 2, "norm_bias": True}
        | {"attention_bias": True, "mlp_bias": True, "hidden_activation": "gelu_new"},
    ),
    "modernbert_options": (
        "ModernBertForMaskedLM",
        {**MODERNBERT, "num_hidden_layers": 3, "classifier_bias": True, "decoder_bias": False}
        | {"tie_word_embeddings": False, "norm_eps": 0.03, "norm_bias": True}
        | {"global_attn_every_n_layers": 2},
    ),
    "electra_small": ("ElectraForMaskedLM", {**BERT, "embedding_size": 11}),
    "albert": ("AlbertForMaskedLM", {**BERT, "embedding_size": 11, "num_hidden_layers": 3}),
    "albert_base": (
        "AlbertModel",
        {**BERT, "embedding_size": 11, "inner_group_num": 2, "hidden_act": "gelu"},
    ),
    "albert_untied": (
        "AlbertForMaskedLM",
        {**BERT, "embedding_size": 11, "num_hidden_groups": 2, "tie_word_embeddings": False},
    ),
    "t5": ("T5ForConditionalGeneration", {**T5, "num_decoder_layers": 1}),
    "t5_gated": (
        "T5ForConditionalGeneration",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "t5_options": (
        "T5ForConditionalGeneration",
        {**T5, "feed_forward_proj": "gelu", "layer_norm_epsilon": 0.03, "pad_token_id": 3}
        | {"decoder_start_token_id": 3, "num_layers": 1},
    ),
    "mt5": ("MT5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-silu"}),
    "mt5_tied": ("MT5ForConditionalGeneration", {**T5, "tie_word_embeddings": True}),
    "bart": ("BartForConditionalGeneration", BART),
    "bart_base": ("BartModel", {**BART, "scale_embedding": True, "activation_function": "relu"}),
    "mbart": ("MBartForConditionalGeneration", {**BART, "scale_embedding": True}),
    "mbart_untied": (
        "MBartForConditionalGeneration",
        {**BART, "tie_word_embeddings": False, "pad_token_id": 5},
    ),
    "pegasus": (
        "PegasusForConditionalGeneration",
        {**BART, "decoder_start_token_id": 0, "scale_embedding": True},
    ),
    "marian": ("MarianMTModel", {**MARIAN, "activation_function": "swish"}),
    "marian_two_vocabularies": (
        "MarianMTModel",
        {**MARIAN, "share_encoder_decoder_embeddings": False, "scale_embedding": True},
    ),
    "m2m_100": ("M2M100ForConditionalGeneration", BART),
    "falcon": ("FalconForCausalLM", FALCON),
    "falcon_grouped": (
        "FalconForCausalLM",
        {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True}
        | {"tie_word_embeddings": False},
    ),
    "falcon_one_norm": (
        "FalconForCausalLM",
        {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}
        | {"num_ln_in_parallel_attn": 1, "activation": "relu"},
    ),
    "falcon_sequential": (
        "FalconForCausalLM",
        {**FALCON, "parallel_attn": False, "multi_query": False, "bias": True},
    ),
    "gptj": ("GPTJForCausalLM", GPTJ),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {**GPT_NEO, "attention_types": [[["global", "local"], 1], [["global"], 1]]},
    ),
    "gpt_neo_options": (
        "GPTNeoForCausalLM",
        {**GPT_NEO, "num_layers": 2, "attention_types": [[["local", "global"], 1]]}
        | {"layer_norm_epsilon": 0.03, "activation_function": "relu", "intermediate_size": None},
    ),
    "gptj_tied": ("GPTJForCausalLM", {**GPTJ, "tie_word_embeddings": True, "rotary_dim": 10}),
    "phi": ("PhiForCausalLM", PHI),
    "phi_grouped": ("PhiForCausalLM", {**LAYER_NORM, "partial_rotary_factor": 0.75}),
    "mpt": ("MptForCausalLM", MPT),
    "mpt_options": (
        "MptForCausalLM",
        {**MPT, "attn_config": {"softmax_scale": 0.7}, "layer_norm_epsilon": 0.03}
        | {"tie_word_embeddings": False, "pad_token_id": 5},
    ),
}
