"""Logits of all combinations of spec fields equal those of the NumPy reference."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from quick import slow_unless
from random_specs import rounding_error, scale_examples, small_specs
from reference import reference_logits
from reference_spec import fill_derived_fields
from small_models import (
    ALL_KINDS,
    KINDS,
    copy_weights,
    flatten_outputs,
    logits_of,
    random_model,
    random_tokens,
    randomise_weights,
    relative_error,
    small_spec,
    target_of,
    weights_by_name,
)

import builders
from builders.components import SHIPPED
from builders.overrides import Overrides

MAIN_FIELDS: dict[str, Sequence[Any]] = {
    "kind": ALL_KINDS,
    "norm_placement": ("post", "pre"),
    "positions": ("learned", "sinusoidal", "sinusoidal_concat", "none"),
    "merge": ("add", "none"),
}
FROM_ONE = {
    "attention_window": 5,
    "intermediate_dim": 19,
    "feedforward": "glu",
    "activation": "relu",
}
PATTERNS = (  # that can be hashed, as a spec keeps them
    (),
    (Overrides(), Overrides(attention_window=None)),
    (Overrides(positions="none"), Overrides(FROM_ONE)),
)
ALL_FIELDS: dict[str, Sequence[Any]] = {
    **MAIN_FIELDS,
    "norm_placement": SHIPPED["norm_placement"],
    "merge": SHIPPED["merge"],
    "skip_scale": (1.0, 1.7, "deep_norm"),
    "branch_scale": (None, 0.7, "inverse_sqrt_layers", "inverse_sqrt_depth"),
    "norm_scale": (1.0, "inverse_sqrt_depth"),
    "num_streams": (None, 3),
    "block_skips": SHIPPED["block_skips"],
    "value_residual": (False, True),
    "distinct_blocks": (None, 1, 2),
    "positions": (*MAIN_FIELDS["positions"], "coordinates", "rotary", "alibi", "relative"),
    "rotary_dim": (4, None),
    "rotary_base": (10_000.0, 13.0),
    "rotary_scaling": ("none", "linear", "llama3", "yarn", "longrope"),
    "rotary_factor": (1.0, 3.7),
    "rotary_original_length": (None, 7),
    "rotary_short_factors": ((1.0, 1.5),),
    "rotary_long_factors": ((2.0, 7.0),),
    "rotary_high_freq_factor": (4.0, 1.7),
    "rotary_whole_pairs": (True, False),
    "rotary_magnitude": (None, 0.8),
    "relative_buckets": (12, 20),
    "relative_max_distance": (13, 17),
    "relative_by_block": (False, True),
    "norm": ("layer", "rms", "unit"),
    "norm_bias": (None, False),
    "norm_offset": (False, True),
    "embedding_norm": (False, True),
    "norm_gain": (None, False),
    "attention_norm": (True, False),
    "qk_norm": (False, True),
    "qk_norm_heads": ("shared", "separate", "tied", "joint"),
    "qk_norm_gain": (None, False),
    "qk_norm_after_rotary": (False, True),
    "feedforward": SHIPPED["feedforward"],
    "glu_limit": (7.0, 0.5),
    "feedforward_bias": (True, False),
    "attention_output_bias": (None, False, True),
    "attention_scale": (None, 0.7),
    "attention_soft_cap": (None, 1.5),
    "attention_sinks": (False, True),
    "attention_gate": (False, True),
    "logit_soft_cap": (None, 2.5),
    "activation": SHIPPED["activation"],
    "attention": ("graph", "layer"),
    "mixer": ("attention", "gated_delta"),
    "attention_bias": (True, False),
    "num_key_value_heads": (None, 1),
    "head_dim": (None, 5),
    "latent_dim": (None, 6),
    "query_latent_dim": (None, 9),
    "value_dim": (None, 3),
    "attention_window": (None, 3),
    "attention_chunk": (None, 4),
    "attention_temperature": (0.0, 0.5),
    "attention_temperature_floor": (8192, 2),
    "prefix_lm": (False, True),
    "block_overrides": PATTERNS,
    "final_norm": (None, True, False),
    "num_encoder_layers": (None, 1),
    "norm_epsilon": (1e-5, 1e-1),
    "scale_embeddings": (False, True),
    "tie_embeddings": (False, True),
    "share_embeddings": (False, True),
    "logit_bias": (False, True),
    "scale_logits": (False, True),
    "embedding_scale": (None, 1.7),
    "logit_scale": (None, 0.6),
    "logit_gain": (False, True),
    "embedding_dim": (None, 10),
    "embedding_projection": ("tokens", "sum"),
    "num_segments": (0, 3),
    "pooler": (False, True),
    "pooler_activation": ("tanh", "relu", "gelu"),
    "masked_lm_head": (False, True),
    "classes": ((), ("a", "b", "c")),
    "class_pooling": ("first", "mean"),
    "pad_token_id": (0, 7, None),
    "mask_target_padding": (True, False),
}


# Fields that the Keras attention layer does not support.
UNSUPPORTED_BY_LAYER = (
    "num_key_value_heads",
    "attention_output_bias",
    "attention_scale",
    "attention_soft_cap",
    "attention_sinks",
    "attention_gate",
    "attention_temperature",
    "qk_norm",
    "value_residual",
    "latent_dim",
)
UNSUPPORTED_BY_LATENTS = (
    "num_key_value_heads",
    "qk_norm",
    "value_residual",
    "attention_temperature",
)
OF_LATENTS = ("query_latent_dim", "value_dim")

HYPER = ("static_hyper_connections", "hyper_connections")
UNSCALED_MERGES = ("add", "none", "highway", *HYPER)
LEARNED_MERGES = ("rezero", "layer_scale", "spherical")
ROTARY_OR_BIAS = ("rotary", "alibi", "relative")
DERIVED_FIELDS = (
    "source_vocabulary_size",
    "num_encoder_layers",
    "num_key_value_heads",
    "embedding_dim",
    "intermediate_dim",
    "head_dim",
    "value_dim",
    "final_norm",
    "norm_gain",
    "delta_key_heads",
    "delta_value_heads",
    "delta_key_dim",
    "delta_value_dim",
    "norm_bias",
    "num_streams",
    "branch_scale",
    "attention_output_bias",
    "rotary_dim",
    "rotary_original_length",
)


ENCODER_ONLY_FIELDS = ("num_segments", "pooler", "masked_lm_head", "classes")
UNSUPPORTED_BY_ENCODERS = ("num_encoder_layers",)


def is_allowed(changes: Mapping[str, Any]) -> bool:
    kind = changes.get("kind")
    if kind in KINDS and any(changes.get(name) for name in ENCODER_ONLY_FIELDS):
        return False
    if changes.get("mixer") == "gated_delta":
        others = (*ENCODER_ONLY_FIELDS, "value_residual", "share_embeddings")
        if kind not in (None, "decoder_only") or any(changes.get(name) for name in others):
            return False
    if changes.get("prefix_lm"):
        others = (*ENCODER_ONLY_FIELDS, "share_embeddings")
        if kind not in (None, "decoder_only") or any(changes.get(name) for name in others):
            return False
        if changes.get("mixer", "attention") != "attention":
            return False
    if kind == "encoder_only" and any(changes.get(name) for name in UNSUPPORTED_BY_ENCODERS):
        return False
    given = {name for name, value in changes.items() if value}
    if given.intersection(ENCODER_ONLY_FIELDS) and given.intersection(UNSUPPORTED_BY_ENCODERS):
        return False
    if changes.get("share_embeddings") and given.intersection(ENCODER_ONLY_FIELDS):
        return False
    if changes.get("attention") == "layer":
        for name in UNSUPPORTED_BY_LAYER:
            if changes.get(name, ALL_FIELDS[name][0]) != ALL_FIELDS[name][0]:
                return False
    if changes.get("attention") == "layer" and changes.get("positions") in ROTARY_OR_BIAS:
        return False
    blocks = (changes, *changes.get("block_overrides", ()))
    has_window = any(own.get("attention_window") for own in blocks)
    if changes.get("attention_chunk") and has_window:
        return False
    by_length = changes.get("rotary_scaling") == "longrope" and kind != "encoder_only"
    by_length = by_length and changes.get("positions") == "rotary"
    if by_length and (changes.get("attention_chunk") or has_window):
        return False
    has_gains = changes.get("qk_norm_heads") in ("separate", "tied")
    if changes.get("qk_norm") and has_gains and changes.get("qk_norm_gain") is False:
        return False
    of_latents = [name for name in OF_LATENTS if changes.get(name)]
    if of_latents and changes.get("latent_dim", 6) is None:
        return False
    if of_latents or changes.get("latent_dim"):
        if any(changes.get(name) for name in UNSUPPORTED_BY_LATENTS):
            return False
        if changes.get("attention") == "layer" or changes.get("rotary_dim", 4) is None:
            return False
    if changes.get("norm", "rms") != "rms" and changes.get("norm_offset"):
        return False
    if changes.get("qk_norm_heads") == "tied" and changes.get("num_key_value_heads"):
        return False
    if changes.get("positions") == "coordinates" and changes.get("merge") in HYPER:
        return False
    if changes.get("positions") == "coordinates" and changes.get("num_streams"):
        return False
    if changes.get("positions") == "rotary" and changes.get("rotary_dim", 4) is None:
        return False  # head_dim is odd here
    is_embedded = changes.get("positions", "none") not in (*ROTARY_OR_BIAS, "none")
    if is_embedded and "positions" in str(changes.get("block_overrides")):
        return False
    if changes.get("merge", "scaled") != "scaled" and changes.get("skip_scale", 1.0) != 1.0:
        return False
    if changes.get("merge") in UNSCALED_MERGES and changes.get("branch_scale"):
        return False
    has_streams = changes.get("merge", HYPER[0]) in HYPER
    if changes.get("num_streams") and not has_streams:
        return False
    is_scaled = changes.get("branch_scale") or changes.get("skip_scale", 1.0) != 1.0
    if changes.get("num_streams") and is_scaled:  # no merge has both
        return False
    if changes.get("norm_placement") == "post" and "merge" in changes and has_streams:
        return False
    if changes.get("norm_placement") == "post" and changes.get("num_streams"):
        return False
    shares = changes.get("distinct_blocks") == 1
    if shares and changes.get("block_overrides"):
        return False
    by_depth = isinstance(changes.get("branch_scale"), str)
    if changes.get("distinct_blocks") and by_depth and changes.get("merge", "") in LEARNED_MERGES:
        return False
    if changes.get("embedding_projection") == "sum" and not changes.get("embedding_dim", 10):
        return False
    if changes.get("scale_embeddings") and changes.get("embedding_scale"):
        return False
    if changes.get("scale_logits") and changes.get("logit_scale"):
        return False
    cubes = changes.get("feedforward", "mlp") != "mlp"
    cubes = cubes and changes.get("activation") == "relu_squared"
    if cubes and changes.get("norm_placement") == "none":  # the stream, which overflows float32
        return False
    if changes.get("norm_offset") and changes.get("norm_gain") is False:
        return False
    without_norm = changes.get("attention_norm", True) is False
    if without_norm and changes.get("norm_placement", "pre") not in ("pre", "sandwich", "parallel"):
        return False
    scales_norm = changes.get("norm_scale", 1.0) != 1.0
    if scales_norm and changes.get("norm_placement") in ("post", "output", "none"):
        return False
    if changes.get("rotary_scaling") == "none" and changes.get("rotary_factor", 1.0) != 1.0:
        return False
    return not (changes.get("share_embeddings") and kind not in (None, "encoder_decoder"))


def all_combinations(fields: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(fields, row, strict=True)) for row in itertools.product(*fields.values())]


def pairwise_combinations(
    fields: Mapping[str, Sequence[Any]], allowed: Callable[[Mapping[str, Any]], bool]
) -> list[dict[str, Any]]:
    """Return rows that cover every allowed pair of values of two fields, found greedily."""

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
    # Without residual connections a norm may divide by the tiny spread of one sublayer's output;
    # without norms the stream grows, and a soft cap hides the large sums before it.
    well_conditioned = spec.merge != "none" and spec.norm_placement != "none"
    tolerance = 1e-5 if well_conditioned else 5e-5
    for seed in range(5):
        randomise_weights(model, seed)
        weights = weights_by_name(model)
        expected = flatten_outputs(reference_logits(fields, weights, tokens))
        error = relative_error(logits_of(model, tokens), expected)
        # Other weights, if rounding these to float32 alone changes the logits as much.
        if error < tolerance or rounding_error(spec, weights, tokens) < tolerance / 2:
            break
    assert error < tolerance


@pytest.mark.parametrize(
    "changes",
    slow_unless(
        lambda changes: (changes["kind"], changes["merge"]) == (KINDS[1], "add"),
        all_combinations(MAIN_FIELDS),
    ),
    ids=label,
)
def test_logits_equal_the_numpy_reference(changes: dict[str, Any]) -> None:
    assert_model_equals_reference(small_spec(**changes))


PAIRWISE = pairwise_combinations(ALL_FIELDS, is_allowed)
QUICK_ROWS = 45  # the first ones cover the most pairs


@pytest.mark.sampled(12)
@pytest.mark.parametrize(
    "changes", slow_unless(lambda changes: changes in PAIRWISE[:QUICK_ROWS], PAIRWISE)
)
def test_logits_equal_the_numpy_reference_for_every_pair_of_values(changes: dict[str, Any]) -> None:
    assert_model_equals_reference(small_spec(**changes))


def test_pairwise_combinations_cover_every_allowed_pair() -> None:
    rows = PAIRWISE
    assert all(is_allowed(row) for row in rows)
    for first, second in itertools.combinations(ALL_FIELDS, 2):
        for x, y in itertools.product(ALL_FIELDS[first], ALL_FIELDS[second]):
            covered = any(row[first] == x and row[second] == y for row in rows)
            assert covered == is_allowed({first: x, second: y}), (first, x, second, y)


def test_the_reference_and_the_spec_derive_the_same_values() -> None:
    placements = [{"norm_placement": value} for value in ALL_FIELDS["norm_placement"]]
    for changes in (
        *placements,
        {"norm": "rms", "attention_bias": False},
        {"norm": "unit"},
        *({"merge": value} for value in ALL_FIELDS["merge"]),
        {"kind": KINDS[1]},
        {"kind": "encoder_only"},
        {"latent_dim": 5, "rotary_dim": 2},
    ):
        spec = builders.TransformerSpec(
            vocabulary_size=31, num_layers=3, hidden_dim=14, num_heads=2, **changes
        )
        derived = fill_derived_fields(json.loads(spec.to_json()))
        for field in DERIVED_FIELDS:
            assert derived[field] == getattr(spec, field), field


# Random specs -----------------------------------------------------------------------------------


def assert_random_spec_equals_reference(spec: builders.TransformerSpec) -> None:
    """Compare within a tolerance estimated from the spec and its weights."""
    model = random_model(spec)
    # A padding query may have no visible key. The Keras layer then returns zeros or the mean of all
    # values, depending on dropout; the reference the mean. No other position depends on it.
    differs = spec.attention == "layer" and spec.attention_window and spec.pad_token_id is not None
    is_encoder = spec.kind == "encoder_only"
    tokens = random_tokens(spec, padding=not (differs and is_encoder))
    weights = weights_by_name(model)
    expected = flatten_outputs(reference_logits(json.loads(spec.to_json()), weights, tokens))
    assert np.isfinite(expected).all()
    error = rounding_error(spec, weights, tokens)
    assume(error < 1e-5)  # skip ill-conditioned specs
    compared: Any = ...
    if differs and not is_encoder:
        compared = target_of(tokens) != spec.pad_token_id
    logits = logits_of(model, tokens)
    assert relative_error(logits[compared], expected[compared]) < 5e-6 + 20 * error


@given(small_specs())
@settings(max_examples=scale_examples(6), derandomize=True)
def test_logits_of_random_specs_equal_the_numpy_reference(spec: builders.TransformerSpec) -> None:
    assert_random_spec_equals_reference(spec)


@pytest.mark.slow
@given(small_specs())
@settings(max_examples=scale_examples(200), suppress_health_check=[HealthCheck.too_slow])
def test_logits_of_many_random_specs_equal_the_numpy_reference(
    spec: builders.TransformerSpec,
) -> None:
    """Draw other specs in every run."""
    assert_random_spec_equals_reference(spec)


# Equivalent wirings -----------------------------------------------------------------------------


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("kind", "norm_placement", "head_dim"),
    slow_unless(
        lambda kind, placement, head_dim: (placement == "post") == (head_dim is None),
        itertools.product(ALL_KINDS, MAIN_FIELDS["norm_placement"], [None, 5]),
    ),
)
def test_the_keras_attention_layer_equals_the_wired_attention(
    kind: str, norm_placement: str, head_dim: int | None
) -> None:
    spec = small_spec(kind=kind, norm_placement=norm_placement, head_dim=head_dim)
    wired = random_model(spec.replace(attention="graph"))
    layer = random_model(spec.replace(attention="layer"), seed=1)
    copy_weights(wired, layer)
    tokens = random_tokens(spec)
    assert relative_error(logits_of(layer, tokens), logits_of(wired, tokens)) < 2e-6


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_unfused_attention_equals_fused_attention(kind: str) -> None:
    """Attention dropout makes the scores a node of the graph; inference must not change."""
    spec = small_spec(kind=kind)
    fused = random_model(spec)
    unfused = random_model(spec.replace(attention_dropout=0.3), seed=1)
    copy_weights(fused, unfused)
    tokens = random_tokens(spec)
    assert relative_error(logits_of(unfused, tokens), logits_of(fused, tokens)) < 2e-6
