"""Encoder-decoders."""

from case_types import Cases

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

CASES: Cases = {
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
    "umt5": ("UMT5ForConditionalGeneration", {**T5, "num_decoder_layers": 3}),
    "umt5_untied": (
        "UMT5ForConditionalGeneration",
        {**T5, "feed_forward_proj": "relu", "tie_word_embeddings": False, "pad_token_id": 3}
        | {"decoder_start_token_id": 3},
    ),
    "umt5_base": ("UMT5Model", {**T5, "feed_forward_proj": "gated-silu"}),
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
}
