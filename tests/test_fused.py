"""Kernels of norms, attention weights and the optimizer against NumPy in float64."""

import keras
import numpy as np
import pytest
from keras import ops

import builders
from builders.attention_layers import masked_softmax
from builders.fused import fused_kernels
from builders.norms import (
    LayerNormalization,
    PlainRMSNormalization,
    RMSNormalization,
    UnitOffsetRMSNormalization,
)
from functional_models.optimizers import AdamW

TENSORFLOW_ONLY = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="kernels exist on TensorFlow only"
)
NORMS = {
    "layer": (LayerNormalization, {}),
    "layer without bias": (LayerNormalization, {"center": False}),
    "layer without weights": (LayerNormalization, {"center": False, "scale": False}),
    "rms": (RMSNormalization, {}),
    "rms without weights": (PlainRMSNormalization, {}),
    "rms with offset": (UnitOffsetRMSNormalization, {}),
}
TOLERANCE = {"float32": 2e-6, "mixed_bfloat16": 8e-3}


def normalized(name, x, weights, epsilon):
    """NumPy float64 reference."""
    x = x - x.mean(-1, keepdims=True) if name.startswith("layer") else x
    x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + epsilon)
    gain, bias = (*weights, None, None)[:2]
    gain = 1.0 if gain is None else gain + ("offset" in name)
    return x * gain + (0.0 if bias is None else bias)


def gradients_of(function, arrays, upstream):
    """Return d sum(function(*arrays) * upstream) / d each array, by central differences."""
    found = []
    for i, array in enumerate(arrays):
        gradient = np.zeros(array.shape)
        for at in np.ndindex(array.shape):
            values = []
            for step in (1e-5, -1e-5):
                moved = [a.copy() for a in arrays]
                moved[i][at] += step
                values.append((function(*moved) * upstream).sum())
            gradient[at] = (values[0] - values[1]) / 2e-5
        found.append(gradient)
    return found


def assert_close(found, expected, tolerance):
    found = np.asarray(ops.convert_to_numpy(ops.cast(found, "float32")), "float64")
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.sampled(3)
@TENSORFLOW_ONLY
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", list(TOLERANCE))
@pytest.mark.parametrize("name", list(NORMS))
def test_a_fused_norm_has_the_values_and_gradients_of_the_formula(name, precision, compiled):
    import tensorflow as tf

    make, options = NORMS[name]
    layer = make(epsilon=0.01, dtype=precision, **options)
    random = np.random.default_rng(7)
    dtype = layer.compute_dtype
    x, upstream = (tf.cast(random.normal(size=(2, 5, 7)), dtype) for _ in "xu")
    layer.build(x.shape)
    for weight in layer.weights:
        # Numbers that bfloat16 holds, since RMS norms round their gain to the model's precision.
        weight.assign(random.integers(1, 9, 7) / 8)

    def step(x):
        with tf.GradientTape() as tape, fused_kernels():
            tape.watch(x)
            y = layer(x)
        sources = [x, *(weight.value for weight in layer.weights)]
        return y, *tape.gradient(y, sources, upstream)

    y, *gradients = (tf.function(step) if compiled else step)(x)
    assert y.dtype == x.dtype == gradients[0].dtype
    arrays = [np.float64(tf.cast(a, "float32")) for a in (x, *layer.weights)]
    at = np.float64(tf.cast(upstream, "float32"))

    def formula(x, *weights):
        return normalized(name, x, weights, 0.01)

    assert_close(y, formula(*arrays), TOLERANCE[precision])
    expected = gradients_of(formula, arrays, at)
    for found, wanted in zip(gradients, expected, strict=True):
        assert_close(found, wanted, 2 * TOLERANCE[precision])


def softmax(scores, mask):
    """NumPy float64 reference."""
    scores = np.where(mask, scores, -3e38)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.sampled(2)
