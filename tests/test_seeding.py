"""The same seed gives the same weights, whatever other threads do."""

import random

import keras
import numpy as np

from functional_models.seeding import own_random


def weights(disturb=lambda: None):
    dense = keras.layers.Dense(5)
    disturb()
    dense.build((None, 7))
    dropout = keras.layers.Dropout(0.5)
    return tuple(map(keras.ops.convert_to_numpy, (dense.kernel, dropout.seed_generator.state)))


def test_draws_of_other_threads_change_no_weights():
    keras.utils.set_random_seed(11)
    plain = weights()
    for disturb in (lambda: None, random.random):
        with own_random(11):
            found = weights(disturb)
        for one, other in zip(plain, found, strict=True):
            np.testing.assert_array_equal(one, other)
    keras.utils.set_random_seed(11)
    assert not np.array_equal(weights(random.random)[1], plain[1])


def test_keras_draws_from_pythons_generator_again_afterwards():
    with own_random(3):
        pass
    random.seed(5)
    first = weights()
    random.seed(5)
    for one, other in zip(first, weights(), strict=True):
        np.testing.assert_array_equal(one, other)
