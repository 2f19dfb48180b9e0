"""Values of spec fields that are allowed on their own and not together, and words of the errors."""

from typing import Any

EXPERTS = {"num_experts": 6, "num_active_experts": 2}
LONGROPE: dict[str, Any] = {
    "positions": "rotary",
    "rotary_dim": 6,
    "rotary_scaling": "longrope",
    "rotary_original_length": 5,
    "rotary_short_factors": (1.0, 1.5, 2.0),
    "rotary_long_factors": (2.0, 3.0, 5.0),
}
LATENTS = {"latent_dim": 5, "rotary_dim": 4}
CONFLICTING_VALUES: list[tuple[dict[str, Any], list[str]]] = [
    ({"hidden_dim": 13}, ["hidden_dim=13", "num_heads=2", "head_dim"]),
    (
        {"num_heads": 7, "num_key_value_heads": 3},
        ["num_key_value_heads=3", "divisor of num_heads=7", "equal groups"],
    ),
    (
        {"attention": "layer", "num_key_value_heads": 1},
        ["num_key_value_heads=1", "must be 2", "attention='layer'", "use attention='graph'"],
    ),
    (
        {"attention": "layer", "attention_output_bias": False},
        ["attention_output_bias=False", "must be True", "attention='layer'"],
    ),
    (
        {"attention": "layer", "attention_soft_cap": 30.0},
        ["attention_soft_cap=30.0", "must be None", "attention='layer'"],
    ),
    (
        {"attention": "layer", **LATENTS},
        ["latent_dim=5", "must be None", "attention='layer'", "use attention='graph'"],
    ),
    (
        {"latent_dim": 5},
        ["rotary_dim=7", "below head_dim=7 where latent_dim=5", "that all heads share"],
    ),
    (
        {**LATENTS, "num_key_value_heads": 1},
        ["num_key_value_heads=1", "2, as num_heads", "a key of its own", "leave it out"],
    ),
    ({**LATENTS, "qk_norm": True}, ["qk_norm=True", "latent_dim=5", "a norm", "leave it out"]),
    (
        {**LATENTS, "attention_temperature": 0.1},
        ["attention_temperature=0.1", "0 where latent_dim=5", "two parts", "leave it out"],
    ),
    (
        {**LATENTS, "value_residual": True},
        ["value_residual=True", "latent_dim=5", "no values to mix", "leave it out"],
    ),
    ({"attention": "layer", "attention_scale": 1.0}, ["attention_scale=1.0", "None"]),
    ({"attention": "layer", "qk_norm": True}, ["qk_norm=True", "False"]),
    ({"attention": "layer", "attention_sinks": True}, ["attention_sinks=True", "False"]),
    ({"attention": "layer", "attention_gate": True}, ["attention_gate=True", "False"]),
    ({"attention": "layer", "attention_temperature": 0.1}, ["attention_temperature=0.1", "0 "]),
    (
        {"attention_chunk": 5, "attention_window": 3},
        ["attention_chunk=5", "None where attention_window=3", "give one of the two"],
    ),
    (
        {"attention_chunk": 5, "block_overrides": ({}, {"attention_window": 3})},
        ["block_overrides=({}, {'attention_window': 3})", "attention_chunk=5", "give one of the"],
    ),
    (
        {"qk_norm": True, "qk_norm_heads": "separate", "qk_norm_gain": False},
        ["qk_norm_gain=False", "True where qk_norm_heads='separate'", "use qk_norm_heads="],
    ),
    (
        {"qk_norm": True, "norm_gain": False, "qk_norm_gain": True},
        ["qk_norm_gain=True", "False where norm_gain=False", "leave it out"],
    ),
    (
        {"attention": "layer", "positions": "rotary"},
        ["positions='rotary'", "attention='layer'", "use attention='graph'"],
    ),
    ({"positions": "rotary"}, ["rotary_dim=7", "even", "head_dim=7"]),
    ({"positions": "rotary", "rotary_dim": 8}, ["rotary_dim=8", "at most head_dim=7"]),
    (
        {"positions": "rotary", "rotary_dim": 6, "rotary_factor": 2.0},
        ["rotary_factor=2.0", "rotary_scaling='none'", "yarn"],
    ),
    (
        {"positions": "rotary", "rotary_dim": 6, "rotary_low_freq_factor": 5.0},
        ["rotary_high_freq_factor=4.0", "above rotary_low_freq_factor=5.0"],
    ),
    (
        {"positions": "relative", "relative_buckets": 7},
        ["relative_buckets=7", "multiple of 2"],
    ),
    (
        {"positions": "relative", "relative_buckets": 6, "kind": "encoder_decoder"},
        ["relative_buckets=6", "multiple of 4"],
    ),
    (
        {"positions": "relative", "relative_max_distance": 16},
        ["relative_max_distance=16", "above 16", "fewer relative_buckets"],
    ),
    (
        {"merge": "rezero", "skip_scale": "deep_norm"},
        ["skip_scale='deep_norm'", "1 where merge='rezero'", "use merge='scaled'"],
    ),
    (
        {"merge": "highway", "branch_scale": "inverse_sqrt_depth"},
        ["branch_scale='inverse_sqrt_depth'", "1 where merge='highway'", "use merge='scaled'"],
    ),
    (
        {"merge": "none", "stochastic_depth": 0.5},
        ["stochastic_depth=0.5", "0 where merge='none'", "use merge='add'"],
    ),
    (
        {"norm_placement": "post", "norm_scale": "inverse_sqrt_depth"},
        ["norm_scale='inverse_sqrt_depth'", "1 where norm_placement='post'", "'pre'"],
    ),
    (
        {"num_streams": 3},
        ["num_streams=3", "1 where merge='add'", "use merge='hyper_connections'"],
    ),
    (
        {"norm_placement": "post", "merge": "static_hyper_connections"},
        ["norm_placement='post'", "merge='static_hyper_connections'", "use norm_placement='pre'"],
    ),
    (
        {"merge": "hyper_connections", "skip_scale": 2.0},
        ["skip_scale=2.0", "1 where merge='hyper_connections'", "use merge='scaled'"],
    ),
    (
        {"distinct_blocks": 4},
        ["distinct_blocks=4", "at most 3, the blocks of the model", "leave it out"],
    ),
    (
        {"distinct_blocks": 1, "block_overrides": ({}, {"qk_norm": True})},
        ["distinct_blocks=1", "a multiple of 2", "pattern of block_overrides", "equal"],
    ),
    (
        {"value_residual": True, "block_overrides": ({}, {"num_key_value_heads": 1})},
        ["value_residual=True", "False", "change num_key_value_heads", "the same"],
    ),
    (
        {"distinct_blocks": 1, "merge": "rezero", "branch_scale": "inverse_sqrt_depth"},
        ["branch_scale='inverse_sqrt_depth'", "a number", "distinct_blocks=1", "share"],
    ),
    (
        {"attention": "layer", "value_residual": True},
        ["value_residual=True", "must be False", "attention='layer'", "use attention='graph'"],
    ),
    (
        {"prefix_lm": True, "kind": "encoder_decoder"},
        ["prefix_lm=True", "False where kind='encoder_decoder'", "use kind='decoder_only'"],
    ),
    (
        {"prefix_lm": True, "mixer": "gated_delta"},
        ["prefix_lm=True", "a block has mixer='gated_delta'", "earlier tokens alone"],
    ),
    (
        {"prefix_lm": True, "block_overrides": ({}, {"mixer": "gated_delta"})},
        ["prefix_lm=True", "a block has mixer='gated_delta'", "in all blocks"],
    ),
    (
        {"prefix_lm": True, "positions": "relative", "relative_buckets": 6},
        ["relative_buckets=6", "a multiple of 4 where kind='decoder_only' and prefix_lm=True"],
    ),
    (
        {"mixer": "gated_delta", "kind": "encoder_decoder"},
        ["mixer='gated_delta'", "attention where kind='encoder_decoder'", "kind='decoder_only'"],
    ),
    (
        {"kind": "encoder_only", "block_overrides": ({}, {"mixer": "gated_delta"})},
        [
            f"block_overrides={({}, {'mixer': 'gated_delta'})}",
            "attention where kind='encoder_only'",
        ],
    ),
    (
        {"mixer": "gated_delta", "value_residual": True},
        ["mixer='gated_delta'", "value_residual=True", "use value_residual=False"],
    ),
    (
        {"mixer": "gated_delta", "kernel_constraint": "unit_norm"},
        ["mixer='gated_delta'", "kernel_constraint='unit_norm'", "leave one of the two out"],
    ),
    (
        {"mixer": "gated_delta", "delta_key_heads": 2, "delta_value_heads": 3},
        ["delta_value_heads=3", "a multiple of delta_key_heads=2", "change one of the two"],
    ),
    (
        {"merge": "spherical", "branch_scale": 0.0},
        ["branch_scale=0.0", "above 0 where merge='spherical'", "leave it out"],
    ),
    (
        {"norm": "unit", "norm_gain": True},
        ["norm_gain=True", "False where norm='unit'", "no weights", "leave it out"],
    ),
    ({"norm": "unit", "norm_bias": True}, ["norm_bias=True", "norm='unit'", "leave it out"]),
    (
        {"qk_norm": True, "qk_norm_heads": "tied", "num_key_value_heads": 1},
        ["qk_norm_heads='tied'", "num_key_value_heads=1", "use qk_norm_heads='separate'"],
    ),
    (
        {"kernel_constraint": "unit_norm", "attention": "layer"},
        ["kernel_constraint='unit_norm'", "none where attention='layer'", "one of the two"],
    ),
    (
        {"kernel_constraint": "unit_norm", "num_experts": 6, "num_active_experts": 2},
        ["kernel_constraint='unit_norm'", "none where num_experts=6", "one of the two"],
    ),
    (
        {"kernel_constraint": "unit_norm", "latent_dim": 5, "positions": "none", "rotary_dim": 3},
        ["kernel_constraint='unit_norm'", "none where latent_dim=5", "one of the two"],
    ),
    (
        {"positions": "coordinates", "merge": "hyper_connections"},
        ["positions='coordinates'", "merge='hyper_connections'", "use positions='sinusoidal'"],
    ),
    (
        {"positions": "coordinates", "hidden_dim": 13, "head_dim": 5},
        ["hidden_dim=13", "even where positions='coordinates'", "change the width"],
    ),
    (
        {"embedding_projection": "sum"},
        ["embedding_projection='sum'", "tokens where embedding_dim=hidden_dim=14", "leave it out"],
    ),
    (
        {"embedding_projection": "sum", "embedding_dim": 5, "positions": "sinusoidal"},
        ["embedding_dim=5", "even where positions='sinusoidal'", "change the width"],
    ),
    (
        {"scale_embeddings": True, "embedding_scale": 12.0},
        ["embedding_scale=12.0", "None where scale_embeddings=True", "one factor or the other"],
    ),
    (
        {"scale_logits": True, "logit_scale": 0.0625},
        ["logit_scale=0.0625", "None where scale_logits=True", "one factor or the other"],
    ),
    (
        {"norm": "rms", "norm_gain": False, "norm_offset": True},
        ["norm_offset=True", "False where norm_gain=False", "leave it out"],
    ),
    (
        {"norm_placement": "post", "attention_norm": False},
        ["attention_norm=False", "True where norm_placement='post'", "use norm_placement='pre'"],
    ),
    ({"norm": "rms", "norm_bias": True}, ["norm_bias=True", "False", "norm='rms'"]),
    ({"norm_offset": True}, ["norm_offset=True", "norm='layer'", "use norm='rms'"]),
    (
        {"hidden_dim": 13, "head_dim": 5, "positions": "sinusoidal"},
        ["hidden_dim=13", "even", "sinusoidal"],
    ),
    (
        {"hidden_dim": 13, "head_dim": 5, "positions": "sinusoidal_concat"},
        ["hidden_dim=13", "even", "sinusoidal_concat"],
    ),
    (
        {"kind": "decoder_only", "share_embeddings": True},
        ["share_embeddings=True", "decoder_only", "tie_embeddings"],
    ),
    (
        {"kind": "encoder_decoder", "share_embeddings": True, "source_vocabulary_size": 29},
        ["source_vocabulary_size=29", "vocabulary_size=31", "share_embeddings"],
    ),
    (
        {"kind": "encoder_decoder", "source_vocabulary_size": 29, "pad_token_id": 30},
        ["pad_token_id=30", "[0, 29)"],
    ),
    (
        {"kind": "encoder_decoder", "pad_token_id": 31},
        ["pad_token_id=31", "None or a token id in [0, 31)", "every vocabulary"],
    ),
    (
        {"num_key_value_heads": 3, "num_heads": 2},
        ["num_key_value_heads=3", "divisor of num_heads=2"],
    ),
    (
        {"kind": "encoder_only", "num_encoder_layers": 2},
        ["num_encoder_layers=2", "num_layers=3 where kind='encoder_only'", "leave it out"],
    ),
    (
        {"kind": "encoder_only", "share_embeddings": True},
        ["share_embeddings=True", "kind='encoder_only'", "tie_embeddings"],
    ),
    (
        {"kind": "encoder_decoder", "num_segments": 2},
        ["num_segments=2", "0 where kind='encoder_decoder'", "kind='encoder_only'"],
    ),
    (
        {"block_overrides": ({}, {"qk_norm": True}) * 2},
        [f"block_overrides={({}, {'qk_norm': True}) * 2}", "at most 3 blocks", "shorten it"],
    ),
    (
        {"block_overrides": ({"norm": "rms"},)},
        ["block_overrides=({'norm': 'rms'},)", "unlike norm", "set norm for the whole model"],
    ),
    (
        {"block_overrides": ({"num_key_value_heads": 3},)},
        ["block_overrides=({'num_key_value_heads': 3},)", "must be a divisor of num_heads=2"],
    ),
    (
        {"positions": "none", "block_overrides": ({}, {"positions": "sinusoidal"})},
        ["block_overrides=({}, {'positions': 'sinusoidal'})", "'none'", "use positions='rotary'"],
    ),
    (
        {"attention": "layer", "positions": "alibi"},
        ["positions='alibi'", "attention='layer'", "use attention='graph'"],
    ),
    (
        {"attention": "layer", "positions": "relative"},
        ["positions='relative'", "attention='layer'", "use attention='graph'"],
    ),
    (
        {"positions": "rotary", "rotary_dim": 5},
        ["rotary_dim=5", "even", "head_dim=7", "give rotary_dim, or another head_dim"],
    ),
    (
        {"positions": "rotary", "rotary_dim": 6, "rotary_low_freq_factor": 4},
        ["rotary_high_freq_factor=4.0", "above rotary_low_freq_factor=4", "raise"],
    ),
    (
        {
            "positions": "rotary",
            "rotary_dim": 6,
            "rotary_scaling": "yarn",
            "rotary_base": 1,
        },
        ["rotary_base=1", "above 1", "rotary_scaling='yarn'", "'llama3'"],
    ),
    (
        {
            "positions": "rotary",
            "rotary_dim": 6,
            "rotary_scaling": "yarn",
            "rotary_low_freq_factor": 0.0,
        },
        ["rotary_low_freq_factor=0.0", "above 0", "rotary_scaling='yarn'", "'llama3'"],
    ),
    (
        {**LONGROPE, "rotary_short_factors": (1.0, 2.0)},
        ["rotary_short_factors=(1.0, 2.0)", "3 numbers where rotary_scaling='longrope'", "take"],
    ),
    (
        {**LONGROPE, "rotary_long_factors": None},
        ["rotary_long_factors=None", "3 numbers where rotary_scaling='longrope'", "take them"],
    ),
    (
        {**LONGROPE, "rotary_original_length": 1},
        ["rotary_original_length=1", "above 1 where rotary_scaling='longrope'", "'linear'"],
    ),
    (
        {**LONGROPE, "attention_window": 5},
        ["attention_window=5", "None or above rotary_original_length=5", "the cache", "leave"],
    ),
    (
        {**LONGROPE, "attention_chunk": 4},
        ["attention_chunk=4", "None or above rotary_original_length=5", "the cache", "leave"],
    ),
    (
        {"num_experts": 4},
        ["num_active_experts=0", "from 1 to num_experts=4", "give the number of experts"],
    ),
    (
        {"num_experts": 4, "num_active_experts": 5},
        ["num_active_experts=5", "from 1 to num_experts=4"],
    ),
    ({"num_experts": 1}, ["num_experts=1", "0 or at least 2", "use 0"]),
    (
        {"num_active_experts": 2},
        ["num_active_experts=2", "0 where num_experts=0", "give num_experts"],
    ),
    (
        {**EXPERTS, "shared_expert_gate": True},
        ["shared_expert_gate=True", "shared_expert_dim=0", "give shared_expert_dim"],
    ),
    (
        {**EXPERTS, "scale_expert_inputs": True, "capacity_factor": 1.5},
        ["capacity_factor=1.5", "None where scale_expert_inputs=True", "use feedforward_bias=Fa"],
    ),
    (
        {**EXPERTS, "num_expert_groups": 5},
        ["num_expert_groups=5", "a divisor of num_experts=6", "change one"],
    ),
    (
        {**EXPERTS, "num_expert_groups": 3, "num_active_groups": 4},
        ["num_active_groups=4", "at most num_expert_groups=3", "leave it out"],
    ),
    (
        {**EXPERTS, "num_active_experts": 3, "num_expert_groups": 3, "num_active_groups": 1},
        ["num_active_experts=3", "at most 2", "num_active_groups=1", "raise num_active_groups"],
    ),
    (
        {**EXPERTS, "num_expert_groups": 3, "group_score_experts": 3},
        ["group_score_experts=3", "at most 2", "experts of a group"],
    ),
    (
        {"positions": "relative", "relative_buckets": 1},
        ["relative_buckets=1", "a multiple of 2 where kind='decoder_only'"],
    ),
]
"""(fields of a spec, words of the error); the first word is the field that is wrong."""
