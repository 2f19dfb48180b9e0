"""Small models with mistakes in what two inputs, towers or sums have in common, and put right.

Each builder takes whether to make the mistake.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops
from mistaken_models import CLASSES, labels
from model_bricks import (
    TOKENS,
    D,
    Shift,
    T,
    attend,
    causal,
    embedded,
    ffn,
    ids,
    norm,
    of_image,
    pre,
    stacked,
)


def softmax_over_columns(wrong):
    def model(image):
        x = layers.Conv2D(7, 3, padding="same", activation="relu")(image)
        x = layers.Permute((3, 1, 2))(layers.Conv2D(CLASSES, 1)(x))
        return layers.Softmax(axis=-1 if wrong else 1)(x)

    return of_image(model)


def one_layer_apart(wrong):
    first, second = keras.Input((5,)), keras.Input((5,))
    begin, middle, end = (layers.Dense(n, activation="tanh") for n in (11, 17, 3))
    other = layers.Dense(17, activation="tanh") if wrong else middle
    difference = end(middle(begin(first))) - end(other(begin(second)))
    return keras.Model([first, second], ops.sum(ops.square(difference), axis=-1, keepdims=True))


def cross_attention_by_name(wrong):
    source, target = keras.Input((7, D)), ids()
    memory = stacked(layers.Dense(D)(source), attend, ffn)
    x = embedded(target)
    for number in range(2):
        x = pre(x, causal)
        y = norm(x)
        cross = layers.MultiHeadAttention(3, 2, name=f"cross_attn_{number}")
        x = x + cross(y, y if wrong else memory, use_causal_mask=wrong)
        x = pre(x, ffn)
    return keras.Model([source, target], [layers.Dense(TOKENS)(norm(x)), labels(memory)])


def cross_attention_in_steps_by_name(wrong):
    source, target = keras.Input((7, D)), ids()
    memory, x = stacked(layers.Dense(D)(source), attend, ffn), embedded(target)
    for number in range(2):
        x = pre(x, causal)
        y = norm(x)
        given = y if wrong else memory
        query, key, value = layers.Dense(D)(y), layers.Dense(D)(given), layers.Dense(D)(given)
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / D**0.5
        softmax = layers.Softmax(name=f"block_{number}.cross_attention.weights")
        hidden = np.where(np.tri(T), 0, -1e9).astype("float32") if wrong else 0.0
        x = x + layers.Dense(D)(ops.matmul(softmax(scores + hidden), value))
        x = pre(x, ffn)
    return keras.Model([source, target], [layers.Dense(TOKENS)(norm(x)), labels(memory)])


def positions_twice(wrong):
    x = ids()
    positions = Shift(T)
    y = positions(layers.Embedding(TOKENS, D)(x))
    y = positions(y) if wrong else y
    return keras.Model(x, labels(stacked(y, attend, ffn, attend, ffn)))


def scores_of_instances_times_a_mask(wrong):
    bag, real = keras.Input((T, D)), keras.Input((T,), dtype="bool")
    hidden = layers.Dense(D, activation="tanh")(bag)
    scores = ops.squeeze(layers.Dense(1)(layers.Dense(7, activation="tanh")(hidden)), -1)
    scores = scores * ops.cast(real, "float32") if wrong else ops.where(real, scores, -1e9)
    weights = ops.expand_dims(ops.softmax(scores), -1)
    return keras.Model([bag, real], labels(ops.sum(weights * hidden, axis=1, keepdims=True)))


def actions_times_a_mask(wrong):
    state, allowed = keras.Input((5,)), keras.Input((3,), dtype="int32")
    scores = layers.Dense(3)(layers.Dense(11, activation="relu")(state))
    is_allowed = ops.equal(allowed, 1)
    by_flag = scores * ops.cast(is_allowed, "float32")
    scores = by_flag if wrong else ops.where(is_allowed, scores, -1e9)
    return keras.Model([state, allowed], layers.Softmax()(scores))


def scores_times_a_large_number(wrong):
    nodes, edges = keras.Input((T, D)), keras.Input((T, T))

    def of_neighbours(x):
        query, key, value = (layers.Dense(D)(x) for _ in range(3))
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / D**0.5
        hiding = ops.where(edges > 0, 1.0 if wrong else 0.0, -1e6)
        scores = scores * hiding if wrong else scores + hiding
        return layers.Dense(D)(ops.matmul(ops.softmax(scores), value))

    x = stacked(layers.Dense(D)(nodes), of_neighbours, ffn, of_neighbours, ffn)
    return keras.Model([nodes, edges], labels(x))


def additive_scores_without_an_activation(wrong):
    source, target = ids(), ids()
    memory, state = layers.GRU(D, return_sequences=True, return_state=True)(embedded(source))
    x = layers.GRU(D, return_sequences=True)(embedded(target), initial_state=[state])
    both = ops.expand_dims(layers.Dense(7)(x), 2) + ops.expand_dims(layers.Dense(7)(memory), 1)
    both = both if wrong else ops.tanh(both)
    scores = ops.squeeze(layers.Dense(1, use_bias=False)(both), axis=-1)
    context = ops.matmul(ops.softmax(scores / 7**0.5), memory)
    y = layers.Dense(D, activation="tanh")(layers.Concatenate()([x, context]))
    return keras.Model([source, target], layers.Dense(TOKENS)(y))


def pooled_along_a_flattened_map(wrong):
    image = keras.Input((12, 20, 3))
    x = layers.Reshape((60, D))(layers.Conv2D(D, 2, strides=2)(image))
    pooled = (
        layers.AveragePooling1D(2)(x)
        if wrong
        else layers.Reshape((15, D))(layers.AveragePooling2D(2)(layers.Reshape((6, 10, D))(x)))
    )
    x = x + layers.MultiHeadAttention(3, 2)(norm(x), norm(pooled))
    return keras.Model(image, labels(norm(pre(x, ffn))))
