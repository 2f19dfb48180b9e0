"""Small models whose gates or shares are wrong, and put right.

Each builder takes whether to make the mistake.
"""

from __future__ import annotations

import keras
from keras import layers, ops
from mistaken_models import CLASSES, labels
from model_bricks import D, T, embedded, ids, norm, of_image


def gate_that_is_added(wrong):
    x = keras.Input((T, D))
    y, gate = layers.Dense(7)(x), layers.Dense(7, activation="sigmoid")(x)
    return keras.Model(x, labels(y + gate if wrong else y * gate))


def gate_that_cancels(wrong):
    def block(x):
        y = layers.Conv2D(7, 3, padding="same", activation="relu")(x)
        gate = ops.sigmoid(layers.Conv2D(7, 1)(x))
        return layers.Add()([(1 - gate) * (y if wrong else x), y * gate])

    def model(image):
        x = block(block(layers.Conv2D(7, 3)(image)))
        return layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x))

    return of_image(model)


def shares_of_another_axis(wrong):
    tokens = ids()
    x = embedded(tokens)
    shares = layers.Softmax(axis=1 if wrong else 2)(layers.Dense(2)(x))
    first, second = (layers.Dense(D, activation="gelu")(norm(x)) for _ in range(2))
    mixed = layers.Add()([shares[:, :, :1] * first, shares[:, :, 1:] * second])
    return keras.Model(tokens, labels(x + mixed))


def shares_of_stacked_experts(wrong, contract=False):
    tokens = ids()
    x = embedded(tokens)
    shares = layers.Softmax(axis=1 if wrong else -1)(layers.Dense(3)(x))
    experts = ops.stack([layers.Dense(D, activation="gelu")(norm(x)) for _ in range(3)], axis=2)
    if contract:
        mixed = ops.einsum("bte,bted->btd", shares, experts)
    else:
        mixed = ops.sum(ops.expand_dims(shares, -1) * experts, axis=2)
    return keras.Model(tokens, labels(x + mixed))


def shares_of_contracted_experts(wrong):
    return shares_of_stacked_experts(wrong, contract=True)


def one_table_for_rows_and_columns(wrong):
    image = keras.Input((12, 20, 3))
    x = layers.Reshape((15, D))(layers.Conv2D(D, 4, strides=4)(image))
    place = ops.cumsum(ops.ones_like(x[..., 0], dtype="int32"), axis=1) - 1
    row, column = place // 5, place % 5
    x = layers.Add()([x, layers.Embedding(3, D)(row)])
    x = layers.Add()([x, layers.Embedding(5, D)(row if wrong else column)])
    x = x + layers.MultiHeadAttention(2, 5)(norm(x), norm(x))
    return keras.Model(image, layers.Dense(CLASSES)(ops.mean(norm(x), axis=1)))


def batch_norm_of_rows(wrong):
    image = keras.Input((3, 11, 13))
    x = layers.Conv2D(7, 3, data_format="channels_first")(image)
    x = layers.ReLU()(x)
    x = layers.BatchNormalization(axis=2 if wrong else 1)(x)
    pooled = layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    return keras.Model(image, layers.Dense(CLASSES)(pooled))


def joined_with_a_pooled_map(wrong):
    def convolved(x, filters):
        return layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(filters, 3, 1, "same")(x)))

    image = keras.Input((20, 20, 3))
    outer = convolved(image, 5)
    pooled = layers.MaxPooling2D()(outer)
    inner = convolved(pooled, 7)
    x = convolved(layers.MaxPooling2D()(inner), 11)
    x = layers.Concatenate()([layers.UpSampling2D()(x), pooled if wrong else inner])
    x = layers.Conv2DTranspose(5, 2, strides=2)(convolved(x, 7))
    x = convolved(layers.Concatenate()([outer, x]), 5)
    return keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid")(x))


def groups_in_two_orders(wrong):
    tokens = ids()
    x = embedded(tokens)
    query = layers.Reshape((T, 4, 3))(layers.Dense(12)(x))
    key, value = (layers.Reshape((T, 2, 3))(layers.Dense(6)(x)) for _ in range(2))
    key = ops.tile(key, (1, 1, 2, 1)) if wrong else ops.repeat(key, 2, axis=2)
    value = ops.repeat(value, 2, axis=2)
    query, key, value = (ops.transpose(part, (0, 2, 1, 3)) for part in (query, key, value))
    weights = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / 3**0.5)
    y = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
    return keras.Model(tokens, labels(x + layers.Dense(D)(ops.reshape(y, (-1, T, 12)))))


def multiplied_by_itself(wrong):
    user, item = (keras.Input((), dtype="int32") for _ in range(2))
    first, second = layers.Embedding(97, 7)(user), layers.Embedding(89, 7)(item)
    product = layers.Multiply()([first, first if wrong else second])
    x = layers.Dense(11, activation="relu")(layers.Concatenate()([first, second]))
    x = layers.Concatenate()([x, product])
    return keras.Model([user, item], layers.Dense(1, activation="sigmoid")(x))


def softmax_that_is_cut(wrong):
    def head(image):
        x = layers.Conv2D(7, 3, strides=2, activation="relu")(image)
        x = layers.Conv2D(3 * CLASSES, 3, activation="softmax" if wrong else None)(x)
        x = layers.Reshape((-1, CLASSES))(x)
        return x if wrong else layers.Softmax()(x)

    return of_image(head)


def equal_steps(wrong):
    series = keras.Input((T, 3))
    x = layers.RepeatVector(T)(layers.LSTM(7)(series))
    x = (
        layers.Dense(11, activation="relu")(x)
        if wrong
        else layers.GRU(11, return_sequences=True)(x)
    )
    return keras.Model(series, layers.Dense(3)(x))
