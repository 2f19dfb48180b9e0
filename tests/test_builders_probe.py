"""Probes return the internal activations of the model."""

from typing import Any

import keras
import numpy as np
import pytest
from reference_operations import softmax
from small_models import (
    BATCH,
    GROUPED,
    SOURCE_LENGTH,
    TARGET_LENGTH,
    TRANSLATOR,
    as_array,
    copy_weights,
    dtype_policy_scope,
    logits_of,
    probe_activations,
    random_tokens,
    relative_error,
    shared_model,
    small_spec,
    weights_by_name,
)

import builders


def visible_keys(spec: builders.TransformerSpec, tokens: np.ndarray) -> np.ndarray:
    """Return the mask of decoder self-attention, (b, t, t), True = visible."""
    query, key = np.arange(TARGET_LENGTH)[:, None], np.arange(TARGET_LENGTH)
    near = key > query - (spec.attention_window or TARGET_LENGTH)
    real = np.ones(tokens.shape, bool) if spec.pad_token_id is None else tokens != spec.pad_token_id
    return (key <= query) & near & real[:, None, :]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pad_token_id": None},
        {"pad_token_id": 7, "attention_window": 3},
        {**GROUPED, "attention_dropout": 0.3},
        {"attention": "layer"},
    ],
    ids=["padding", "no padding", "window", "grouped", "layer"],
)
def test_attention_scores_are_the_softmax_over_visible_keys(changes: dict[str, Any]) -> None:
    spec = small_spec(**changes)
    model = shared_model(spec)
    tokens = random_tokens(spec)
    scores = probe_activations(model, spec, tokens, "attention_scores")
    at = "decoder.block_0.self_attention"
    assert list(scores) == [at, "decoder.block_1.self_attention"]
    mask = visible_keys(spec, tokens)
    has_keys = mask.any(axis=-1)  # weights of a query without visible keys are unspecified
    masked = np.broadcast_to((has_keys[..., None] & ~mask)[:, None], scores[at].shape)
    for weights in scores.values():
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=0, atol=1e-6)
        assert not weights[masked].any()

    names = [f"{at}.norm", f"{at}.query", f"{at}.key"]
    normed, query, key = probe_activations(model, spec, tokens, names).values()
    arrays = weights_by_name(model)
    for role, found in (("query", query), ("key", key)):
        heads = np.einsum("btd,dnh->btnh", normed, arrays[f"{at}.{role}.kernel"])
        np.testing.assert_allclose(found, heads + arrays[f"{at}.{role}.bias"], rtol=0, atol=1e-5)
    key = np.repeat(key, spec.num_heads // spec.num_key_value_heads, axis=2)
    products = np.einsum("btnh,bsnh->bnts", query, key) / np.sqrt(spec.head_dim)
    expected = softmax(np.where(mask[:, None], products, -1e30))
    difference = np.moveaxis(scores[at] - expected, 1, 2)[has_keys]
    np.testing.assert_allclose(difference, 0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("attention", ["graph", "layer"])
def test_attention_scores_of_a_translator_include_all_three_attentions(attention: str) -> None:
    spec = small_spec(**TRANSLATOR, attention=attention)
    tokens = random_tokens(spec)
    scores = probe_activations(shared_model(spec), spec, tokens, "attention_scores")
    t, s = TARGET_LENGTH, SOURCE_LENGTH
    lengths = {"encoder.self": (s, s), "decoder.self": (t, t), "decoder.cross": (t, s)}
    assert {name: weights.shape for name, weights in scores.items()} == {
        f"{side}.block_{block}.{part}_attention": (BATCH, 2, *lengths[f"{side}.{part}"])
        for side, part in (name.split(".") for name in lengths)
        for block in range(2)
    }
    for name, weights in scores.items():
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=0, atol=1e-6)
        if "decoder.block_0.self" not in name and "decoder.block_1.self" not in name:
            padding = np.moveaxis(weights, 3, 1)[tokens["source"] == 0]
            assert padding.size, name
            assert not padding.any(), name


def test_attention_scores_of_the_keras_layer_equal_those_of_wired_attention() -> None:
    graph, layer = small_spec(**TRANSLATOR), small_spec(**TRANSLATOR, attention="layer")
    wired, keras_layer = shared_model(graph), shared_model(layer, seed=1)
    copy_weights(wired, keras_layer)
    tokens = random_tokens(graph)
    expected = probe_activations(wired, graph, tokens, "attention_scores")
    found = probe_activations(keras_layer, layer, tokens, "attention_scores")
    assert found.keys() == expected.keys()
    for name, weights in found.items():
        np.testing.assert_allclose(weights, expected[name], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_attention_scores_in_half_precision_keep_the_dtype_and_sum_to_one() -> None:
    spec = small_spec()
    with dtype_policy_scope("mixed_bfloat16"):
        model = shared_model(spec)
    scores = builders.build_probe(model, spec)(random_tokens(spec))
    for weights in scores.values():
        assert keras.backend.standardize_dtype(weights.dtype) == "bfloat16"
        np.testing.assert_allclose(as_array(weights).sum(axis=-1), 1, rtol=0, atol=2e-2)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("attention", ["graph", "layer"])
@pytest.mark.parametrize("norm_placement", ["pre", "post"])
def test_probed_activations_are_consistent(norm_placement: str, attention: str) -> None:
    spec = small_spec(norm_placement=norm_placement, attention=attention, activation="relu")
    model = shared_model(spec)
    tokens = random_tokens(spec)
    block = "decoder.block_0"
    names = [
        "decoder.add_positions",
        *(
            f"{block}.self_attention.{name}"
            for name in ("softmax", "value", "weighted_values", "output")
        ),
        f"{block}.self_attention.residual",
        *(f"{block}.feedforward.{name}" for name in ("up", "down")),
        "logits",
    ]
    activations = probe_activations(model, spec, tokens, names)
    x, weights, value, mixed, output, residual, up, down, logits = activations.values()
    arrays = weights_by_name(model)
    np.testing.assert_allclose(residual, x + output, rtol=0, atol=1e-6)
    np.testing.assert_allclose(mixed, np.einsum("bnts,bsnh->btnh", weights, value), atol=1e-5)
    expected = np.einsum("btnh,nhd->btd", mixed, arrays[f"{block}.self_attention.output.kernel"])
    expected = expected + arrays[f"{block}.self_attention.output.bias"]
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)
    kernel, bias = (arrays[f"{block}.feedforward.down.{name}"] for name in ("kernel", "bias"))
    assert (up >= 0).all()
    np.testing.assert_allclose(down, up @ kernel + bias, rtol=0, atol=1e-5)
    assert relative_error(logits, logits_of(model, tokens)) <= 1e-5


def test_a_probe_accepts_a_single_layer_name() -> None:
    spec = small_spec()
    model = shared_model(spec)
    name = "decoder.block_1.feedforward.up"
    assert builders.build_probe(model, spec, name)(random_tokens(spec))[name].shape == (3, 11, 23)


def test_the_error_for_an_unknown_layer_lists_the_layers() -> None:
    spec = small_spec()
    model = builders.build(spec)
    with pytest.raises(ValueError, match=r"did you mean 'decoder.block_0.feedforward.up'") as error:
        builders.build_probe(model, spec, "decoder.block_0.feedforward.upp")
    for name in ("attention_scores", "decoder.block_1.self_attention.softmax", "logits"):
        assert name in str(error.value)