@TENSORFLOW_ONLY
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 8e-3)])
def test_fused_attention_weights_have_the_values_and_gradients_of_the_formula(
    masked, dtype, tolerance
):
    import tensorflow as tf

    random = np.random.default_rng(3)
    scores, upstream = (tf.cast(random.normal(size=(2, 3, 5, 7)), dtype) for _ in "su")
    mask = random.integers(0, 2, (2, 5, 7)).astype(bool) if masked else np.ones((1, 1, 7), bool)
    mask[0, 0] = False if masked else mask[0, 0]  # a query that may see no key

    def step(scores):
        with tf.GradientTape() as tape, fused_kernels():
            tape.watch(scores)
            given = tf.constant(mask) if masked else None
            weights = masked_softmax(scores, given, dtype=dtype)
        return weights, tape.gradient(weights, scores, upstream)

    for found in (step(scores), tf.function(step)(scores)):
        arrays = [np.float64(tf.cast(a, "float32")) for a in (scores, upstream)]
        w = softmax(arrays[0], mask[:, None])
        assert_close(found[0], w, tolerance)
        slope = w * (arrays[1] - (w * arrays[1]).sum(-1, keepdims=True))
        assert_close(found[1], np.where(mask[:, None], slope, 0), 2 * tolerance)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_models_are_restored_with_their_norms(norm, tmp_path):
    sizes = {"vocabulary_size": 23, "num_layers": 1, "hidden_dim": 6, "num_heads": 2}
    model = builders.build_decoder_only(
        "pre_norm_learned", norm=norm, intermediate_dim=7, max_sequence_length=5, **sizes
    )
    model.save(tmp_path / "model.keras")
    tokens = np.arange(1, 6)[None]
    restored = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(restored.predict(tokens, 1, 0), model.predict(tokens, 1, 0))


OPTIONS = {"learning_rate": 0.01, "weight_decay": 0.1, "beta_2": 0.97, "epsilon": 1e-7}


def adam(weights, steps, clip):
    """AdamW in NumPy float64 (Loshchilov and Hutter 2019, algorithm 2), with a clipped norm."""
    weights = [w.astype("float64") for w in weights]
    means, squares = ([np.zeros_like(w) for w in weights] for _ in range(2))
    for t, gradients in enumerate(steps, start=1):
        norm = np.sqrt(sum(np.square(g).sum() for g in gradients))
        for i, g in enumerate(gradients):
            g = g * min(1, clip / norm)
            means[i] = 0.9 * means[i] + 0.1 * g
            squares[i] = 0.97 * squares[i] + 0.03 * g * g
            rate = 0.01 * np.sqrt(1 - 0.97**t) / (1 - 0.9**t)
            update = rate * means[i] / (np.sqrt(squares[i]) + 1e-7)
            weights[i] = weights[i] * (1 - 0.01 * 0.1) - update
    return weights


@pytest.mark.parametrize("clip", [None, 0.5, 1e6])
def test_the_optimizer_takes_the_steps_of_the_formula(clip):
    random = np.random.default_rng(5)
    start = [random.normal(size=shape).astype("float32") for shape in ((11, 3), (3, 7), (7,))]
    ids = random.integers(0, 11, (5, 13))  # of an embedding, some of them twice
    rows = random.normal(size=(5, 13, 3)).astype("float32")
    steps = [[random.normal(size=a.shape).astype("float32") for a in start] for _ in ids]
    optimizer = AdamW(global_clipnorm=clip, **OPTIONS)
    weights = [keras.Variable(array) for array in start]
    for i, gradients in enumerate(steps):
        gradients[0] = np.zeros_like(start[0])
        np.add.at(gradients[0], ids[i], rows[i])
        given = [*map(ops.convert_to_tensor, gradients)]
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            given[0] = tf.IndexedSlices(rows[i], ids[i], start[0].shape)
        optimizer.apply(given, weights)
    for found, expected in zip(weights, adam(start, steps, clip or np.inf), strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=2e-5, atol=1e-6)


def test_gradients_that_are_not_finite_stay_visible():
    weight = keras.Variable(np.ones(3, "float32"))
    optimizer = AdamW(global_clipnorm=1.0, **OPTIONS)
    optimizer.apply([ops.convert_to_tensor(np.array([1, np.inf, 1], "float32"))], [weight])
    assert np.isnan(ops.convert_to_numpy(weight)).all()
