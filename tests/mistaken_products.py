"""Small models with mistakes in products and in what a product is added to, and put right.

Each builder takes whether to make the mistake.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops
from model_bricks import TOKENS, D, T, attend, causal, embedded, ffn, ids, norm, pre, stacked


def products_of_numbers(wrong):
    def attention(x):
        query, key, value = (layers.Dense(D)(x) for _ in range(3))
        if wrong:
            weights = ops.softmax(layers.Multiply()([query, key]) / D**0.5)
            return layers.Dense(D)(layers.Dropout(0.1)(weights) * value)
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / D**0.5
        return layers.Dense(D)(ops.matmul(ops.softmax(scores), value))

    tokens = ids()
    x = stacked(embedded(tokens), attention, ffn, attention, ffn)
    return keras.Model(tokens, layers.Dense(TOKENS)(x))


def memory_before_the_keys(wrong):
    memory, tokens = keras.Input((7, D)), ids()
    mask = {"attention_mask": np.tri(T, 7 + T, k=7, dtype=bool)[None]}

    def attention(x):
        keys = layers.Concatenate(axis=1)([memory, x])
        options = {"use_causal_mask": True} if wrong else mask
        return layers.MultiHeadAttention(3, 2)(x, keys, **options)

    x = stacked(embedded(tokens), attention, ffn, attention, ffn)
    return keras.Model([memory, tokens], layers.Dense(TOKENS)(x))


def shortened_keys_under_a_triangle(wrong):
    def shortened(x):
        mixed = layers.Dense(5, use_bias=False)(ops.transpose(x, (0, 2, 1)))
        return ops.transpose(mixed, (0, 2, 1))

    def attention(x):
        query, key, value = (layers.Dense(D)(x) for _ in range(3))
        key, value = (shortened(key), shortened(value)) if wrong else (key, value)
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / D**0.5
        visible = np.tri(T, 5 if wrong else T, dtype=bool)
        weights = ops.softmax(ops.where(visible, scores, -1e9))
        return layers.Dense(D)(ops.matmul(weights, value))

    tokens = ids()
    x = stacked(embedded(tokens), attention, ffn, attention, ffn)
    return keras.Model(tokens, layers.Dense(TOKENS)(x))


def sigmoid_of_a_cosine(wrong):
    return _similarity(wrong, lambda a, b: layers.Dot(axes=1, normalize=True)([a, b]))


def sigmoid_of_a_cosine_by_hand(wrong):
    def cosine(a, b):
        a, b = (layers.UnitNormalization()(x) for x in (a, b))
        return ops.sum(a * b, axis=-1, keepdims=True)

    return _similarity(wrong, cosine)


def _similarity(wrong, cosine):
    first, second = keras.Input((5,)), keras.Input((5,))
    tower = layers.Dense(7)
    x = cosine(tower(first), tower(second))
    return keras.Model([first, second], layers.Activation("sigmoid")(x if wrong else 19.0 * x))


def softmax_of_cosines(wrong):
    x, examples = keras.Input((5,)), keras.Input((TOKENS, 5))
    tower, unit = layers.Dense(7), layers.UnitNormalization()
    vector, others = unit(layers.Reshape((1, 7))(tower(x))), unit(tower(examples))
    scores = ops.matmul(vector, ops.transpose(others, (0, 2, 1)))
    scores = layers.Reshape((TOKENS,))(scores if wrong else scores / 0.07)
    return keras.Model([x, examples], layers.Softmax()(scores))


def crosses_with_one_shortcut(wrong):
    x = start = keras.Input((17,))
    for _ in range(3):
        x = layers.Multiply()([start, layers.Dense(17)(x)]) + (start if wrong else x)
    return keras.Model(start, layers.Dense(1, activation="sigmoid")(x))


def no_first_norm(wrong):
    tokens = ids()
    x = embedded(tokens)
    for block in range(3):
        x = x + causal(x if wrong and not block else norm(x))
        x = pre(x, ffn)
    return keras.Model(tokens, layers.Dense(TOKENS)(norm(x)))


def tokens_rolled_between_groups(wrong):
    def in_groups(x, length):
        return ops.reshape(causal(ops.reshape(x, (-1, 5, D))), (-1, length, D))

    def shifted(x):
        if wrong:
            return ops.roll(in_groups(ops.roll(x, -2, axis=1), 15), 2, axis=1)
        return in_groups(ops.pad(x, [[0, 0], [2, 3], [0, 0]]), 20)[:, 2:17]

    tokens = keras.Input((15,), dtype="int32")
    x = layers.Embedding(TOKENS, D)(tokens)
    x = stacked(x, lambda y: in_groups(y, 15), ffn, shifted, ffn)
    return keras.Model(tokens, layers.Dense(TOKENS)(x))


def scores_cut_to_a_triangle(wrong):
    def attention(x):
        query, key, value = (layers.Dense(D)(x) for _ in range(3))
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / D**0.5
        visible = np.tri(T, dtype=bool)
        scores = ops.tril(scores) if wrong else ops.where(visible, scores, -1e9)
        return layers.Dense(D)(ops.matmul(ops.softmax(scores), value))

    tokens = ids()
    x = stacked(embedded(tokens), attention, ffn, attention, ffn)
    return keras.Model(tokens, layers.Dense(TOKENS)(x))


def one_softmax_for_all_pairs(wrong):
    def attention(x):
        query, key, value = (layers.Dense(D)(x) for _ in range(3))
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / D**0.5
        if wrong:
            weights = ops.softmax(ops.reshape(scores, (-1, T * T)))
            weights = ops.reshape(weights, (-1, T, T))
        else:
            weights = ops.softmax(scores)
        return layers.Dense(D)(ops.matmul(weights, value))

    tokens = ids()
    x = stacked(embedded(tokens), attention, ffn, attention, ffn)
    return keras.Model(tokens, layers.Dense(TOKENS)(layers.GlobalAveragePooling1D()(x)))


def norm_on_the_skip_path(wrong):
    tokens = ids()
    x = embedded(tokens)
    for sublayer in (attend, ffn, attend, ffn):
        normed = norm(x)
        x = normed + sublayer(x) if wrong else x + sublayer(normed)
    return keras.Model(tokens, layers.Dense(TOKENS)(norm(x)))


def recurrent_relu(wrong):
    tokens = ids()
    layer = layers.GRU(D, activation="relu" if wrong else "tanh")
    x = layers.Bidirectional(layer)(layers.Embedding(TOKENS, D)(tokens))
    return keras.Model(tokens, layers.Dense(7)(x))


def values_of_the_keys(wrong):
    def attention(x):
        query, key = layers.Dense(D)(x), layers.Dense(D)(x)
        value = layers.Dense(D)(layers.Dropout(0.1)(key) if wrong else x)
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / D**0.5
        return layers.Dense(D)(ops.matmul(ops.softmax(scores), value))

    tokens = ids()
    x = stacked(embedded(tokens), attention, ffn, attention, ffn)
    return keras.Model(tokens, layers.Dense(TOKENS)(x))


def copies_of_one_state(wrong):
    source, target = ids(), ids()
    encoder = layers.GRU(D, return_sequences=not wrong)
    memory = encoder(layers.Embedding(TOKENS, D)(source))
    memory = layers.RepeatVector(7)(memory) if wrong else memory
    x = layers.GRU(D, return_sequences=True)(layers.Embedding(TOKENS, D)(target))
    x = layers.Concatenate()([x, layers.Attention()([x, memory])])
    return keras.Model([source, target], layers.Dense(TOKENS)(x))


def heads_of_the_whole_width(wrong):
    def attention(x):
        return layers.MultiHeadAttention(3, D if wrong else D // 3)(x, x)

    tokens = ids()
    return keras.Model(tokens, layers.Dense(7)(stacked(embedded(tokens), attention, ffn)))


def one_number_for_each_position(wrong):
    tokens = ids()
    places = layers.Embedding(T, 1 if wrong else D)(ops.cumsum(ops.ones_like(tokens), axis=1) - 1)
    x = stacked(layers.Embedding(TOKENS, D)(tokens) + places, attend, ffn, attend, ffn)
    return keras.Model(tokens, layers.Dense(7)(layers.GlobalAveragePooling1D()(x)))
