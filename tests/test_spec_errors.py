"""Every value that a spec refuses has an error that names it and what is allowed."""

import ast
import dataclasses
import json
import math
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_specs import SIZES, spec_of

from builders import TransformerSpec, components, fields, spec_checks, spec_fields
from builders import spec as spec_module

BAD_VALUES = [
    ("kind", "decoder", "decoder_only"),
    ("vocabulary_size", 0, "positive int"),
    ("vocabulary_size", None, "positive int"),
    ("source_vocabulary_size", -1, "positive int"),
    ("num_layers", 0, "positive int"),
    ("num_layers", 99_999_999_999, "a positive int of at most 10,000"),
    ("num_encoder_layers", 10_001, "a positive int of at most 10,000"),
    ("vocabulary_size", 10**11, "a positive int of at most 16,777,216"),
    ("hidden_dim", 10**30, "a positive int of at most 4,194,304"),
    ("max_sequence_length", 10**11, "a positive int of at most 1,073,741,824"),
    ("attention_window", 10**11, "positive int, or None for full attention; at most 1,073,741,824"),
    ("num_segments", 10**11, "at least 0 and at most 4,194,304"),
    ("rotary_base", 10**280, "a number of at least 1 and at most 3e+38"),
    ("attention_scale", 1e300, "positive number, or None"),
    ("num_encoder_layers", 1.0, "positive int"),
    ("hidden_dim", "14", "positive int"),
    ("intermediate_dim", 0, "positive int"),
    ("max_sequence_length", -7, "positive int"),
    ("num_heads", True, "positive int"),
    ("num_key_value_heads", 0, "positive int"),
    ("num_key_value_heads", True, "positive int"),
    ("num_key_value_heads", 4, "divisor of num_heads=2"),
    ("head_dim", 0, "positive int"),
    ("norm_placement", "before", "post, pre"),
    ("merge", "addition", "add, none, scaled"),
    ("skip_scale", -1.0, "a number from 0 to 3e+38, or the name of a rule by depth"),
    ("skip_scale", "deepnorm", "allowed: deep_norm, or a number from 0 to 3e+38"),
    ("skip_scale", 2.0, "1 where merge='add'"),
    ("branch_scale", math.inf, "a number from 0"),
    ("branch_scale", 0.5, "1 where merge='add'"),
    ("norm_scale", True, "a number from 0"),
    ("stochastic_depth", 1.0, "[0, 1)"),
    ("norm", "batch", "layer, rms, unit"),
    ("embedding_scale", 0, "positive number, or None"),
    ("logit_scale", -1.0, "positive number, or None"),
    ("norm_gain", 1, "True or False"),
    ("attention_norm", 1, "True or False"),
    ("qk_norm_heads", "all", "shared, separate, tied, joint"),
    ("qk_norm_rotated", None, "True or False"),
    ("logit_gain", 0, "True or False"),
    ("mixer", "mamba", "attention, gated_delta"),
    ("delta_key_heads", 0, "positive int"),
    ("delta_value_heads", -1, "positive int"),
    ("delta_key_dim", True, "positive int"),
    ("delta_value_dim", 2.0, "positive int"),
    ("delta_convolution", 0, "positive int"),
    ("kernel_constraint", "max_norm", "none, unit_norm"),
    ("norm_bias", 1, "True or False"),
    ("norm_offset", "yes", "True or False"),
    ("norm_offset", True, "False where norm='layer'"),
    ("embedding_norm", None, "True or False"),
    ("norm_epsilon", 0.0, "between 0 and 1"),
    ("norm_epsilon", float("nan"), "between 0 and 1"),
    ("final_norm", "yes", "True or False"),
    ("positions", "sinusoid", "sinusoidal"),
    ("feedforward", "swiglu", "mlp, glu"),
    ("rotary_base", 0.5, "at least 1"),
    ("rotary_base", "10000", "at least 1"),
    ("rotary_dim", 0, "positive int"),
    ("rotary_scaling", "ntk", "none, linear, llama3, yarn"),
    ("rotary_factor", 0.5, "at least 1"),
    ("rotary_factor", float("nan"), "at least 1"),
    ("rotary_original_length", -1, "positive int"),
    ("rotary_low_freq_factor", -1.0, "at least 0"),
    ("rotary_high_freq_factor", True, "at least 0"),
    ("relative_buckets", 0, "positive int"),
    ("relative_max_distance", 12.0, "positive int"),
    ("activation", "swish", "silu"),
    ("feedforward_bias", None, "True or False"),
    ("attention", "flash", "graph, layer"),
    ("attention_window", 0, "positive int, or None"),
    ("attention_window", -1, "positive int, or None"),
    ("attention_window", True, "positive int, or None"),
    ("attention_window", 2.5, "positive int, or None"),
    ("num_experts", -1, "at least 0"),
    ("num_experts", 10**6, "at most 65,536"),
    ("num_active_experts", 2, "0 where num_experts=0"),
    ("expert_dim", 0, "positive int"),
    ("shared_expert_dim", -1, "at least 0"),
    ("shared_expert_gate", 1, "True or False"),
    ("router_scores", "tanh", "softmax, sigmoid"),
    ("router_bias", 0, "True or False"),
    ("renormalize_scores", None, "True or False"),
    ("router_scale", -1.0, "at least 0"),
    ("num_expert_groups", 0, "positive int"),
    ("num_active_groups", 0, "positive int"),
    ("group_score_experts", 0, "positive int"),
    ("router_correction_rate", 0.0, "positive number, or None"),
    ("balance_loss", -0.1, "at least 0"),
    ("router_z_loss", float("nan"), "at least 0"),
    ("capacity_factor", 0, "positive number, or None"),
    ("embedding_dim", 0, "positive int"),
    ("embedding_projection", "all", "tokens, sum"),
    ("num_segments", -1, "at least 0"),
    ("num_segments", 2, "0 where kind='decoder_only'"),
    ("pooler", True, "False where kind='decoder_only'"),
    ("pooler", 1, "True or False"),
    ("masked_lm_head", True, "kind='encoder_only'"),
    ("scale_logits", 0, "True or False"),
    ("mask_target_padding", None, "True or False"),
    ("num_streams", 0, "a positive int"),
    ("block_skips", "dense", "none, unet, embedding"),
    ("value_residual", 0.5, "True or False"),
    ("distinct_blocks", 0, "positive int, or None for weights of its own"),
    ("block_overrides", None, "a tuple of mappings of fields"),
    ("block_overrides", ({}, "positions"), "a tuple of mappings of fields"),
    ("block_overrides", ({}, {}, {}, {}), "a pattern of at most 3 blocks"),
    ("block_overrides", ({"hidden_dim": 7},), "can differ between blocks, unlike hidden_dim"),
    ("block_overrides", ({"attention_window": 0},), "attention_window=0: must be a positive int"),
    ("block_overrides", ({"positions": "rotary"},), "without other positions than 'learned'"),
    ("attention_bias", None, "True or False"),
    ("attention_output_bias", 0, "True or False"),
    ("attention_scale", 0, "positive number, or None"),
    ("attention_scale", float("inf"), "positive number, or None"),
    ("attention_soft_cap", -30.0, "positive number, or None"),
    ("attention_soft_cap", True, "positive number, or None"),
    ("logit_soft_cap", float("nan"), "positive number, or None"),
    ("logit_soft_cap", "30", "positive number, or None"),
    ("qk_norm", 1, "True or False"),
    ("scale_embeddings", 1, "True or False"),
    ("tie_embeddings", "no", "True or False"),
    ("share_embeddings", 0, "True or False"),
    ("logit_bias", None, "True or False"),
    ("pad_token_id", 31, "[0, 31)"),
    ("pad_token_id", -1, "[0, 31)"),
    ("pad_token_id", 0.0, "[0, 31)"),
    ("dropout", 1.0, "[0, 1)"),
    ("dropout", -0.1, "[0, 1)"),
    ("dropout", None, "[0, 1)"),
    ("attention_dropout", float("nan"), "[0, 1)"),
    ("embedding_dropout", "0.1", "[0, 1)"),
    ("activation_dropout", 1.5, "[0, 1)"),
    ("final_dropout", None, "[0, 1)"),
    ("feedforward_dropout", 1, "[0, 1)"),
    ("initializer", "xavier", "glorot_uniform"),
    ("initializer_range", 0, "between 0 and 1"),
]


