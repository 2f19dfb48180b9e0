"""Properties of every model, of specs that mix recent choices and of random ones.

Random specs vary every field, also by block; other specs are drawn in every run.
"""

import dataclasses
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from decoding import assert_cached_equals_uncached, decode_logits, is_not_padding
from hypothesis import HealthCheck, assume, given, seed, settings
from random_specs import field_values, rounding_error, scale_examples, small_specs
from reference import reference_logits
from reference_weights import parameter_count, weight_shapes
from small_models import (
    ALL_KINDS,
    KINDS,
    LATENTS,
    as_array,
    flatten_outputs,
    logits_of,
    random_tokens,
    relative_error,
    replace_token,
    shared_model,
    small_spec,
    target_of,
    variables_by_name,
    weights_by_name,
    with_target,
)

import builders
from builders.components import SHIPPED
from builders.fields import rule_of
from plots.measuring.gradients import gradient

BACKEND = keras.backend.backend()
MIXED: dict[str, dict[str, Any]] = {
    "streams, latents, experts, a memory of fixed size": {
        **LATENTS,
        "num_layers": 3,
        "norm": "rms",
        "norm_placement": "sandwich",
        "merge": "hyper_connections",
        "num_streams": 3,
        "block_skips": "unet",
        "positions": "rotary",
        "rotary_scaling": "longrope",
        "rotary_original_length": 7,
        "rotary_short_factors": (1.0, 1.5),
        "rotary_long_factors": (2.0, 7.0),
        "query_latent_dim": 9,
        "attention_sinks": True,
        "attention_gate": True,
        "feedforward": "clamped_glu",
        "glu_limit": 1.3,
        "num_experts": 6,
        "num_active_experts": 2,
        "num_expert_groups": 3,
        "num_active_groups": 2,
        "expert_dim": 11,
        "shared_expert_dim": 5,
        "shared_expert_gate": True,
        "router_scores": "sigmoid",
        "router_correction_rate": 0.01,
        "block_overrides": (
            {},
            {"mixer": "gated_delta", "expert_dim": 7},
            {"num_experts": 0, "num_active_experts": 0, "positions": "none"},
        ),
    },
    "a translator of shared blocks with mixed values": {
        "kind": "encoder_decoder",
        "num_layers": 3,
        "num_encoder_layers": 2,
        "distinct_blocks": 2,
        "norm_placement": "output",
        "merge": "highway",
        "block_skips": "embedding",
        "value_residual": True,
        "head_dim": 6,
        "positions": "rotary",
        "rotary_scaling": "yarn",
        "rotary_factor": 3.7,
        "attention_temperature": 0.5,
        "attention_temperature_floor": 3,
        "qk_norm": True,
        "qk_norm_heads": "separate",
        "qk_norm_after_rotary": True,
        "block_overrides": ({"attention_window": 3}, {"rotary_dim": 2, "attention_chunk": 4}),
    },
    "a loop on the sphere": {
        "num_layers": 3,
        "distinct_blocks": 1,
        "norm_placement": "none",
        "norm": "unit",
        "merge": "spherical",
        "positions": "coordinates",
        "feedforward": "scaled_glu",
        "qk_norm": True,
        "qk_norm_heads": "tied",
        "logit_gain": True,
    },
    "an encoder of scaled parallel branches": {
        "kind": "encoder_only",
        "norm_placement": "parallel_shared_norm",
        "norm_scale": "inverse_sqrt_depth",
        "merge": "scaled",
        "skip_scale": "deep_norm",
        "branch_scale": "inverse_sqrt_layers",
        "attention_sinks": True,
        "masked_lm_head": True,
        "pooler": True,
    },
}


# What is drawn ----------------------------------------------------------------------------------


class Drawn:
    """The values that were drawn of each field, and the fields that differ in some block."""

    def __init__(self) -> None:
        self.values: dict[str, set[Any]] = defaultdict(set)
        self.changed_in_blocks: set[str] = set()

    def add(self, values: dict[str, Any]) -> None:
        spec = builders.TransformerSpec(**values)
        for field, value in values.items():
            self.values[field].add(spec.block_overrides if field == "block_overrides" else value)
        for block in spec.block_overrides:
            changed = {field for field, value in block.items() if value != getattr(spec, field)}
            self.changed_in_blocks |= changed

    def missing(self) -> list[str]:
        """Return the fields, values and fields of blocks that were not drawn yet."""
        fields = dataclasses.fields(builders.TransformerSpec)
        found = [f.name for f in fields if len(self.values[f.name]) < 2]
        for field, shipped in {**SHIPPED, "kind": ALL_KINDS}.items():  # some take numbers too
            found += [f"{field}={name!r}" for name in shipped if name not in self.values[field]]
        by_block = {f.name for f in fields if rule_of(f).by_block}
        return found + [f"{field} of a block" for field in by_block - self.changed_in_blocks]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="builds no model")
