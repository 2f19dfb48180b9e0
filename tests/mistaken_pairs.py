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