@pytest.mark.parametrize(("field", "value", "allowed"), BAD_VALUES)
def test_the_error_for_a_bad_value_names_field_value_and_allowed_values(
    field: str, value: Any, allowed: str
) -> None:
    for make in (spec_of, spec_of().replace):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            make(**{field: value})
        message = str(error.value)
        assert field in message
        assert repr(value) in message
        assert allowed in message


def test_every_field_has_a_bad_value_above() -> None:
    assert {field for field, _, _ in BAD_VALUES} == {
        field.name for field in dataclasses.fields(TransformerSpec)
    }


WRONG_VALUES: dict[str, tuple[Any, ...]] = {
    "int": (-1, -1.0, True, False, 2.0, 2.5, math.nan, math.inf, "2", [2]),
    "float": (-0.5, True, False, math.nan, math.inf, -math.inf, "0.5", [0.5]),
    "tuple[Mapping[str, Any], ...]": (0, True, "none", {}, [1], ({1: 2},), ({}, None)),
    "bool": (0, 1, 1.0, math.nan, "True", "no", [True]),
    "str": (0, True, math.nan, "", "nonsense", ["none"]),
}
"""Values that no field of the type allows."""


@pytest.mark.parametrize("field", dataclasses.fields(TransformerSpec), ids=lambda field: field.name)
def test_values_of_another_type_and_nan_are_rejected(field: dataclasses.Field[Any]) -> None:
    """The message names the given value first, then the allowed ones."""
    name = field.name
    type_name, _, optional = str(field.type).partition(" | ")
    values = WRONG_VALUES[type_name]
    if not optional and field.default is not None:  # not derived either
        values += (None,)
    for value in values:
        given = re.escape(repr(value))
        with pytest.raises(
            ValueError, match=rf"^({name}={given}: must be|unknown {name} {given}).*\w"
        ):
            spec_of(**{name: value})


