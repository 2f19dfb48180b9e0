"""The normalized Transformer (nGPT): vectors of unit length before and after training steps."""

from collections.abc import Iterator

import keras
import numpy as np
import pytest
from small_models import as_array, random_tokens, reduced_variant

import builders

SPEC = reduced_variant("ngpt", "decoder_only")


def lengths_of_vectors(model: keras.Model) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the lengths of the vectors of d channels that every embedding and kernel has."""
    for layer in model.layers:
        for weight in layer.weights:
            if weight.name in ("kernel", "embeddings"):
                [axis] = (k for k, n in enumerate(weight.shape) if n == SPEC.hidden_dim)
                yield layer.name, np.linalg.norm(as_array(weight.value), axis=axis)


@pytest.mark.slow
def test_vectors_have_unit_length_from_the_start_and_after_training_steps() -> None:
    model, tokens = builders.build(SPEC), random_tokens(SPEC)
    start = [as_array(weight.value) for weight in model.trainable_weights]
    model.compile(
        keras.optimizers.Adam(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    for steps in (0, 2):
        if steps:
            model.fit(tokens, tokens, epochs=steps, verbose=0)
        found = dict(lengths_of_vectors(model))
        assert len(found) == 7 * SPEC.num_layers + 2
        for name, lengths in found.items():
            np.testing.assert_allclose(lengths, 1, rtol=1e-5, err_msg=name)
    for before, weight in zip(start, model.trainable_weights, strict=True):
        assert not np.array_equal(before, as_array(weight.value)), weight.path


def test_streams_have_unit_length_and_move_by_the_trained_share_of_the_way() -> None:
    """h = norm(h + 0.05 (norm(f(h)) - h)) at the start (equation 10)."""
    model, tokens = builders.build(SPEC), random_tokens(SPEC)
    block = "decoder.block_0.self_attention"
    names = ["decoder.token_embedding", f"{block}.output", f"{block}.unit_stream"]
    probe = builders.build_probe(model, SPEC, names)(tokens)
    h, f, after = (as_array(probe[name]) for name in names)
    np.testing.assert_allclose(np.linalg.norm(after, axis=-1), 1, rtol=1e-5)
    moved = h + 0.05 * (f / np.linalg.norm(f, axis=-1, keepdims=True) - h)
    expected = moved / np.linalg.norm(moved, axis=-1, keepdims=True)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["query_key_gain", "logit_gain"])
def test_gains_start_at_one_and_are_stored_in_units_of_the_width(name: str) -> None:
    model = builders.build(SPEC)
    layers = [layer for layer in model.layers if layer.name.endswith(name)]
    assert layers
    for layer in layers:
        np.testing.assert_allclose(as_array(layer.scale.value), SPEC.hidden_dim**-0.5, rtol=1e-6)
        ones = np.ones(layer.shape, "float32")
        np.testing.assert_allclose(as_array(layer(ones)), ones, rtol=1e-6)
