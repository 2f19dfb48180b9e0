"""Small models whose attention weights are computed or summed the wrong way, and put right.

Each builder takes whether to make the mistake.
"""

from __future__ import annotations

import keras
from keras import layers, ops
from mistaken_models import CLASSES, SIZE, encoder, heads, joined, split
from model_bricks import HEADS, TOKENS, D, T, embedded, ffn, ids


def pooled_over_features(wrong):
    """Attention pooling of the states of a recurrent layer."""
    x = ids()
    states = layers.LSTM(D, return_sequences=True)(layers.Embedding(TOKENS, D)(x))
    weights = ops.softmax(layers.Dense(1)(states), axis=1)
    return keras.Model(x, layers.Dense(CLASSES)(ops.sum(states * weights, axis=2 if wrong else 1)))


def repeated_weights(wrong):
    """Attention pooling whose weights are repeated for each feature."""
    x = ids()
    states = layers.GRU(D, return_sequences=True)(embedded(x))
    scores = layers.Flatten()(layers.Dense(1, activation="tanh")(states))
    weights = layers.Permute((2, 1))(layers.RepeatVector(D)(layers.Softmax()(scores)))
    y = ops.mean(layers.Multiply()([weights, states]), axis=-1 if wrong else 1)
    return keras.Model(x, layers.Dense(CLASSES)(y))


def queries_for_keys(wrong):
    def attention(x):
        query, value = split(x), split(x)
        key = query if wrong else split(x)
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * SIZE**-0.5
        return joined(ops.matmul(ops.softmax(scores), value))

    return encoder(attention, ffn)


def first_part_for_keys(wrong):
    """Queries, keys and values are parts of one projection."""

    def attention(x):
        parts = ops.split(layers.Dense(3 * D)(x), 3, axis=-1)
        query, key, value = parts[0], parts[0 if wrong else 1], parts[2]
        scores = ops.einsum("btd,bsd->bts", query, key) / D**0.5
        return layers.Dense(D)(ops.einsum("bts,bsd->btd", ops.softmax(scores), value))

    return encoder(attention, ffn)


def scaled_weights(wrong):
    def attention(x):
        return heads(
            x, 1 if wrong else SIZE**-0.5, weighted=lambda w: w / SIZE**0.5 if wrong else w
        )

    return encoder(attention, ffn)


def scaled_dropped_weights(wrong):
    def attention(x):
        query, key, value = (layers.Dense(D)(x) for _ in range(3))
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1)))
        weights = layers.Softmax()(scores if wrong else scores / D**0.5)
        weights = layers.Dropout(0.1)(ops.multiply(weights, D**-0.5) if wrong else weights)
        return layers.Dense(D)(ops.matmul(weights, value))

    return encoder(attention, ffn)


def shifted_scores(wrong):
    """Scores of relative positions, whose rows are shifted by a reshape: Music Transformer."""

    def attention(x):
        query, key, value = split(x, wrong), split(x, wrong), split(x, wrong)
        padded = ops.pad(layers.Dense(T)(query), ((0, 0), (0, 0), (0, 0), (1, 0)))
        shifted = ops.reshape(padded, (-1, HEADS, T + 1, T))[:, :, 1:, :]
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) + shifted
        return joined(ops.matmul(ops.softmax(scores * SIZE**-0.5), value))

    return encoder(attention, ffn)


def dropped_scores(wrong):
    drop = layers.Dropout(0.1)

    def attention(x):
        return heads(x, masked=drop if wrong else lambda s: s, weighted=drop)

    return encoder(attention, ffn)


def attention_of_features(wrong):
    def attention(x):
        query, key, value = (layers.Dense(D)(x) for _ in range(3))
        if wrong:
            weights = ops.softmax(ops.einsum("btd,bte->bde", query, key) / T**0.5)
            return layers.Dense(D)(ops.einsum("bde,bte->btd", weights, value))
        weights = ops.softmax(ops.einsum("btd,bsd->bts", query, key) / D**0.5)
        return layers.Dense(D)(ops.einsum("bts,bsd->btd", weights, value))

    return encoder(attention, ffn)


def products_for_weights(wrong):
    """Scores weight the values without a softmax."""

    def attention(x):
        query, key, value = (layers.Dense(D)(x) for _ in range(3))
        scores = ops.einsum("btd,bsd->bts", query, key) / D**0.5
        weights = ops.relu(scores) if wrong else ops.softmax(scores)
        return layers.Dense(D)(ops.einsum("bts,bsd->btd", weights, value))

    return encoder(attention, ffn)


def half_of_a_gate(wrong):
    """A gated feed-forward whose gate multiplies itself."""

    def gated(x):
        first, second = ops.split(layers.Dense(2 * D)(x), 2, axis=-1)
        return layers.Dense(D)(ops.sigmoid(first) * (first if wrong else second))

    x = keras.Input((5,))
    return keras.Model(x, layers.Dense(CLASSES)(gated(x)))