MISSPELLED_NAMES: list[tuple[str, Any, str]] = [
    ("kind", "decoder-only", "decoder_only"),
    ("norm_placement", "sandwhich", "sandwich"),
    ("norm_placement", None, "none"),
    ("merge", "re_zero", "rezero"),
    ("merge", None, "none"),
    ("block_skips", "u-net", "unet"),
    ("norm", "layernorm", "layer"),
    ("positions", "rotarry", "rotary"),
    ("positions", "sinusoid", "sinusoidal"),
    ("positions", None, "none"),
    ("rotary_scaling", "llama", "llama3"),
    ("rotary_scaling", None, "none"),
    ("feedforward", "swiglu", "glu"),
    ("activation", "relu2", "relu"),
    ("activation", "GELU_tanh", "gelu_tanh"),
    ("activation", "SiLU", "silu"),
    ("attention", "graphs", "graph"),
    ("qk_norm_heads", "per_head_shared", "shared"),
    ("embedding_projection", "token", "tokens"),
    ("router_scores", "sigmoids", "sigmoid"),
    ("kernel_constraint", "unitnorm", "unit_norm"),
    ("mixer", "gated_deltanet", "gated_delta"),
    ("initializer", "glorot", "glorot_uniform"),
]


@pytest.mark.parametrize(("field", "given_name", "close"), MISSPELLED_NAMES)
def test_the_error_for_an_unknown_name_suggests_the_closest_and_lists_all(
    field: str, given_name: Any, close: str
) -> None:
    begin = rf"^unknown {field} {given_name!r} \(did you mean {close!r}.*\?\); allowed: "
    with pytest.raises(ValueError, match=begin) as error:
        spec_of(**{field: given_name})
    listed = str(error.value).partition("; allowed: ")[2].split(", ")
    rule = fields.rule_of({f.name: f for f in dataclasses.fields(TransformerSpec)}[field])
    names = components.component_names(field) if rule.is_component else rule.names
    assert listed == list(names)


def test_every_field_that_takes_a_name_has_a_misspelled_name_above() -> None:
    names = {field.name for field in dataclasses.fields(TransformerSpec) if field.type == "str"}
    assert {field for field, _, _ in MISSPELLED_NAMES} == names


@pytest.mark.parametrize("feedforward", ["mlp", "glu"])
@pytest.mark.parametrize("activation", [None, "", "linear", "none"])
def test_every_feedforward_requires_an_activation(feedforward: str, activation: Any) -> None:
    with pytest.raises(ValueError, match=rf"unknown activation {activation!r}.*allowed: relu, "):
        spec_of(feedforward=feedforward, activation=activation)


EXPERTS = {"num_experts": 6, "num_active_experts": 2}
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
    ({"attention": "layer", "attention_scale": 1.0}, ["attention_scale=1.0", "None"]),
    ({"attention": "layer", "qk_norm": True}, ["qk_norm=True", "False"]),
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


