"""A spec is frozen, validated on creation and unchanged by a JSON round trip."""

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
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import TransformerSpec, components, fields, spec_checks, spec_fields
from builders import spec as spec_module
from builders.spec import KINDS, fields_by_group

SIZES: dict[str, Any] = {
    "vocabulary_size": 31,
    "num_layers": 3,
    "hidden_dim": 14,
    "num_heads": 2,
}
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "relu_squared")
POSITIONS = ("learned", "sinusoidal", "sinusoidal_concat", "alibi", "relative", "none")
SCALINGS = ("linear", "llama3", "yarn")
PLACEMENTS = ("post", "pre", "sandwich", "parallel", "none")
INITIALIZERS = ("glorot_uniform", "normal", "depth_scaled", "t5")


def spec_of(**changes: Any) -> TransformerSpec:
    return TransformerSpec(**{**SIZES, **changes})


def divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


@st.composite
def field_values(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a valid value of every field."""
    size = st.integers(1, 997)
    rate = st.floats(0, 1, exclude_max=True)
    num_heads = draw(st.integers(1, 13))
    head_dim = draw(st.none() | size)
    hidden_dim = draw(size) * 2 * (num_heads if head_dim is None else 1)
    vocabulary_size = draw(size)
    norm = draw(st.sampled_from(("layer", "rms")))
    width = head_dim or hidden_dim // num_heads
    even = [2, max(2, 2 * (width // 2))]
    # rotary_dim is derived from head_dim, which must then be even.
    positions = (*POSITIONS, "rotary") if width % 2 == 0 else POSITIONS
    positive = st.none() | st.floats(1e-3, 1e3)
    kind = draw(st.sampled_from(("decoder_only", "encoder_decoder", "encoder_only")))
    is_encoder = kind == "encoder_only"
    window = None if is_encoder else draw(st.none() | size)
    share_embeddings = kind == "encoder_decoder" and draw(st.booleans())
    source_vocabulary_size = None if share_embeddings else draw(st.none() | size)
    smallest = vocabulary_size
    if kind == "encoder_decoder":
        smallest = min(smallest, source_vocabulary_size or vocabulary_size)
    return {
        "kind": kind,
        "vocabulary_size": vocabulary_size,
        "source_vocabulary_size": source_vocabulary_size,
        "num_layers": draw(size),
        "num_encoder_layers": None if is_encoder else draw(st.none() | size),
        "embedding_dim": draw(st.none() | size),
        "num_segments": draw(st.integers(0, 5)) if is_encoder else 0,
        "pooler": is_encoder and draw(st.booleans()),
        "masked_lm_head": is_encoder and draw(st.booleans()),
        "scale_logits": draw(st.booleans()),
        "mask_target_padding": draw(st.booleans()),
        "hidden_dim": hidden_dim,
        "intermediate_dim": draw(st.none() | size),
        "max_sequence_length": draw(size),
        "num_heads": num_heads,
        "num_key_value_heads": draw(st.none() | st.sampled_from(divisors(num_heads))),
        "head_dim": head_dim,
        "norm_placement": draw(st.sampled_from(PLACEMENTS)),
        "norm": norm,
        "norm_bias": draw(st.none() | st.booleans()) if norm == "layer" else None,
        "norm_offset": norm == "rms" and draw(st.booleans()),
        "embedding_norm": draw(st.booleans()),
        "qk_norm": draw(st.booleans()),
        "feedforward": draw(st.sampled_from(("mlp", "glu"))),
        "feedforward_bias": draw(st.booleans()),
        "attention_output_bias": draw(st.none() | st.booleans()),
        "attention_scale": draw(positive),
        "attention_soft_cap": draw(positive),
        "logit_soft_cap": draw(positive),
        "residual": draw(st.booleans()),
        "norm_epsilon": draw(st.floats(1e-12, 0.1)),
        "final_norm": draw(st.none() | st.booleans()),
        "positions": draw(st.sampled_from(positions)),
        "rotary_base": draw(st.floats(1, 1e6, exclude_min=True)),
        "rotary_dim": draw(st.none() | st.sampled_from(even)),
        "rotary_scaling": draw(st.sampled_from(SCALINGS)),
        "rotary_factor": draw(st.floats(1, 1e3)),
        "rotary_original_length": draw(st.none() | size),
        "rotary_low_freq_factor": draw(st.floats(0, 2, exclude_min=True)),
        "rotary_high_freq_factor": draw(st.floats(2.5, 64)),
        "relative_buckets": 4 * draw(st.integers(1, 9)),
        "relative_max_distance": draw(st.integers(19, 997)),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "attention": "graph",
        "attention_window": window,
        "full_attention_every": None if window is None else draw(st.none() | size),
        "attention_bias": draw(st.booleans()),
        "scale_embeddings": draw(st.booleans()),
        "tie_embeddings": draw(st.booleans()),
        "share_embeddings": share_embeddings,
        "logit_bias": draw(st.booleans()),
        "pad_token_id": draw(st.none() | st.integers(0, smallest - 1)),
        "dropout": draw(rate),
        "feedforward_dropout": draw(st.none() | rate),
        "attention_dropout": draw(rate),
        "embedding_dropout": draw(rate),
        "activation_dropout": draw(rate),
        "final_dropout": draw(rate),
        "initializer": draw(st.sampled_from(INITIALIZERS)),
        "initializer_range": draw(st.floats(1e-6, 0.5)),
    }


@given(field_values())
@settings(max_examples=200, deadline=None)
def test_a_spec_is_unchanged_by_a_json_round_trip(values: dict[str, Any]) -> None:
    assert values.keys() == {field.name for field in dataclasses.fields(TransformerSpec)}
    spec = TransformerSpec(**values)
    loaded = TransformerSpec.from_json(spec.to_json())
    assert loaded == spec
    assert hash(loaded) == hash(spec)
    assert loaded.to_json() == spec.to_json()


@given(field_values(), st.integers(1, 97))
@settings(max_examples=100, deadline=None)
def test_derived_fields_stay_derived_after_a_json_round_trip(
    values: dict[str, Any], factor: int
) -> None:
    """`replace` recomputes the derived fields of a loaded spec too."""
    spec = TransformerSpec(**values)
    loaded = TransformerSpec.from_json(spec.to_json())
    wider = {"hidden_dim": spec.hidden_dim * factor}
    assert loaded.replace(**wider) == spec.replace(**wider)
    assert spec.replace(**wider) == TransformerSpec(**{**values, **wider})


@given(field_values())
@settings(max_examples=50, deadline=None)
def test_replace_without_changes_returns_an_equal_spec(values: dict[str, Any]) -> None:
    spec = TransformerSpec(**values)
    assert spec.replace() == spec
    assert {name: getattr(spec, name) for name in values if values[name] is not None} == {
        name: value for name, value in values.items() if value is not None
    }


def test_json_is_an_object_with_a_format_number_and_every_field() -> None:
    values = json.loads(spec_of().to_json())
    assert values.pop("format") == 1
    assert values.keys() == {field.name for field in dataclasses.fields(TransformerSpec)}


@pytest.mark.parametrize(
    ("field", "given_value", "derived"),
    [
        ("source_vocabulary_size", None, 31),
        ("num_encoder_layers", None, 3),
        ("intermediate_dim", None, 56),
        ("num_key_value_heads", None, 2),
        ("head_dim", None, 7),
        ("feedforward_dropout", None, 0.25),
        ("final_norm", None, True),
        ("num_key_value_heads", 1, 1),
        ("attention_window", None, None),
        ("head_dim", 5, 5),
        ("feedforward_dropout", 0.0, 0.0),
        ("final_norm", False, False),
    ],
)
def test_omitted_fields_are_derived_from_other_fields(
    field: str, given_value: Any, derived: Any
) -> None:
    spec = spec_of(dropout=0.25, norm_placement="pre", **{field: given_value})
    assert getattr(spec, field) == derived


def test_replace_recomputes_derived_fields() -> None:
    spec = spec_of(dropout=0.25, norm_placement="post")
    changed = spec.replace(
        hidden_dim=22, num_layers=5, vocabulary_size=37, dropout=0.5, norm_placement="pre"
    )
    assert (changed.head_dim, changed.intermediate_dim) == (11, 88)
    assert (changed.num_encoder_layers, changed.source_vocabulary_size) == (5, 37)
    assert (changed.feedforward_dropout, changed.final_norm) == (0.5, True)


def test_replace_keeps_explicit_fields() -> None:
    spec = spec_of(head_dim=5, intermediate_dim=23, final_norm=False, num_encoder_layers=2)
    changed = spec.replace(hidden_dim=22, num_layers=5, norm_placement="pre")
    assert (changed.head_dim, changed.intermediate_dim) == (5, 23)
    assert (changed.final_norm, changed.num_encoder_layers) == (False, 2)


def test_replace_with_none_restores_the_derived_value() -> None:
    assert spec_of(head_dim=5).replace(head_dim=None).replace(hidden_dim=22).head_dim == 11


def test_key_value_heads_default_to_the_number_of_heads() -> None:
    assert spec_of().replace(num_heads=7).num_key_value_heads == 7
    assert spec_of(num_key_value_heads=1).replace(num_heads=7).num_key_value_heads == 1
    assert spec_of(attention="layer", num_key_value_heads=2).num_key_value_heads == 2


def test_replace_does_not_change_the_old_spec() -> None:
    spec = spec_of()
    spec.replace(hidden_dim=22)
    assert spec == spec_of()


def test_equal_specs_stay_equal_under_replace() -> None:
    """Specs with a derived and an explicit field of the same value differ, as under `replace`."""
    derived, given_value = spec_of(), spec_of(head_dim=7)
    assert derived.head_dim == given_value.head_dim == 7
    assert derived.replace(hidden_dim=22).head_dim == 11
    assert given_value.replace(hidden_dim=22).head_dim == 7
    assert derived != given_value
    assert spec_of(head_dim=7) == given_value
    assert hash(spec_of(head_dim=7)) == hash(given_value)
    assert derived == given_value.replace(head_dim=None)
    assert derived != "a spec"


def test_repr_shows_the_fields_that_differ_from_the_defaults() -> None:
    spec = spec_of(head_dim=7, dropout=0.25)
    assert repr(spec) == (
        "TransformerSpec(vocabulary_size=31, num_layers=3, hidden_dim=14, num_heads=2, "
        "head_dim=7, dropout=0.25)"
    )
    assert eval(repr(spec)) == spec


@pytest.mark.parametrize(("every", "windows"), [(None, (5,) * 4), (2, (5, None, 5, None))])
def test_of_block_returns_a_spec_with_the_window_of_the_block(
    every: int | None, windows: Any
) -> None:
    spec = spec_of(num_layers=4, attention_window=5, full_attention_every=every)
    blocks = [spec.of_block(i) for i in range(4)]
    assert spec.windows == windows
    assert tuple(block.attention_window for block in blocks) == windows
    for block in blocks:
        assert block.full_attention_every is None
        assert block.of_block(3) == block
        assert block.replace(attention_window=5, full_attention_every=every) == spec


def test_every_kind_has_its_stacks_and_their_sublayers() -> None:
    spec = spec_of(kind="encoder_decoder", num_encoder_layers=2)
    assert spec.stacks == ("encoder", "decoder")
    assert [spec.num_sublayers(stack) for stack in spec.stacks] == [4, 9]
    assert spec_of(kind="decoder_only").stacks == ("decoder",)
    assert spec_of(kind="encoder_only").stacks == ("encoder",)
    assert spec_of(kind="decoder_only").num_sublayers("decoder") == 6


def test_every_field_is_documented_in_its_group() -> None:
    grouped = [field.name for group in fields_by_group().values() for field in group]
    assert grouped == [field.name for field in dataclasses.fields(TransformerSpec)]
    documentation = str(TransformerSpec.__doc__)
    for title, group in fields_by_group().items():
        section = documentation.partition(f"\n    {title}:\n")[2].partition("\n\n")[0]
        assert re.findall(r"^ {8}(\w+): ", section, re.M) == [field.name for field in group]
    assert max(map(len, documentation.splitlines())) <= 100


def test_a_spec_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec_of().num_layers = 2  # type: ignore[misc]


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
    ("residual", 1, "True or False"),
    ("norm", "batch", "layer, rms"),
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
    ("embedding_dim", 0, "positive int"),
    ("num_segments", -1, "at least 0"),
    ("num_segments", 2, "0 where kind='decoder_only'"),
    ("pooler", True, "False where kind='decoder_only'"),
    ("pooler", 1, "True or False"),
    ("masked_lm_head", True, "kind='encoder_only'"),
    ("scale_logits", 0, "True or False"),
    ("mask_target_padding", None, "True or False"),
    ("full_attention_every", 0, "positive int, or None"),
    ("full_attention_every", 2, "None where attention_window=None"),
    ("attention_bias", None, "True or False"),
    ("attention_output_bias", 0, "True or False"),
    ("attention_scale", 0, "positive number, or None"),
    ("attention_scale", float("inf"), "positive number, or None"),
    ("attention_soft_cap", -30.0, "positive number, or None"),
    ("attention_soft_cap", True, "positive number, or None"),
    ("logit_soft_cap", float("nan"), "positive number, or None"),
    ("logit_soft_cap", "30", "positive number, or None"),
    ("qk_norm", 1, "True or False"),
    ("residual", None, "True or False"),
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
    names = KINDS if field == "kind" else components.component_names(field)
    assert listed == list(names)


def test_every_field_that_takes_a_name_has_a_misspelled_name_above() -> None:
    names = {field.name for field in dataclasses.fields(TransformerSpec) if field.type == "str"}
    assert {field for field, _, _ in MISSPELLED_NAMES} == names


@pytest.mark.parametrize("feedforward", ["mlp", "glu"])
@pytest.mark.parametrize("activation", [None, "", "linear", "none"])
def test_every_feedforward_requires_an_activation(feedforward: str, activation: Any) -> None:
    with pytest.raises(ValueError, match=rf"unknown activation {activation!r}.*allowed: relu, "):
        spec_of(feedforward=feedforward, activation=activation)


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
        {"kind": "encoder_only", "attention_window": 5},
        ["attention_window=5", "None where kind='encoder_only'", "leave it out"],
    ),
    (
        {"kind": "encoder_only", "share_embeddings": True},
        ["share_embeddings=True", "kind='encoder_only'", "tie_embeddings"],
    ),
    (
        {"kind": "encoder_decoder", "num_segments": 2},
        ["num_segments=2", "0 where kind='encoder_decoder'", "kind='encoder_only'"],
    ),
    ({"full_attention_every": 3}, ["full_attention_every=3", "attention_window=None", "give"]),
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


def test_fields_without_effect_are_not_checked() -> None:
    """Fields are checked together only if both have an effect."""
    odd_rotary = {"rotary_dim": 5, "rotary_factor": 2.0, "rotary_low_freq_factor": 5.0}
    assert spec_of(positions="learned", **odd_rotary).rotary_dim == 5
    assert spec_of(positions="alibi", relative_buckets=7).relative_buckets == 7
    odd_width = {"hidden_dim": 13, "head_dim": 5}
    assert spec_of(positions="learned", **odd_width).hidden_dim == 13
    no_low_frequencies = {
        "positions": "rotary",
        "rotary_dim": 6,
        "rotary_low_freq_factor": 0.0,
        "rotary_base": 1.0,
    }
    assert spec_of(rotary_scaling="llama3", **no_low_frequencies).rotary_low_freq_factor == 0.0


def test_an_explicit_head_dim_allows_any_hidden_dim() -> None:
    assert spec_of(hidden_dim=13, head_dim=5).head_dim == 5


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


INVALID_JSON: list[tuple[str, str]] = [
    ("", "JSON object"),
    ("{", "JSON object"),
    ("[1, 2]", "JSON object.*list"),
    ("{}", "vocabulary_size"),
    (json.dumps({"vocabulary_size": 31}), "num_layers.*hidden_dim.*num_heads"),
    (json.dumps({**SIZES, "format": 2}), "format 2.*upgrade"),
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


def test_every_error_of_a_spec_is_tested_above() -> None:
    attempts: list[Callable[[], Any]] = [lambda: spec_of().replace(num_layer=2)]
    attempts += [lambda f=f, v=v: spec_of(**{f: v}) for f, v, _ in BAD_VALUES]
    attempts += [lambda changes=changes: spec_of(**changes) for changes, _ in CONFLICTING_VALUES]
    attempts += [lambda text=text: TransformerSpec.from_json(text) for text, _ in INVALID_JSON]
    raised = {line_that_raised(attempt) for attempt in attempts}
    for file, first, last in lines_that_raise():
        lines = {line for other, line in raised if other == file}
        assert lines & set(range(first, last + 1)), f"{file}, line {first}"
