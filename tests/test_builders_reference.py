"""Every combination of spec fields gives the logits of the independent NumPy Transformer."""

import dataclasses
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from random_specs import examples, field_values, moved_by_rounding, small_specs
from reference import reference_logits, with_derived
from small_models import (
    ALL_KINDS,
    KINDS,
    copy_weights,
    in_a_row,
    logits_of,
    random_model,
    random_tokens,
    relative_error,
    small_spec,
    target_of,
    weights_by_name,
)

import builders
from builders.components import SHIPPED

MAIN_FIELDS: dict[str, Sequence[Any]] = {
    "kind": ALL_KINDS,
    "norm_placement": ("post", "pre"),
    "positions": ("learned", "sinusoidal", "sinusoidal_concat", "none"),
    "residual": (True, False),
}
ALL_FIELDS: dict[str, Sequence[Any]] = {
    **MAIN_FIELDS,
    "norm_placement": ("post", "pre", "sandwich", "parallel", "none"),
    "positions": (*MAIN_FIELDS["positions"], "rotary", "alibi", "relative"),
    "rotary_dim": (4, None),
    "rotary_base": (10_000.0, 13.0),
    "rotary_scaling": ("none", "linear", "llama3", "yarn"),
    "rotary_factor": (1.0, 3.7),
    "rotary_original_length": (None, 29),
    "rotary_high_freq_factor": (4.0, 1.7),
    "relative_buckets": (12, 20),
    "relative_max_distance": (13, 17),
    "norm": ("layer", "rms"),
    "norm_bias": (None, False),
    "norm_offset": (False, True),
    "embedding_norm": (False, True),
    "qk_norm": (False, True),
    "feedforward": ("mlp", "glu"),
    "feedforward_bias": (True, False),
    "attention_output_bias": (None, False, True),
    "attention_scale": (None, 0.7),
    "attention_soft_cap": (None, 1.5),
    "logit_soft_cap": (None, 2.5),
    "activation": ("relu", "gelu", "gelu_tanh", "silu", "relu_squared"),
    "attention": ("graph", "layer"),
    "attention_bias": (True, False),
    "num_key_value_heads": (None, 1),
    "head_dim": (None, 5),
    "attention_window": (None, 3),
    "full_attention_every": (None, 2),
    "final_norm": (None, True, False),
    "num_encoder_layers": (None, 1),
    "norm_epsilon": (1e-5, 1e-1),
    "scale_embeddings": (False, True),
    "tie_embeddings": (False, True),
    "share_embeddings": (False, True),
    "logit_bias": (False, True),
    "scale_logits": (False, True),
    "embedding_dim": (None, 9),
    "num_segments": (0, 3),
    "pooler": (False, True),
    "masked_lm_head": (False, True),
    "pad_token_id": (0, 7, None),
    "mask_target_padding": (True, False),
}


# What the library's attention layer cannot do.
NOT_IN_THE_LAYER = (
    "num_key_value_heads",
    "attention_output_bias",
    "attention_scale",
    "attention_soft_cap",
    "qk_norm",
)

ROTARY_OR_BIAS = ("rotary", "alibi", "relative")
DERIVED_FIELDS = (
    "source_vocabulary_size",
    "num_encoder_layers",
    "num_key_value_heads",
    "embedding_dim",
    "intermediate_dim",
    "head_dim",
    "final_norm",
    "norm_bias",
    "attention_output_bias",
    "rotary_dim",
    "rotary_original_length",
)


ONLY_IN_ENCODERS = ("num_segments", "pooler", "masked_lm_head")
NOT_IN_ENCODERS = ("attention_window", "full_attention_every", "num_encoder_layers")


