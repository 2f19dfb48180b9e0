"""Keys of every configuration that say nothing about the outputs, with the reason of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GENERATION = "a setting of `generate`, which is given to `generate` here"
SPECIAL_TOKEN = "a token that the tokenizer or generation uses, not the model"
LABELS = "about the labels of a classifier; where one is read, `id2label` names its classes"
ORIGIN = "says where the model comes from, or what wrote it"
RETURNS = "chooses what PyTorch returns"
TRAINING = "of training only, or of new weights"
EXECUTION = "chooses how the same numbers are computed or stored"
NOT_READ = "not read by transformers"
CLASSIFIER = "of the head of a classifier or of another model that is refused"
CLASSIFIER_DROPOUT = "dropout before the classes, of training only: a spec has one `dropout`"

SUMMARY: Mapping[str, str] = dict.fromkeys(
    (
        "summary_type",
        "summary_use_proj",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
    ),
    CLASSIFIER,
)
"""Keys of the heads of classifiers of GPT-2 and its relatives."""

ROUTER: Mapping[str, str] = {
    "output_router_logits": RETURNS,
    "router_aux_loss_coef": TRAINING,
    "router_jitter_noise": TRAINING,
}
"""Keys of mixtures of experts."""

SILENT: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "max_length",
            "max_new_tokens",
            "min_length",
            "do_sample",
            "early_stopping",
            "num_beams",
            "num_beam_groups",
            "diversity_penalty",
            "temperature",
            "top_k",
            "top_p",
            "typical_p",
            "repetition_penalty",
            "length_penalty",
            "no_repeat_ngram_size",
            "encoder_no_repeat_ngram_size",
            "bad_words_ids",
            "num_return_sequences",
            "return_dict_in_generate",
            "output_scores",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "force_bos_token_to_be_generated",
            "remove_invalid_values",
            "exponential_decay_length_penalty",
            "suppress_tokens",
            "begin_suppress_tokens",
            "prefix",
            "task_specific_params",
            "use_cache",
            "cache_implementation",
        ),
        GENERATION,
    ),
    **dict.fromkeys(
        (
            "bos_token_id",
            "eos_token_id",
            "sep_token_id",
            "cls_token_id",
            "mask_token_id",
            "unk_token_id",
            "decoder_start_token_id",
            "tokenizer_class",
        ),
        SPECIAL_TOKEN,
    ),
    **dict.fromkeys(("id2label", "label2id", "num_labels", "problem_type"), LABELS),
    **dict.fromkeys(
        (
            "_name_or_path",
            "name_or_path",
            "_commit_hash",
            "transformers_version",
            "finetuning_task",
            "auto_map",
        ),
        ORIGIN,
    ),
    **dict.fromkeys(
        ("output_hidden_states", "output_attentions", "output_past", "return_dict"), RETURNS
    ),
    **dict.fromkeys(("gradient_checkpointing", "initializer_range", "tf_legacy_loss"), TRAINING),
    **dict.fromkeys(
        (
            "torch_dtype",
            "dtype",
            "torchscript",
            "use_bfloat16",
            "xla_device",
            "chunk_size_feed_forward",
            "attn_implementation",
            "_attn_implementation",
            "_attn_implementation_autoset",
            "_attn_implementation_internal",
            "_flash_attn_2_enabled",
            "is_encoder_decoder",  # the class says it too
        ),
        EXECUTION,
    ),
}

REQUIRED: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "compression_config": (None,),
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False, None),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "tie_encoder_decoder": (False, None),
}
