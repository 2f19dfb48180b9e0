"""Small models whose mistake shows in their values alone, and put right.

Each builder takes whether to make the mistake.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops
from mistaken_models import CLASSES
from model_bricks import ANGLES, TOKENS, D, T, attend, embedded, ids, rotated


class Sines(layers.Layer):
    """Adds sinusoids, or those of the last position to all."""

    def __init__(self, is_last=False, **options):
        super().__init__(**options)
        self.is_last = is_last

    def call(self, x):
        angles = np.arange(T)[:, None] / 100.0 ** (np.arange(D) // 2 * 2 / D)
        table = np.where(np.arange(D) % 2, np.cos(angles), np.sin(angles)).astype("float32")
        return x + (table[-1] if self.is_last else table)


def last_row_for_all(wrong):
    x = keras.Input((T, 5))
    y = Sines(wrong)(layers.Dense(D)(x))
    return keras.Model(x, layers.Dense(CLASSES)(y + attend(y)))


class Norm(layers.Layer):
    """A norm that divides by a power of the variance."""

    def __init__(self, power, **options):
        super().__init__(**options)
        self.power = power

    def build(self, shape):
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        x = x - ops.mean(x, axis=-1, keepdims=True)
        return x / (ops.mean(x**2, axis=-1, keepdims=True) + 1e-6) ** self.power * self.gain


def power_of_the_variance(wrong):
    x = keras.Input((5,))
    return keras.Model(x, layers.Dense(CLASSES)(Norm(2.0 if wrong else 0.5)(layers.Dense(7)(x))))


def mean_of_squares(wrong):
    """A norm of operations without its root."""

    def norm(x):
        mean = ops.mean(ops.square(x), axis=-1, keepdims=True)
        return x / (mean if wrong else ops.sqrt(mean + 1e-6))

    x = keras.Input((5,))
    return keras.Model(x, layers.Dense(CLASSES)(norm(layers.Dense(7)(x))))


def distances_added(wrong):
    """Biases that grow with the distance, in the place of those of ALiBi."""

    def attention(x):
        query, key, value = (layers.Dense(D)(x) for _ in range(3))
        distance = np.arange(T)[:, None] - np.arange(T)[None]
        bias = np.where(distance < 0, -1e9, 0.5 * distance * (1 if wrong else -1))
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / D**0.5
        return ops.matmul(ops.softmax(scores + bias.astype("float32")[None]), value)

    x = ids()
    return keras.Model(x, layers.Dense(TOKENS)(attention(embedded(x, lambda x: 0.0))))


def equal_units(wrong):
    x = keras.Input((5,))
    start = "ones" if wrong else "glorot_uniform"
    y = layers.Dense(7, activation="relu", kernel_initializer=start)(x)
    return keras.Model(x, layers.Dense(1, activation="sigmoid", kernel_initializer=start)(y))


def stopped_inside(wrong):
    x = keras.Input((5,))
    y = layers.Dense(7, activation="tanh")(x)
    y = layers.Lambda(lambda y: ops.stop_gradient(y) if wrong else 2.0 * y)(y)
    return keras.Model(x, layers.Dense(CLASSES)(y))


def frozen_table(wrong):
    x = ids()
    y = layers.Embedding(TOKENS, 17, trainable=not wrong)(x)
    return keras.Model(x, layers.Dense(1)(layers.Flatten()(y)))


def rotated_apart(wrong):
    """Keys are rotated backwards."""

    def attention(x):
        query, key, value = (layers.Dense(D)(x) for _ in range(3))
        query, key = rotated(query), rotated(key, -ANGLES if wrong else ANGLES)
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / D**0.5
        return ops.matmul(ops.softmax(scores), value)

    x = ids()
    return keras.Model(x, layers.Dense(CLASSES)(attention(layers.Embedding(TOKENS, D)(x))))


def gains_of_zero(wrong):
    """Norms in series whose gains are zero."""
    x = keras.Input((5,))
    y = x
    for _ in range(2):
        y = y + layers.Dense(5)(y)
        y = layers.LayerNormalization(gamma_initializer="zeros" if wrong else "ones")(y)
    return keras.Model(x, layers.Dense(CLASSES)(y))


def mask_of_the_first_sample(wrong):
    x = ids()
    mask = ops.not_equal(x, 0)[:, None]
    mask = ops.take(mask, [0], axis=0) if wrong else mask
    query, key, value = (layers.Dense(D)(layers.Embedding(TOKENS, D)(x)) for _ in range(3))
    scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / D**0.5
    weights = ops.softmax(ops.where(mask, scores, -1e9))
    return keras.Model(x, layers.Dense(CLASSES)(ops.matmul(weights, value)))


def pooled_in_a_function(wrong):
    """A `Lambda` that takes the maximum over features, and not over points."""
    x = keras.Input((T, 3))
    y = layers.Conv1D(5, 1, activation="relu")(layers.Conv1D(7, 1, activation="relu")(x))
    y = layers.Lambda(lambda y: ops.max(y, axis=-1 if wrong else 1))(y)
    return keras.Model(x, layers.Dense(CLASSES)(y))


class Weighting(layers.Layer):
    """Attention in a layer without weights."""

    def __init__(self, axis, **options):
        super().__init__(**options)
        self.axis = axis

    def call(self, query, key, value):
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / D**0.5
        return ops.matmul(ops.softmax(scores, axis=self.axis), value)


def softmax_in_a_layer(wrong):
    x = keras.Input((T, 3))
    y = Weighting(1 if wrong else -1)(*(layers.Dense(D)(x) for _ in range(3)))
    return keras.Model(x, layers.Dense(CLASSES)(y))


class Gains(layers.Layer):
    """Multiplies features by trained numbers, or does not use them."""

    def __init__(self, is_used, **options):
        super().__init__(**options)
        self.is_used = is_used

    def build(self, shape):
        self.gains = self.add_weight(shape=shape[-1:], initializer="random_normal")

    def call(self, x):
        return ops.tanh(x * self.gains if self.is_used else x)


def unused_gains(wrong):
    x = keras.Input((T, 5))
    return keras.Model(x, layers.Dense(CLASSES)(Gains(not wrong)(layers.Dense(D)(x))))


def reciprocal_root(wrong):
    x = keras.Input((T, 5))
    y = layers.Dense(D)(x)
    root = ops.rsqrt(ops.mean(ops.square(y), axis=-1, keepdims=True) + 1e-6)
    return keras.Model(x, layers.Dense(CLASSES)(y / root if wrong else y * root))


def tokens_shifted_left(wrong):
    x = keras.Input((T,), dtype="int32")
    start = ops.ones_like(x[:, :1])
    given = ops.concatenate([x[:, 1:], start] if wrong else [start, x[:, :-1]], axis=1)
    y = embedded(given)
    y = y + attend(layers.LayerNormalization()(y), use_causal_mask=True)
    return keras.Model(x, layers.Dense(TOKENS)(layers.LayerNormalization()(y)))


def equal_queries(wrong):
    """Queries of a detector: rows of a table, for one index each or all for the same."""
    x = keras.Input((T, 5))
    index = ops.zeros_like(ops.cast(x[:, :4, 0], "int32"))
    index = index if wrong else index + ops.arange(4)
    queries = layers.Embedding(4, D)(index)
    y = queries + layers.MultiHeadAttention(2, 3)(queries, layers.Dense(D)(x))
    return keras.Model(x, layers.Dense(3)(layers.LayerNormalization()(y)))