def is_allowed(changes: Mapping[str, Any]) -> bool:
    kind = changes.get("kind")
    if kind in KINDS and any(changes.get(name) for name in ONLY_IN_ENCODERS):
        return False
    if kind == "encoder_only" and any(changes.get(name) for name in NOT_IN_ENCODERS):
        return False
    given = {name for name, value in changes.items() if value}
    if given.intersection(ONLY_IN_ENCODERS) and given.intersection(NOT_IN_ENCODERS):
        return False
    if changes.get("share_embeddings") and given.intersection(ONLY_IN_ENCODERS):
        return False
    if changes.get("attention") == "layer":
        for name in NOT_IN_THE_LAYER:
            if changes.get(name, ALL_FIELDS[name][0]) != ALL_FIELDS[name][0]:
                return False
    if changes.get("attention") == "layer" and changes.get("positions") in ROTARY_OR_BIAS:
        return False
    if changes.get("norm") == "layer" and changes.get("norm_offset"):
        return False
    if changes.get("positions") == "rotary" and changes.get("rotary_dim", 4) is None:
        return False  # the heads here are of odd sizes
    if changes.get("full_attention_every") and not changes.get("attention_window", 3):
        return False
    if changes.get("rotary_scaling") == "none" and changes.get("rotary_factor", 1.0) != 1.0:
        return False
    return not (changes.get("share_embeddings") and kind not in (None, "encoder_decoder"))


def all_combinations(fields: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(fields, row, strict=True)) for row in itertools.product(*fields.values())]


def pairwise_combinations(
    fields: Mapping[str, Sequence[Any]], allowed: Callable[[Mapping[str, Any]], bool]
) -> list[dict[str, Any]]:
    """Few rows in which every allowed pair of values of two fields occurs, found greedily."""

    def pairs_of(row: Mapping[str, Any]) -> set[Any]:
        items = [(name, row[name]) for name in fields if name in row]
        return set(itertools.combinations(items, 2))

    missing = set()
    for first, second in itertools.combinations(fields, 2):
        for x, y in itertools.product(fields[first], fields[second]):
            if allowed({first: x, second: y}):
                missing.add(((first, x), (second, y)))
    rows: list[dict[str, Any]] = []
    while missing:
        row = dict(min(missing, key=repr))
        for name in fields:
            if name not in row:
                candidates = [row | {name: value} for value in fields[name]]
                row = max(
                    (candidate for candidate in candidates if allowed(candidate)),
                    key=lambda candidate: len(pairs_of(candidate) & missing),
                )
        missing -= pairs_of(row)
        rows.append({name: row[name] for name in fields})
    return rows


def label(changes: Mapping[str, Any]) -> str:
    return "-".join(str(value) for value in changes.values())


def assert_model_equals_reference(spec: builders.TransformerSpec) -> None:
    model = random_model(spec)
    tokens = random_tokens(spec)
    fields = json.loads(spec.to_json())
    expected = in_a_row(reference_logits(fields, weights_by_name(model), tokens))
    # Without skip paths a norm divides by the spread of what one sublayer gives, however small;
    # without norms the stream grows, and a soft cap then hides how large the sums before it were.
    well_conditioned = spec.residual and spec.norm_placement != "none"
    tolerance = 1e-5 if well_conditioned else 5e-5
    assert relative_error(logits_of(model, tokens), expected) < tolerance


@pytest.mark.parametrize("changes", all_combinations(MAIN_FIELDS), ids=label)
def test_logits_equal_the_numpy_reference(changes: dict[str, Any]) -> None:
    assert_model_equals_reference(small_spec(**changes))


@pytest.mark.parametrize("changes", pairwise_combinations(ALL_FIELDS, is_allowed))
def test_logits_equal_the_numpy_reference_for_every_pair_of_values(changes: dict[str, Any]) -> None:
    assert_model_equals_reference(small_spec(**changes))


def test_the_pairs_above_are_complete() -> None:
    rows = pairwise_combinations(ALL_FIELDS, is_allowed)
    assert all(is_allowed(row) for row in rows)
    for first, second in itertools.combinations(ALL_FIELDS, 2):
        for x, y in itertools.product(ALL_FIELDS[first], ALL_FIELDS[second]):
            covered = any(row[first] == x and row[second] == y for row in rows)
            assert covered == is_allowed({first: x, second: y}), (first, x, second, y)