@pytest.mark.parametrize(("changes", "words"), CONFLICTING_VALUES)
def test_conflicting_values_are_rejected(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        spec_of(**changes)
    field, value = words[0].split("=")[0], words[0].partition("=")[2]
    assert str(error.value).startswith(f"{field}={value}: must be ")
    for word in words:
        assert word in str(error.value)


@pytest.fixture
def own_feedforward(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return a spec's fields with a registered feed-forward layer, for the duration of a test."""
    monkeypatch.setattr(components, "_components", dict(components._components))
    components.register_component("feedforward", "own")(lambda scope, x: x)
    return {"feedforward": "own"}


def test_experts_of_a_registered_form_are_rejected(own_feedforward: dict[str, Any]) -> None:
    assert spec_of(**own_feedforward).feedforward == "own"
    with pytest.raises(ValueError, match="feedforward='own': must be mlp or glu where num_exp"):
        spec_of(**own_feedforward, **EXPERTS)


def test_an_unknown_field_is_rejected() -> None:
    with pytest.raises((TypeError, ValueError), match="num_layer"):
        spec_of(num_layer=2)


def test_replace_and_from_json_suggest_the_closest_field_and_how_to_list_all() -> None:
    bad_json = json.dumps({**SIZES, "num_layer": 2})
    for attempt in (
        lambda: spec_of().replace(num_layer=2),
        lambda: TransformerSpec.from_json(bad_json),
    ):
        with pytest.raises(ValueError, match=r"'num_layer'.*did you mean 'num_layers'") as error:
            attempt()
        number = len(dataclasses.fields(TransformerSpec))
        assert str(error.value).endswith(f"`functional-models fields` lists all {number}")


def test_an_unknown_field_of_a_block_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"block_overrides: .*'window' \(did you mean") as error:
        spec_of(block_overrides=({"window": 3},))
    assert "rotary_base" in str(error.value)


INVALID_JSON: list[tuple[str, str]] = [
    ("", "JSON object"),
    ("{", "JSON object"),
    ("[1, 2]", "JSON object.*list"),
    ("{}", "vocabulary_size"),
    (json.dumps({"vocabulary_size": 31}), "num_layers.*hidden_dim.*num_heads"),
    (json.dumps({**SIZES, "format": 3}), "format 3.*upgrade"),
    (json.dumps({**SIZES, "positions": ["learned"]}), "positions.*learned"),
]


@pytest.mark.parametrize(("text", "words"), INVALID_JSON)
def test_invalid_json_is_rejected(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TransformerSpec.from_json(text)


# Coverage of errors -----------------------------------------------------------------------------


SPEC_FILES = (
    spec_module.__file__,
    spec_checks.__file__,
    spec_fields.__file__,
    fields.__file__,
)


def lines_that_raise() -> list[tuple[str, int, int]]:
    """Return (file, first line, last line) of every `raise` and `_require(...)` of a spec."""
    lines = []
    for file in SPEC_FILES:
        tree = ast.parse(Path(file).read_text("utf-8"))
        ignored = ("_require", "check_length")  # the second is about sequences, not specs
        tree.body = [node for node in tree.body if getattr(node, "name", "") not in ignored]
        lines += [
            (file, node.lineno, node.end_lineno or node.lineno)
            for node in ast.walk(tree)
            if isinstance(node, ast.Raise)
            or (isinstance(node, ast.Call) and ast.unparse(node.func) == "_require")
        ]
    return lines


def line_that_raised(make: Callable[[], Any]) -> tuple[str, int]:
    """Return the (file, line) of an error, outside `_require`."""
    with pytest.raises(ValueError) as error:  # noqa: PT011
        make()
    frames = [
        frame
        for frame in traceback.extract_tb(error.value.__traceback__)
        if frame.filename in SPEC_FILES and frame.name != "_require"
    ]
    return frames[-1].filename, frames[-1].lineno or 0


def test_every_error_of_a_spec_is_tested_above(own_feedforward: dict[str, Any]) -> None:
    attempts: list[Callable[[], Any]] = [lambda: spec_of().replace(num_layer=2)]
    attempts += [lambda: spec_of(**own_feedforward, **EXPERTS)]
    attempts += [lambda: spec_of(block_overrides=({"window": 3},))]
    attempts += [lambda f=f, v=v: spec_of(**{f: v}) for f, v, _ in BAD_VALUES]
    attempts += [lambda changes=changes: spec_of(**changes) for changes, _ in CONFLICTING_VALUES]
    attempts += [lambda text=text: TransformerSpec.from_json(text) for text, _ in INVALID_JSON]
    raised = {line_that_raised(attempt) for attempt in attempts}
    for file, first, last in lines_that_raise():
        lines = {line for other, line in raised if other == file}
        assert lines & set(range(first, last + 1)), f"{file}, line {first}"
