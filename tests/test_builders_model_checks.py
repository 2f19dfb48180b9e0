"""Derived graphs accept the spec of their model and reject every other one."""

import functools
import random
from typing import Any

import keras
import numpy as np
import pytest
from decoding import ONE_BY_ONE, decode_logits
from small_models import (
    TRANSLATOR,
    dtype_policy_scope,
    logits_of,
    probe_activations,
    random_model,
    random_tokens,
    relative_error,
    small_spec,
)

import builders
from builders import components
from builders.model_checks import check_spec_of_model


def derive_graph(build: str, model: keras.Model, spec: builders.TransformerSpec) -> keras.Model:
    if build == "build_probe":
        return builders.build_probe(model, spec, "attention_scores")
    return getattr(builders, build)(model, spec)


OTHER_SPECS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    # (fields of the model, changes to them, message); 2 blocks, pre-norm, learned positions
    ({}, {"num_layers": 1}, r"decoder\.block_1\.\S+ is missing in the spec"),
    ({}, {"num_layers": 3}, r"decoder\.block_2\.\S+ is missing in the model"),
    (TRANSLATOR, {"num_encoder_layers": 3}, r"encoder\.block_2\.\S+ is missing in the model"),
    ({}, {"norm_placement": "sandwich"}, "output_norm is missing in the model"),
    ({}, {"norm_placement": "parallel"}, r"block_0\.(residual|sum) is missing in"),
    (
        {},
        {"norm_placement": "post", "final_norm": True},
        "norm takes .* in the spec and .* in the model",
    ),
    ({}, {"merge": "none"}, r"\.residual is missing in the spec"),
    ({"merge": "none"}, {"merge": "add"}, r"\.residual is missing in the model"),
    ({"dropout": 0.1}, {"dropout": 0.0}, r"\.dropout is missing in the spec"),
    ({"dropout": 0.1}, {"dropout": 0.2}, "rate=0.2 in the spec and rate=0.1 in the model"),
    ({}, {"norm_epsilon": 1e-3}, "epsilon=0.001 in the spec and epsilon=1e-05 in the model"),
    (
        {},
        {"activation": "silu"},
        "activation='silu' in the spec and activation='\\w+' in the model",
    ),
    ({"attention_window": 3}, {"attention_window": 5}, "window=5 in the spec and window=3"),
    ({}, {"attention_window": 5}, "window_attention_mask is missing in the model"),
    ({}, {"pad_token_id": 3}, "pad_token_id=3 in the spec and pad_token_id=0 in the model"),
    ({}, {"mask_target_padding": False}, "attention_mask is missing in the spec"),
    ({}, {"attention_scale": 0.5}, "scale=0.5 in the spec and scale=None in the model"),
    ({}, {"attention_soft_cap": 5.0}, "self_attention.scores is missing in the model"),
    ({}, {"logit_soft_cap": 5.0}, "logit_soft_cap is missing in the model"),
    ({}, {"scale_embeddings": True}, "scale_embedding is missing in the model"),
    ({}, {"scale_logits": True}, "scale_logits is missing in the model"),
    ({}, {"positions": "none"}, "add_positions is missing in the spec"),
    ({}, {"max_sequence_length": 19}, "max_length=19 in the spec and max_length=17 in the model"),
    ({}, {"num_heads": 1, "head_dim": 6}, r"output_shape=\[None, 1, 6\] in the spec"),
    ({"tie_embeddings": True}, {"tie_embeddings": False}, "logits is missing in the model"),
    (
        {"tie_embeddings": True, "logit_bias": True},
        {"tie_embeddings": False},
        "logits is a Dense in the spec and a AddBias in the model",
    ),
]


@functools.cache
def model_with_decode_step(spec: builders.TransformerSpec) -> keras.Model:
    """Return a model that accepts its own spec."""
    model = builders.build(spec)
    builders.build_decode_step(model, spec)
    return model


@pytest.mark.sampled(9)
@pytest.mark.parametrize(("fields", "changes", "message"), OTHER_SPECS)
def test_a_spec_that_does_not_describe_the_model_is_rejected(
    fields: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    """Otherwise the derived graph would compute other logits than the model."""
    spec = small_spec(**fields)
    model = model_with_decode_step(spec)
    builds = ["build_decode_step", "build_probe"]
    builds += ["build_encode"] if spec.kind == "encoder_decoder" else []
    for build in builds:
        with pytest.raises(ValueError, match=f"({message}).*use the spec that the model was"):
            derive_graph(build, model, spec.replace(**changes))


def test_weights_precision_and_initializers_are_no_part_of_the_check() -> None:
    spec = small_spec(attention="layer", dropout=0.1, norm_bias=False)
    with dtype_policy_scope("mixed_bfloat16"):
        model = random_model(spec)
    model.trainable = False
    other = spec.replace(initializer="depth_scaled", initializer_range=0.05)
    for build in ("build_decode_step", "build_probe"):
        assert derive_graph(build, model, other).weights


def test_a_model_with_an_activation_that_keras_cannot_serialize_decodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(components, "_components", dict(components._components))
    cube = functools.partial(lambda x, power: x**power, power=3)
    builders.register_component("activation", "cube")(cube)
    spec = small_spec(activation="cube")
    model = random_model(spec)
    tokens = random_tokens(spec)
    decoded = decode_logits(model, spec, tokens, ONE_BY_ONE)
    assert relative_error(decoded, logits_of(model, tokens)) <= 1e-5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning")
@pytest.mark.parametrize("attention", ["graph", "layer"])
def test_a_quantized_model_has_a_decode_step_and_a_probe(attention: str) -> None:
    spec = small_spec(attention=attention)
    model = random_model(spec)
    model.quantize("int8")
    tokens = random_tokens(spec)
    decoded, logits = decode_logits(model, spec, tokens, ONE_BY_ONE), logits_of(model, tokens)
    assert relative_error(decoded, logits) <= 0.05
    for scores in probe_activations(model, spec, tokens, "attention_scores").values():
        np.testing.assert_allclose(scores.sum(axis=-1), 1, atol=1e-5)


def test_the_check_draws_no_random_numbers() -> None:
    spec = small_spec(dropout=0.1)
    model = builders.build(spec)
    state = random.getstate()
    check_spec_of_model(model, spec)
    assert random.getstate() == state
