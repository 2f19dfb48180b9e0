"""The whole registry: every variant builds, runs as the reference does, and has its size."""

import json

import keras
import pytest
from reference import parameter_count, reference_logits
from small_models import (
    VARIANTS_AND_KINDS,
    logits_of,
    random_model,
    random_tokens,
    reduced_variant,
    relative_error,
    weights_by_name,
)

import builders


@pytest.mark.parametrize(("name", "kind"), VARIANTS_AND_KINDS)
def test_every_variant_at_reduced_size_equals_the_reference(name: str, kind: str) -> None:
    spec = reduced_variant(name, kind)
    assert builders.TransformerSpec.from_json(spec.to_json()) == spec
    model = random_model(spec)
    tokens = random_tokens(spec)
    fields = json.loads(spec.to_json())
    expected = reference_logits(fields, weights_by_name(model), tokens)
    assert relative_error(logits_of(model, tokens), expected) < 1e-5
    assert model.count_params() == parameter_count(fields)


@pytest.mark.parametrize(("name", "kind"), VARIANTS_AND_KINDS)
def test_every_variant_at_full_size_has_the_parameters_of_the_formula(name: str, kind: str) -> None:
    """Built without allocating its weights, so that size costs nothing."""
    spec = builders.variant(name, kind=kind)
    with keras.StatelessScope(initialize_variables=False):
        model = builders.build(spec)
    assert model.count_params() == parameter_count(json.loads(spec.to_json()))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("tf_tutorial", 10_184_162), ("mini_gpt", 10_939_168), ("gpt2_small", 124_439_808)],
)
def test_published_models_have_exactly_the_published_parameters(name: str, parameters: int) -> None:
    with keras.StatelessScope(initialize_variables=False):
        assert builders.build(builders.variant(name)).count_params() == parameters


@pytest.mark.slow
def test_gpt2_small_with_real_weights_runs_at_its_full_length() -> None:
    import numpy as np

    model = builders.build_decoder_only("gpt2_small", num_layers=1)
    tokens = np.random.default_rng(0).integers(0, 50_257, (1, 1024), dtype="int32")
    assert np.isfinite(logits_of(model, tokens)).all()