def test_random_specs_cover_every_field_and_every_built_in_value() -> None:
    drawn = Drawn()

    @given(field_values())
    @settings(
        max_examples=30,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    def draw(values: dict[str, Any]) -> None:
        drawn.add(values)

    # One long run would mostly vary its first examples.
    for number in range(40):
        seed(number)(draw)()
        if not drawn.missing():
            break
    assert drawn.missing() == []


# Properties -------------------------------------------------------------------------------------


def assert_weights_are_those_of_the_formulas(
    spec: builders.TransformerSpec, model: keras.Model, tolerance: float
) -> None:
    fields = json.loads(spec.to_json())
    shapes = {name: tuple(v.shape) for name, v in variables_by_name(model).items()}
    assert shapes == weight_shapes(fields)
    counted = builders.count_parameters(spec).total
    assert model.count_params() == parameter_count(fields) == counted


def assert_no_token_changes_earlier_logits(
    spec: builders.TransformerSpec, model: keras.Model, tolerance: float
) -> None:
    if spec.kind == "encoder_only":
        return
    tokens = random_tokens(spec, padding=False)
    before, t = logits_of(model, tokens), 6
    after = logits_of(model, with_target(tokens, replace_token(spec, target_of(tokens), t)))
    assert relative_error(after[:, :t], before[:, :t]) <= tolerance
    assert (after[:, t] != before[:, t]).any()


def assert_padding_after_a_sequence_changes_nothing(
    spec: builders.TransformerSpec, model: keras.Model, tolerance: float
) -> None:
    tokens = random_tokens(spec, padding=False)
    tokens = tokens if isinstance(tokens, dict) else {"tokens": tokens}
    for name, array in tokens.items():
        if name == "prefix_length":
            continue
        length = array.shape[1]
        longer = min(length + 5, spec.max_sequence_length)
        by_length = any(length <= border < longer for border in spec.length_borders)
        if spec.pad_token_id is None or by_length or name == "segments":
            continue
        parts = [part for part in (name, "segments") if part in tokens]
        padded = {
            part: np.pad(
                tokens[part],
                ((0, 0), (0, longer - length)),
                constant_values=0 if part == "segments" else spec.pad_token_id,
            )
            for part in parts
        }
        expected, found = (model(_only(x)) for x in (tokens, {**tokens, **padded}))
        if isinstance(found, dict):
            cut = {k: x if k == "pooled" else x[:, :length] for k, x in found.items()}
            found = cut
        elif name != "source":
            found = found[:, :length]
        error = relative_error(flatten_outputs(found), flatten_outputs(expected))
        assert error <= tolerance, name


def _only(tokens: dict[str, Any]) -> Any:
    return tokens if len(tokens) > 1 else tokens["tokens"]


def assert_a_saved_model_returns_the_same_logits(
    spec: builders.TransformerSpec, model: keras.Model, tolerance: float
) -> None:
    tokens = random_tokens(spec)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
    found, expected = weights_by_name(loaded), weights_by_name(model)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert relative_error(logits_of(loaded, tokens), logits_of(model, tokens)) <= tolerance


def assert_cached_logits_equal_those_of_the_whole_sequence(
    spec: builders.TransformerSpec, model: keras.Model, tolerance: float
) -> None:
    if spec.kind == "encoder_only":
        return
    tokens = random_tokens(spec)
    real = is_not_padding(spec, tokens)
    decoded = decode_logits(model, spec, tokens)
    assert relative_error(decoded[real], logits_of(model, tokens)[real]) <= tolerance


def assert_gradients_are_those_of_the_reference(
    spec: builders.TransformerSpec, model: keras.Model, tolerance: float
) -> None:
    """Compare the slope of a sum of outputs with a difference quotient of the reference.

    The direction changes each weight by one over the size of its gradient, so that each that is
    wrong or missing changes the slope as much.
    """
    tokens = random_tokens(spec, padding=False)
    fields, values = json.loads(spec.to_json()), weights_by_name(model)
    exact = flatten_outputs(reference_logits(fields, values, tokens)).ravel()
    rng = np.random.default_rng(11)
    upstream = rng.normal(size=exact.shape) / np.abs(exact).max()
    found = gradients_of(model, tokens, upstream.astype("float32"))
    sizes = {name: float(np.linalg.norm(slope)) for name, slope in found.items()}
    largest = max(sizes.values())
    directions = {
        name: rng.normal(size=slope.shape) * largest / max(sizes[name], 1e-3 * largest)
        for name, slope in found.items()
    }

    def quotient(names: list[str], step: float = 1e-7) -> float:
        ends = []
        for sign in (1, -1):
            moved = {name: values[name] + sign * step * directions[name] for name in names}
            outputs = flatten_outputs(reference_logits(fields, {**values, **moved}, tokens))
            ends.append(float(outputs.ravel() @ upstream))
        return (ends[0] - ends[1]) / (2 * step)

    def differ(names: list[str]) -> bool:
        slope = sum(float(np.vdot(found[name], directions[name])) for name in names)
        return abs(slope - quotient(names)) > largest * (0.01 + 1e3 * tolerance)

    if differ(list(found)):
        assert [name for name in found if differ([name])] == []
        raise AssertionError("the gradients of all weights together differ, those of each do not")


def gradients_of(model: keras.Model, tokens: Any, upstream: np.ndarray) -> dict[str, np.ndarray]:
    """Return the gradient of sum(outputs * upstream) by the name of each trainable weight."""
    names = {id(variable): name for name, variable in variables_by_name(model).items()}
    order = [names[id(variable)] for variable in model.trainable_variables]
    fixed = [variable.value for variable in model.non_trainable_variables]
    ops = keras.ops
    factors = ops.convert_to_tensor(upstream)

    def total(values: Any) -> Any:
        outputs, _ = model.stateless_call([values[name] for name in order], fixed, tokens)
        if isinstance(outputs, dict):
            outputs = ops.concatenate([ops.reshape(outputs[k], (-1,)) for k in sorted(outputs)])
        return ops.sum(ops.reshape(outputs, (-1,)) * factors)

    at = {names[id(v)]: ops.convert_to_tensor(v.value) for v in model.trainable_variables}
    return {name: as_array(slope) for name, slope in gradient(total, at).items()}


PROPERTIES: list[Callable[[builders.TransformerSpec, keras.Model, float], None]] = [
    assert_weights_are_those_of_the_formulas,
    assert_no_token_changes_earlier_logits,
    assert_padding_after_a_sequence_changes_nothing,
    assert_a_saved_model_returns_the_same_logits,
    assert_cached_logits_equal_those_of_the_whole_sequence,
    assert_gradients_are_those_of_the_reference,
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "check", PROPERTIES, ids=lambda check: check.__name__.removeprefix("assert_")
)
@pytest.mark.parametrize("name", MIXED)
def test_a_mix_of_recent_choices_has_every_property(
    name: str, check: Callable[[builders.TransformerSpec, keras.Model, float], None]
) -> None:
    spec = small_spec(**MIXED[name])
    check(spec, shared_model(spec), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MIXED)[:3])
def test_a_mix_of_recent_choices_decodes_in_steps_of_any_size(name: str) -> None:
    spec = small_spec(**MIXED[name])
    assert_cached_equals_uncached(shared_model(spec), spec)


@pytest.mark.slow
@given(small_specs())
@settings(max_examples=scale_examples(50), suppress_health_check=[HealthCheck.too_slow])
def test_random_specs_have_every_property(spec: builders.TransformerSpec) -> None:
    model = shared_model(spec)
    error = rounding_error(spec, weights_by_name(model), random_tokens(spec))
    assume(error < 1e-5)  # skip ill-conditioned specs
    for check in PROPERTIES:
        check(spec, model, 5e-6 + 20 * error)


@pytest.mark.slow
@given(small_specs(KINDS))
@settings(max_examples=scale_examples(25), suppress_health_check=[HealthCheck.too_slow])
def test_random_specs_decode_in_steps_of_any_size(spec: builders.TransformerSpec) -> None:
    model = shared_model(spec)
    error = rounding_error(spec, weights_by_name(model), random_tokens(spec))
    assume(error < 1e-5)
    assert_cached_equals_uncached(model, spec, tolerance=5e-6 + 20 * error)
