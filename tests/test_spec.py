"""A spec is frozen, validated on creation and unchanged by a JSON round trip."""

import copy
import dataclasses
import json
import pickle
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_specs import expert_values, spec_of

from builders import TransformerSpec
from builders.spec import fields_by_group

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "gelu_sigmoid", "silu", "relu_squared")
POSITIONS = ("learned", "sinusoidal", "sinusoidal_concat", "alibi", "relative", "none")
SCALINGS = ("linear", "llama3", "yarn")
PLACEMENTS = ("post", "pre", "output", "sandwich", "parallel", "parallel_shared_norm", "none")
WITH_FIRST_NORMS = ("pre", "sandwich", "parallel")
SCALED = ("scaled", "rezero", "layer_scale")
MERGES = ("add", "none", "scaled", "rezero", "layer_scale", "highway")
INITIALIZERS = ("glorot_uniform", "glorot_packed", "normal", "depth_scaled", "deep_norm", "t5")


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
    num_layers = draw(size)
    changes = {"attention_window": st.none(), "intermediate_dim": size}
    overrides = st.fixed_dictionaries({}, optional=changes)
    positive = st.none() | st.floats(1e-3, 1e3)
    factors = st.none() | st.tuples(st.floats(1, 1e3), st.integers(1, 99))
    kind = draw(st.sampled_from(("decoder_only", "encoder_decoder", "encoder_only")))
    is_encoder = kind == "encoder_only"
    scale_embeddings, scale_logits, norm_gain = (draw(st.booleans()) for _ in range(3))
    merge = draw(st.sampled_from(MERGES))
    norm_placement = draw(st.sampled_from(PLACEMENTS))
    attention_window = draw(st.none() | size)
    reads_norm = norm_placement not in ("post", "output", "none")
    factor = st.floats(0, 1e3)
    share_embeddings = kind == "encoder_decoder" and draw(st.booleans())
    latents = width > 2 and draw(st.booleans())
    source_vocabulary_size = None if share_embeddings else draw(st.none() | size)
    smallest = vocabulary_size
    if kind == "encoder_decoder":
        smallest = min(smallest, source_vocabulary_size or vocabulary_size)
    return {
        "kind": kind,
        "vocabulary_size": vocabulary_size,
        "source_vocabulary_size": source_vocabulary_size,
        "num_layers": num_layers,
        "block_overrides": tuple(draw(st.lists(overrides, max_size=min(num_layers, 3)))),
        "num_streams": None,
        "block_skips": draw(st.sampled_from(("none", "unet", "embedding"))),
        "value_residual": not latents and draw(st.booleans()),
        "distinct_blocks": None,
        "num_encoder_layers": None if is_encoder else draw(st.none() | size),
        "embedding_dim": draw(st.none() | size),
        "embedding_projection": "tokens",
        "num_segments": draw(st.integers(0, 5)) if is_encoder else 0,
        "pooler": is_encoder and draw(st.booleans()),
        "pooler_activation": draw(st.sampled_from(("tanh", "relu", "gelu"))),
        "masked_lm_head": is_encoder and draw(st.booleans()),
        "classes": draw(st.sampled_from(((), ("a", "b")))) if is_encoder else (),
        "class_pooling": draw(st.sampled_from(("first", "mean"))),
        "scale_logits": scale_logits,
        "mask_target_padding": draw(st.booleans()),
        "hidden_dim": hidden_dim,
        "intermediate_dim": draw(st.none() | size),
        "max_sequence_length": draw(size),
        "num_heads": num_heads,
        "num_key_value_heads": None
        if latents
        else draw(st.none() | st.sampled_from(divisors(num_heads))),
        "head_dim": head_dim,
        "latent_dim": draw(size) if latents else None,
        "query_latent_dim": draw(st.none() | size) if latents else None,
        "value_dim": draw(st.none() | size) if latents else None,
        "norm_placement": norm_placement,
        "norm": norm,
        "norm_bias": draw(st.none() | st.booleans()) if norm == "layer" else None,
        "norm_offset": norm == "rms" and norm_gain and draw(st.booleans()),
        "embedding_norm": draw(st.booleans()),
        "attention_sinks": draw(st.booleans()),
        "attention_gate": draw(st.booleans()),
        "attention_temperature": 0.0 if latents else draw(st.floats(0, 1e3)),
        "attention_temperature_floor": draw(size),
        "qk_norm_gain": None,
        "qk_norm_after_rotary": draw(st.booleans()),
        "qk_norm": not latents and draw(st.booleans()),
        "feedforward": draw(st.sampled_from(("mlp", "glu", "clamped_glu"))),
        "glu_limit": draw(st.floats(1e-3, 1e3)),
        "feedforward_bias": draw(st.booleans()),
        "attention_output_bias": draw(st.none() | st.booleans()),
        "attention_scale": draw(positive),
        "attention_soft_cap": draw(positive),
        "logit_soft_cap": draw(positive),
        "merge": merge,
        "skip_scale": draw(factor | st.just("deep_norm")) if merge == "scaled" else 1.0,
        "branch_scale": draw(st.none() | factor) if merge in SCALED else None,
        "norm_scale": draw(factor | st.just("inverse_sqrt_depth")) if reads_norm else 1.0,
        "stochastic_depth": 0.0 if merge == "none" else draw(rate),
        "norm_epsilon": draw(st.floats(1e-12, 0.1)),
        "final_norm": draw(st.none() | st.booleans()),
        "positions": draw(st.sampled_from(positions)),
        "rotary_base": draw(st.floats(1, 1e6, exclude_min=True)),
        "rotary_dim": 2 if latents else draw(st.none() | st.sampled_from(even)),
        "rotary_magnitude": draw(positive),
        "rotary_scaling": draw(st.sampled_from(SCALINGS)),
        "rotary_factor": draw(st.floats(1, 1e3)),
        "rotary_original_length": draw(st.none() | size),
        "rotary_low_freq_factor": draw(st.floats(0, 2, exclude_min=True)),
        "rotary_high_freq_factor": draw(st.floats(2.5, 64)),
        "rotary_whole_pairs": draw(st.booleans()),
        "rotary_short_factors": draw(factors),
        "rotary_long_factors": draw(factors),
        "relative_buckets": 4 * draw(st.integers(1, 9)),
        "relative_max_distance": draw(st.integers(19, 997)),
        "relative_by_block": draw(st.booleans()),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "attention": "graph",
        "attention_window": attention_window,
        "attention_chunk": None if attention_window else draw(st.none() | size),
        "attention_bias": draw(st.booleans()),
        "scale_embeddings": scale_embeddings,
        "embedding_scale": None if scale_embeddings else draw(positive),
        "logit_scale": None if scale_logits else draw(positive),
        "norm_gain": norm_gain,
        "logit_gain": draw(st.booleans()),
        "kernel_constraint": "none",
        "prefix_lm": kind == "decoder_only" and draw(st.booleans()),
        "mixer": "attention",
        "delta_key_heads": draw(st.none() | size),
        "delta_value_heads": draw(st.none() | size),
        "delta_key_dim": draw(st.none() | size),
        "delta_value_dim": draw(st.none() | size),
        "delta_convolution": draw(size),
        "attention_norm": norm_placement not in WITH_FIRST_NORMS or draw(st.booleans()),
        "qk_norm_heads": draw(st.sampled_from(("shared", "separate", "joint"))),
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
        **draw(expert_values()),
    }


