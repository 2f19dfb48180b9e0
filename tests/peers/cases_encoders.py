"""Encoders."""

from case_types import Cases

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

LABELS = {"id2label": {0: "bad", 1: "so so", 2: "good"}}
LABELS["label2id"] = {name: number for number, name in LABELS["id2label"].items()}

CASES: Cases = {
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
    "bert_classes": ("BertForSequenceClassification", {**BERT, **LABELS}),
    "roberta_classes": ("RobertaForSequenceClassification", {**ROBERTA, **LABELS}),
    "xlm_roberta_classes": ("XLMRobertaForSequenceClassification", {**ROBERTA, **LABELS}),
    "camembert_classes": ("CamembertForSequenceClassification", {**ROBERTA, "num_labels": 5}),
    "distilbert_classes": ("DistilBertForSequenceClassification", {**DISTILBERT, **LABELS}),
    "electra_classes": (
        "ElectraForSequenceClassification",
        {**BERT, **LABELS, "embedding_size": 11, "problem_type": "single_label_classification"},
    ),
    "albert_classes": ("AlbertForSequenceClassification", {**BERT, "embedding_size": 11}),
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
}
