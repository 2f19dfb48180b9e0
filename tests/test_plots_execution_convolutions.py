"""Gradients of convolutions that skip rows, in which TensorFlow writes outside of its memory."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import plots
from plots.measuring.execution import call_values


@pytest.mark.sampled(15)
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("strides", [2, 3, 5])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("length", [2, 7, 11, 13, 32])
def test_values_and_gradients_are_those_of_the_model(length, size, strides, padding):
    x = keras.Input((length, length + 1, 3))
    y = layers.Conv2D(7, size, strides=strides, padding=padding, name="conv")(x)
    model = keras.Model(x, layers.Conv2D(5, 1, name="last")(y))
    image = np.random.default_rng(3).normal(size=(1, length, length + 1, 3)).astype("float32")
    values = call_values(model, image)
    np.testing.assert_allclose(values["last"][0], model.predict(image, verbose=0), atol=1e-5)
    gradients = plots.edge_gradients(model, image, loss=lambda y: ops.sum(y), targets=None)
    kernel, last = (ops.convert_to_numpy(layer.kernel) for layer in model.layers[1:])
    by_place = np.einsum("hwcf,fo->c", kernel, last[0, 0])  # summed over the places of the kernel
    (found,) = (g for edge, g in gradients.items() if edge.endswith("-> conv.inputs"))
    assert found.shape == image.shape
    if padding == "valid":
        outputs = values["last"][0].shape[1] * values["last"][0].shape[2]
        np.testing.assert_allclose(found.sum((0, 1, 2)), outputs * by_place, rtol=2e-4, atol=1e-4)


def test_a_model_that_skips_rows_is_diagnosed():
    image = keras.Input((32, 32, 3))
    y = layers.Conv2D(7, 1, strides=2, padding="same", activation="relu")(image)
    y = layers.Conv2D(11, 1, strides=2, padding="same", activation="relu")(y)
    model = keras.Model(image, layers.Dense(5)(layers.GlobalAveragePooling2D()(y)))
    assert "every trainable weight gets a gradient" in plots.diagnosis_text(model)