@given(field_values(), st.integers(1, 97))
@settings(max_examples=60)
def test_a_spec_is_unchanged_by_json_and_by_replace(values: dict[str, Any], factor: int) -> None:
    """`replace` recomputes the derived fields, those of a loaded spec too."""
    assert values.keys() == {field.name for field in dataclasses.fields(TransformerSpec)}
    spec = TransformerSpec(**values)
    loaded = TransformerSpec.from_json(spec.to_json())
    assert loaded == spec == spec.replace()
    assert hash(loaded) == hash(spec)
    assert loaded.to_json() == spec.to_json()
    given_values = {name: value for name, value in values.items() if value is not None}
    assert {name: getattr(spec, name) for name in given_values} == given_values
    wider = {"hidden_dim": spec.hidden_dim * factor}
    assert loaded.replace(**wider) == spec.replace(**wider)
    assert spec.replace(**wider) == TransformerSpec(**{**values, **wider})


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


def test_of_block_returns_the_spec_of_the_block() -> None:
    pattern = ({}, {"attention_window": None, "intermediate_dim": 23}, {"feedforward": "glu"})
    spec = spec_of(num_layers=7, attention_window=5, block_overrides=pattern)
    assert spec.windows == (5, None, 5, 5, None, 5, 5)
    assert spec.blocks("decoder") == tuple(spec.of_block(i) for i in range(7))
    plain = spec.replace(block_overrides=())
    for i in range(7):
        block = spec.of_block(i)
        assert block == plain.replace(**pattern[i % 3])
        assert block.of_block(3) == block
        assert block.replace(**plain.to_dict() | {"block_overrides": pattern}) == spec


def test_overrides_of_a_spec_are_frozen_and_can_be_given_as_a_list() -> None:
    given_value = [{}, {"attention_window": None}]
    spec = spec_of(attention_window=5, block_overrides=given_value)
    given_value[0]["attention_window"] = 3
    assert spec.block_overrides == ({}, {"attention_window": None})
    assert hash(spec) == hash(spec_of(attention_window=5, block_overrides=spec.block_overrides))
    for change in (
        lambda one: one.update(attention_window=3),
        lambda one: one.__setitem__("attention_window", 3),
        lambda one: one.pop("attention_window"),
        lambda one: one.clear(),
    ):
        with pytest.raises(TypeError, match=r"use spec\.replace"):
            change(spec.block_overrides[1])
    for copied in (pickle.loads(pickle.dumps(spec)), copy.deepcopy(spec)):
        assert copied == spec
        assert copied.of_block(1).attention_window is None


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
