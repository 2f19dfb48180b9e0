"""Bricks of small models without names: sublayers, positions, masks, and whole stacks of them."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

T, D, HEADS, TOKENS = 11, 6, 3, 13
SERIES = (T, D)

norm = lambda x: layers.LayerNormalization()(x)  # noqa: E731
pre = lambda x, f: x + f(norm(x))  # noqa: E731
post = lambda x, f: norm(x + f(x))  # noqa: E731


def attend(x, memory=None, **options):
    return layers.MultiHeadAttention(HEADS, 2)(x, x if memory is None else memory, **options)


def causal(x):
    return attend(x, use_causal_mask=True)


def ffn(x):
    return layers.Dense(D)(layers.Dense(17, activation="relu")(x))


def ids():
    return keras.Input((T,), dtype="int32")


def count(x):
    """Positions from 0, computed from the shape of the ids."""
    return ops.cumsum(ops.ones_like(x), axis=1) - 1


def learned(x):
    return layers.Embedding(T, D)(count(x))


def embedded(x, positions=learned):
    return layers.Embedding(TOKENS, D)(x) + positions(x)


def stacked(x, *functions, block=pre):
    for f in functions:
        x = block(x, f)
    return norm(x) if block is pre else x


def language_model(f=causal, positions=learned, block=pre, outputs=TOKENS):
    x = ids()
    y = layers.Embedding(TOKENS, D)(x)
    y = y if positions is None else y + positions(x)
    return keras.Model(x, layers.Dense(outputs)(stacked(y, f, ffn, f, ffn, block=block)))


def translator(f=causal, g=attend):
    source, target = ids(), ids()
    memory = stacked(embedded(source), g, ffn)
    cross = lambda y: attend(y, memory)  # noqa: E731
    y = stacked(embedded(target), f, cross, ffn, f, cross, ffn)
    return keras.Model([source, target], layers.Dense(TOKENS)(y))


class Table(layers.Layer):
    """A trained array for every sample of the batch: only the batch size of the input matters."""

    def __init__(self, length=5, **options):
        super().__init__(**options)
        self.length = length

    def build(self, shape):
        self.array = self.add_weight(shape=(1, self.length, D))

    def call(self, x):
        return ops.repeat(self.array, ops.shape(x)[0], axis=0)


class Shift(layers.Layer):
    """Adds trained vectors: one for each position, or one for all."""

    def __init__(self, length, **options):
        super().__init__(**options)
        self.length = length

    def build(self, shape):
        self.array = self.add_weight(shape=(self.length, D))

    def call(self, x):
        return x + self.array


def by_hand(x, masked=lambda s: s, turned=lambda y: y):
    query, key, value = turned(layers.Dense(D)(x)), turned(layers.Dense(D)(x)), layers.Dense(D)(x)
    scores = masked(ops.matmul(query, ops.transpose(key, (0, 2, 1))) / D**0.5)
    return layers.Dense(D)(ops.matmul(ops.softmax(scores), value))


ANGLES = np.arange(T)[:, None] / 100.0 ** (np.arange(D // 2) / 3)


def rotated(x, angles=ANGLES):
    sin, cos = (f(angles).astype("float32") for f in (np.sin, np.cos))
    first, second = ops.split(x, 2, axis=-1)
    return ops.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def rotated_by_ops(x):
    place = ops.cast(ops.cumsum(ops.ones_like(x[..., :1]), axis=1), "float32")
    angles = place * (0.1 ** np.arange(D // 2)).astype("float32")
    sin, cos = ops.sin(angles), ops.cos(angles)
    first, second = ops.split(x, 2, axis=-1)
    return ops.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def sines_by_ops(x):
    place = ops.expand_dims(ops.cast(count(x), "float32"), -1)
    angles = place * (0.1 ** np.arange(D // 2)).astype("float32")
    return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)


def mask_of(compare):
    def attended(x):
        place = ops.cumsum(ops.ones_like(x[:, :, 0]), axis=1)
        return attend(x, attention_mask=compare(place[:, None, :], place[:, :, None]))

    return attended


def constant_mask(k):
    return lambda x: attend(x, attention_mask=np.tri(T, k=k, dtype=bool)[None])


def added_mask(hidden):
    table = np.where(np.tri(T), 0, hidden).astype("float32")
    return lambda x: by_hand(x, lambda s: s + ops.convert_to_tensor(table))


def encoder_of(x, *functions, block=pre, pooled=True):
    y = stacked(x, *functions, block=block)
    return layers.Dense(7)(layers.GlobalAveragePooling1D()(y) if pooled else y)


def of_series(*functions, block=pre, begin=lambda x: x):
    x = keras.Input(SERIES)
    return keras.Model(x, encoder_of(begin(x), *functions, block=block))


def of_image(f, size=16):
    x = keras.Input((size, size, 3))
    return keras.Model(x, f(x))


def conv(x, filters=8, strides=1):
    x = layers.Conv2D(filters, 3, strides=strides, padding="same")(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def residual_conv(x):
    return layers.ReLU()(
        layers.Add()([x, layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(conv(x)))])
    )
