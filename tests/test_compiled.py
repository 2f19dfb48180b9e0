"""Functions that the backend compiles: what TensorFlow says of them."""

import keras
import numpy as np
import pytest

from functional_models.compiled import compiled

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow alone warns of tracing"
)


def test_generators_of_many_models_give_no_warning_of_tracing(caplog):
    def of_model(factor):
        def multiply(x):
            return factor * x

        return compiled(multiply)

    for factor in range(7):
        assert of_model(factor)(np.float32(3)) == 3 * factor
    assert not caplog.records


def test_tensorflow_still_warns_of_other_functions(caplog):
    import tensorflow as tf

    for factor in range(7):
        tf.function(lambda x, factor=factor: factor * x)(tf.constant(3.0))
    assert "tf.function retracing" in caplog.text