def test_the_reference_derives_fields_as_the_spec_does() -> None:
    placements = [{"norm_placement": value} for value in ALL_FIELDS["norm_placement"]]
    for changes in (
        *placements,
        {"norm": "rms", "attention_bias": False},
        {"kind": KINDS[1]},
        {"kind": "encoder_only"},
    ):
        spec = builders.TransformerSpec(
            vocabulary_size=31, num_layers=3, hidden_dim=14, num_heads=2, **changes
        )
        derived = with_derived(json.loads(spec.to_json()))
        for field in DERIVED_FIELDS:
            assert derived[field] == getattr(spec, field), field


# Any spec at all -----------------------------------------------------------------------------


def test_random_specs_draw_every_field_and_every_value_that_is_shipped() -> None:
    drawn = defaultdict(set)

    @given(field_values())
    @settings(max_examples=200, deadline=None, derandomize=True, database=None)
    def draw(values: dict[str, Any]) -> None:
        builders.TransformerSpec(**values)
        for field, value in values.items():
            drawn[field].add(value)

    draw()
    assert drawn.keys() == {field.name for field in dataclasses.fields(builders.TransformerSpec)}
    assert [field for field, values in drawn.items() if len(values) < 2] == []
    for field, shipped in SHIPPED.items():
        assert drawn[field] == set(shipped), field
    assert drawn["kind"] == set(ALL_KINDS)


def assert_any_spec_equals_reference(spec: builders.TransformerSpec) -> None:
    """To a tolerance that is of this spec and its weights, since nobody has looked at either."""
    model = random_model(spec)
    tokens, weights = random_tokens(spec), weights_by_name(model)
    expected = in_a_row(reference_logits(json.loads(spec.to_json()), weights, tokens))
    assert np.isfinite(expected).all()
    moved = moved_by_rounding(spec, weights, tokens)
    assume(moved < 1e-5)  # others are correct to too few digits to tell
    seen: Any = ...
    if spec.attention == "layer" and spec.attention_window and spec.pad_token_id is not None:
        # A query of padding may see no key at all. The library's layer then gives zeros or the mean
        # of all values, as its dropout is; the reference the mean. No other position depends on it.
        seen = target_of(tokens) != spec.pad_token_id
    logits = logits_of(model, tokens)
    assert relative_error(logits[seen], expected[seen]) < 5e-6 + 20 * moved


@given(small_specs())
@settings(max_examples=examples(8), deadline=None, derandomize=True)
def test_logits_of_random_specs_equal_the_numpy_reference(spec: builders.TransformerSpec) -> None:
    assert_any_spec_equals_reference(spec)


@pytest.mark.slow
@given(small_specs())
@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_logits_of_many_random_specs_equal_the_numpy_reference(
    spec: builders.TransformerSpec,
) -> None:
    """Others in every run."""
    assert_any_spec_equals_reference(spec)


# The same numbers in other ways ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("norm_placement", MAIN_FIELDS["norm_placement"])
@pytest.mark.parametrize("head_dim", [None, 5])
def test_the_library_attention_layer_equals_the_wired_attention(
    kind: str, norm_placement: str, head_dim: int | None
) -> None:
    spec = small_spec(kind=kind, norm_placement=norm_placement, head_dim=head_dim)
    wired = random_model(spec.replace(attention="graph"))
    layered = random_model(spec.replace(attention="layer"), seed=1)
    copy_weights(wired, layered)
    tokens = random_tokens(spec)
    assert relative_error(logits_of(layered, tokens), logits_of(wired, tokens)) < 2e-6


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_attention_in_steps_equals_fused_attention(kind: str) -> None:
    """Attention dropout needs the scores as a node; at inference it must change nothing."""
    spec = small_spec(kind=kind)
    fused = random_model(spec)
    explicit = random_model(spec.replace(attention_dropout=0.3), seed=1)
    copy_weights(fused, explicit)
    tokens = random_tokens(spec)
    assert relative_error(logits_of(explicit, tokens), logits_of(fused, tokens)) < 2e-6
