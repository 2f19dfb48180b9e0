"""Small models whose inputs are lost: ids, padding, samples, and what a norm takes away.

Each builder takes whether to make the mistake.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops
from mistaken_models import CLASSES
from model_bricks import HEADS, SERIES, TOKENS, D, T, embedded, ids

ROWS = 2053
"""Above 2,048, up to which float16 holds all whole numbers."""


def narrow_ids(dtype):
    """Ids of a type that does not hold the last rows of the table."""

    def build(wrong):
        x = ids()
        y = layers.Embedding(ROWS, D)(ops.cast(x, dtype if wrong else "int32"))
        return keras.Model(x, layers.Dense(CLASSES)(layers.GRU(7)(y)))

    return build


def samples_as_features(wrong):
    """One number of each sample, without an axis for it, times features."""
    x, weight = keras.Input((5,)), keras.Input((1,))
    scale = ops.squeeze(weight, -1) if wrong else weight
    return keras.Model([x, weight], layers.Dense(CLASSES)(layers.Dense(7)(x) * scale))


def image_with_channels_first(wrong):
    image = keras.Input((3, 19, 23))
    x = image if wrong else ops.transpose(image, (0, 2, 3, 1))
    x = layers.Conv2D(5, 3, padding="same", activation="relu")(x)
    return keras.Model(image, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)))


def bare_exponential(wrong):
    """Weights of a sum over time, by exponentials of scores that nothing limits."""
    x = keras.Input(SERIES)
    scores = layers.Dense(1)(x)
    if not wrong:
        scores = scores - ops.max(scores, axis=1, keepdims=True)
    weights = ops.exp(scores)
    weights = weights / ops.sum(weights, axis=1, keepdims=True)
    return keras.Model(x, layers.Dense(CLASSES)(ops.sum(weights * x, axis=1)))


def condition_before_a_norm(wrong):
    """What is the same at all positions is taken away by a norm over positions."""
    x, condition = keras.Input(SERIES), keras.Input((5,))
    shift = ops.expand_dims(layers.Dense(D)(condition), 1)
    y = layers.Dense(D)(x)

    def over_positions(y):
        return (y - ops.mean(y, axis=1, keepdims=True)) / (ops.std(y, axis=1, keepdims=True) + 0.1)

    y = over_positions(y + shift) if wrong else over_positions(y) + shift
    return keras.Model([x, condition], layers.Dense(CLASSES)(ops.relu(y)))


def mask_of_placed_sums(wrong):
    """Vectors with positions are never 0, so that no id is found to be padding."""
    x = ids()
    y = embedded(x)
    keep = ops.sum(ops.abs(y), axis=-1) > 0 if wrong else ops.not_equal(x, 0)
    y = layers.MultiHeadAttention(HEADS, 2)(y, y, attention_mask=keep[:, None])
    return keras.Model(x, layers.Dense(CLASSES)(y[:, 0]))


def rows_without_a_key(wrong):
    """Minus infinity hides padding and the future: a position before the text sees nothing."""
    x = ids()
    y = embedded(x)
    hidden = -1e9 if not wrong else -np.inf
    query, key, value = (layers.Dense(D)(y) for _ in range(3))
    scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / D**0.5
    seen = ops.logical_and(ops.not_equal(x, 0)[:, None], np.tri(T, dtype="bool")[None])
    weights = ops.softmax(ops.where(seen, scores, hidden))
    return keras.Model(x, layers.Dense(TOKENS)(ops.matmul(weights, value)))


class Codes(layers.Layer):
    """Returns the nearest of trained vectors, which learn from a loss of their own alone.

    van den Oord et al. 2017, equation 3. With `is_late`, the loss is that of what is returned,
    whose gradient goes around them.
    """

    def __init__(self, is_late, **options):
        super().__init__(**options)
        self.is_late = is_late

    def build(self, shape):
        self.codes = self.add_weight(shape=(11, shape[-1]), initializer="glorot_uniform")

    def call(self, x):
        distances = ops.sum(ops.square(ops.expand_dims(x, -2) - self.codes), axis=-1)
        nearest = ops.take(self.codes, ops.argmin(distances, axis=-1), axis=0)
        passed = x + ops.stop_gradient(nearest - x)
        codes = passed if self.is_late else nearest
        self.add_loss(ops.mean(ops.square(codes - ops.stop_gradient(x))))
        return passed


def codes_without_a_loss(wrong):
    x = keras.Input(SERIES)
    return keras.Model(x, layers.Dense(CLASSES)(Codes(is_late=wrong)(layers.Dense(D)(x))))


def queries_of_the_last_positions(wrong):
    """The last 5 of 11 positions ask, with a mask that counts queries and keys from the first."""
    x = ids()
    y = embedded(x)
    mask = np.tri(5, T, T - 5, dtype="bool")[None]
    options = {"use_causal_mask": True} if wrong else {"attention_mask": mask}
    late = y[:, -5:]
    late = late + layers.MultiHeadAttention(HEADS, 2)(late, y, **options)
    return keras.Model(x, layers.Dense(TOKENS)(late))


def samples_dropped_whole(wrong):
    x = keras.Input((5,))
    y = layers.Dense(5, activation="relu")(x)
    dropped = layers.Dropout(0.3, noise_shape=(None, 1))(y)
    return keras.Model(x, layers.Dense(CLASSES)(dropped if wrong else x + dropped))


class Centred(layers.Layer):
    """Subtracts the mean of the steps so far, or of all of them."""

    def __init__(self, is_whole, **options):
        super().__init__(**options)
        self.is_whole = is_whole

    def call(self, x):
        steps = ops.reshape(ops.arange(1, T + 1, dtype="float32"), (1, T, 1))
        so_far = ops.cumsum(x, axis=1) / steps
        return x - (ops.mean(x, axis=1, keepdims=True) if self.is_whole else so_far)


def mean_of_later_steps(wrong):
    """Between convolutions that are padded in front alone."""
    x = y = keras.Input(SERIES)
    for rate in (1, 2):
        y = Centred(wrong)(layers.Dense(D, activation="relu")(y))
        y = layers.Conv1D(D, 3, dilation_rate=rate)(layers.ZeroPadding1D((2 * rate, 0))(y))
    return keras.Model(x, layers.Dense(CLASSES)(y))
