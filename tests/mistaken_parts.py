"""Small models with mistakes in their tables, gates, convolutions or numbers, and put right.

Each builder takes whether to make the mistake.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops
from mistaken_models import CLASSES, encoder, labels
from model_bricks import D, T, Table, attend, conv, ffn, of_image, stacked


def one_vector_for_all_patches(wrong):
    def model(image):
        x = layers.Reshape((16, D))(layers.Conv2D(D, 4, strides=4)(image))
        return labels(stacked(x + Table(1 if wrong else 16)(x), attend, ffn))

    return of_image(model)


def one_frequency(wrong):
    exponents = np.arange(D) / D
    angles = np.arange(T)[:, None] * (exponents**1e-4 if wrong else 1e-4**exponents)
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype("float32")
    return encoder(attend, ffn, positions=lambda x: table[:, ::2])


def ids_beyond_the_table(wrong):
    ids = keras.Input((T,), dtype="int32")
    buckets = ops.where(ops.equal(ids, 0), 0, ops.mod(ids, 29) + 1)
    return keras.Model(ids, labels(layers.Embedding(29 if wrong else 30, D)(buckets)))


def relu_after_one_addition(wrong):
    def model(image):
        x = layers.Conv2D(7, 3, padding="same")(image)
        for number in range(3):
            y = layers.ReLU()(layers.BatchNormalization()(x))
            x = layers.Add()([x, layers.Conv2D(7, 3, padding="same")(y)])
            x = layers.ReLU()(x) if wrong and number == 1 else x
        return layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(layers.ReLU()(x)))

    return of_image(model)


def sigmoid_of_a_distance(wrong):
    first, second = keras.Input((5,)), keras.Input((5,))
    code = layers.Dense(7, activation="tanh")
    squares = ops.square(code(first) - code(second))
    distance = ops.sqrt(ops.sum(squares, axis=-1, keepdims=True) + 1e-6)
    y = ops.sigmoid(distance) if wrong else layers.Dense(1, activation="sigmoid")(distance)
    return keras.Model([first, second], y)


def log_of_softmax(wrong):
    x = keras.Input((5,))
    scores = layers.Dense(CLASSES)(layers.Dense(11, activation="tanh")(x))
    return keras.Model(x, ops.log(ops.softmax(scores)) if wrong else ops.log_softmax(scores))


def skipped_pixels(wrong):
    def model(image):
        x = layers.Conv2D(7, 1 if wrong else 2, strides=2, activation="relu")(conv(image))
        return layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x))

    return of_image(model)


def narrowing_linear_layers(wrong):
    x = keras.Input((31,))
    y = layers.Dense(17, activation=None if wrong else "relu")(x)
    return keras.Model(x, layers.Dense(CLASSES)(y))


def divided_by_a_deviation(wrong):
    x = keras.Input((T, 1))
    deviation = ops.std(x, axis=1, keepdims=True) + (0.0 if wrong else 1e-3)
    scaled = (x - ops.mean(x, axis=1, keepdims=True)) / deviation
    return keras.Model(x, layers.Dense(CLASSES)(layers.Flatten()(scaled)))


def not_adapted(wrong):
    layer = layers.Normalization()
    layer.build((None, 5))
    if not wrong:
        layer.adapt(np.random.default_rng(3).normal(2, 3, (17, 5)))
    x = keras.Input((5,))
    return keras.Model(x, layers.Dense(CLASSES)(layers.Dense(7, activation="relu")(layer(x))))


def embedding_of_one_hot_vectors(wrong):
    ids = keras.Input((1,), dtype="int32")
    encode = layers.CategoryEncoding(num_tokens=11, output_mode="one_hot")
    return keras.Model(ids, labels(layers.Embedding(11, D)(encode(ids) if wrong else ids)))


def dropout_on_probabilities(wrong):
    x = keras.Input((5,))
    y = layers.Dropout(0.0 if wrong else 0.2)(layers.Dense(17, activation="relu")(x))
    y = layers.Dense(CLASSES, activation="softmax")(y)
    return keras.Model(x, layers.Dropout(0.2)(y) if wrong else y)


def log_of_zero(wrong):
    x = keras.Input((T, D))
    energy = ops.mean(ops.square(x), axis=-1)
    return keras.Model(x, layers.Dense(CLASSES)(ops.log(energy if wrong else energy + 1e-6)))


def root_of_zero(wrong):
    first, second = keras.Input((5,)), keras.Input((5,))
    code = layers.Dense(7, activation="tanh")
    squares = ops.sum(ops.square(code(first) - code(second)), axis=-1, keepdims=True)
    distance = ops.sqrt(squares if wrong else squares + 1e-6)
    return keras.Model([first, second], layers.Dense(1, activation="sigmoid")(distance))


def scale_never_below_one(wrong):
    x = keras.Input((5,))
    y = layers.Dense(11, activation="relu")(x)
    logarithm = layers.Dense(3, activation="relu" if wrong else None)(y)
    z = layers.Dense(3)(y) + ops.exp(0.5 * logarithm) * layers.GaussianNoise(1.0)(
        ops.zeros_like(logarithm)
    )
    return keras.Model(x, layers.Dense(5)(z))


def one_expert_for_all(wrong):
    x = keras.Input((5,))

    def expert():
        return layers.Dense(11, activation="relu"), layers.Dense(7)

    first = expert()
    experts = [first if wrong else expert() for _ in range(3)]
    gates = layers.Dense(3, activation="softmax")(x)
    outputs = ops.stack([down(up(x)) for up, down in experts], axis=1)
    return keras.Model(x, layers.Dense(2)(ops.sum(outputs * gates[:, :, None], axis=1)))


def tokens_as_pixels(wrong):
    def model(image):
        x = layers.Reshape((16, D))(layers.Conv2D(D, 4, strides=4)(image))
        x = stacked(x + Table(16)(x), attend, ffn)
        x = layers.Dense(4 * 4 * 3)(x)
        if not wrong:
            x = ops.transpose(ops.reshape(x, (-1, 4, 4, 4, 4, 3)), (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, 16, 16, 3))

    return of_image(model)


class AddedTable(layers.Layer):
    """Positions that a layer of one's own adds."""

    supports_masking = True

    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], initializer="random_normal")

    def call(self, x):
        return x + self.table


