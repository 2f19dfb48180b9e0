"""Decoders of the generation of GPT-2, and those with other wirings than Llama's."""

from case_types import Cases
from cases_llama import LAYER_NORM

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

CASES: Cases = {
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