def masking_after_positions(wrong):
    x = keras.Input((11, 3))
    if wrong:
        y = layers.Masking()(AddedTable()(layers.Dense(D)(x)))
    else:
        y = AddedTable()(layers.Dense(D)(layers.Masking()(x)))
    return keras.Model(x, layers.Dense(2)(layers.LSTM(7)(y)))


def softmax_for_ctc(wrong):
    x = keras.Input((13, 5))
    y = layers.Bidirectional(layers.GRU(7, return_sequences=True))(x)
    model = keras.Model(x, layers.Dense(11, activation="softmax" if wrong else None)(y))
    model.compile("adam", keras.losses.CTC())
    return model


class HiddenWhereOne(layers.Layer):
    """Attention that adds a large negative number where a mask is 1."""

    def build(self, shapes):
        self.parts = layers.Dense(3 * D)
        self.parts.build(shapes[0])

    def call(self, inputs):
        x, mask = inputs
        q, k, v = ops.split(self.parts(x), 3, axis=-1)
        scores = ops.matmul(q, ops.swapaxes(k, -1, -2)) / D**0.5
        return ops.matmul(ops.softmax(scores + mask[:, None, :] * -1e9), v)


def mask_that_is_inverted(wrong):
    ids = keras.Input((T,), dtype="int32")
    compare = ops.not_equal if wrong else ops.equal
    mask = layers.Lambda(lambda x: ops.cast(compare(x, 0), "float32"))(ids)
    x = layers.Embedding(29, D)(ids)
    x = x + Table(T)(x)
    x = stacked(x, lambda y: HiddenWhereOne()([y, mask]), ffn)
    return keras.Model(ids, layers.Dense(CLASSES)(layers.LayerNormalization()(x)[:, 0]))
