"""Small models with one mistake each, and the same models put right.

Each builder takes whether to make the mistake.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops
from model_bricks import (
    HEADS,
    TOKENS,
    D,
    Shift,
    T,
    Table,
    attend,
    causal,
    count,
    embedded,
    ffn,
    ids,
    learned,
    norm,
    pre,
    rotated,
    stacked,
)

SIZE = 4
CLASSES = 7


def labels(x):
    return layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(x))


def encoder(*sublayers, block=pre, positions=learned):
    """An encoder of ids and one label."""
    x = ids()
    return keras.Model(x, labels(stacked(embedded(x, positions), *sublayers, block=block)))


def decoder(*sublayers, block=pre):
    """A decoder of ids with a score for each token."""
    x = ids()
    return keras.Model(x, layers.Dense(TOKENS)(stacked(embedded(x), *sublayers, block=block)))


def stepwise(x, step):
    """Blocks of a stream whose steps are written out: step(x, sublayer) -> x."""
    for f in (attend, ffn, attend, ffn):
        x = step(x, f)
    return x


# Heads by hand ----------------------------------------------------------------------------------


def split(x, wrong=False):
    y = layers.Dense(HEADS * SIZE)(x)
    if wrong:
        return ops.reshape(y, (-1, HEADS, T, SIZE))
    return ops.transpose(ops.reshape(y, (-1, T, HEADS, SIZE)), (0, 2, 1, 3))


def joined(y, wrong=False):
    y = y if wrong else ops.transpose(y, (0, 2, 1, 3))
    return layers.Dense(D)(ops.reshape(y, (-1, T, HEADS * SIZE)))


def heads(
    x,
    scale=SIZE**-0.5,
    axis=-1,
    masked=lambda s: s,
    turned=lambda q, k: (q, k),
    sum_="bhqk,bhkd->bhqd",
    weighted=lambda w: w,
):
    """Attention of heads by hand, with what can be wrong in it as arguments."""
    query, key = turned(split(x), split(x))
    scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
    weights = ops.softmax(masked(scores if scale == 1 else scores * scale), axis=axis)
    return joined(ops.einsum(sum_, weighted(weights), split(x)))


def softmax_axis(wrong):
    return encoder(lambda x: heads(x, axis=-2 if wrong else -1), ffn)


def softmax_over_heads(wrong):
    return encoder(lambda x: heads(x, axis=1 if wrong else -1), ffn)


def unmixed_values(wrong):
    return encoder(lambda x: heads(x, sum_="bhqk,bhqd->bhqd" if wrong else "bhqk,bhkd->bhqd"), ffn)


def scaled(scale):
    return lambda wrong: encoder(lambda x: heads(x, scale if wrong else SIZE**-0.5), ffn)


def heads_split_by_reshape(wrong):
    def attention(x):
        query, key, value = (split(x, wrong) for _ in range(3))
        weights = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * SIZE**-0.5)
        return joined(ops.matmul(weights, value))

    return encoder(attention, ffn)


def heads_joined_by_reshape(wrong):
    def attention(x):
        weights = ops.softmax(
            ops.matmul(split(x), ops.transpose(split(x), (0, 1, 3, 2))) * SIZE**-0.5
        )
        return joined(ops.matmul(weights, split(x)), wrong)

    return encoder(attention, ffn)


def attention_over_the_batch(wrong):
    def attention(x):
        if not wrong:
            return attend(x)
        return ops.transpose(attend(ops.transpose(x, (1, 0, 2))), (1, 0, 2))

    return encoder(attention, ffn)


def one_key(wrong):
    row = keras.Input((D,))
    x = layers.Reshape((1, D) if wrong else (D, 1))(row)
    x = layers.Dense(D)(x)
    return keras.Model(row, layers.Dense(CLASSES)(layers.Flatten()(norm(x + attend(x)))))


# Reshapes ---------------------------------------------------------------------------------------


def patches_by_reshape(wrong):
    """Squares of an image in 3 rows of 5, of 2 x 2 pixels."""
    image = keras.Input((6, 10, 3))
    x = image
    if not wrong:
        x = ops.transpose(ops.reshape(x, (-1, 3, 2, 5, 2, 3)), (0, 1, 3, 2, 4, 5))
    x = Shift(15)(layers.Dense(D)(ops.reshape(x, (-1, 15, 12))))
    return keras.Model(image, labels(stacked(x, attend, ffn)))


def columns_by_reshape(wrong):
    """The steps of a recurrent layer are the columns of an image."""
    image = keras.Input((7, 19, 5))
    x = image if wrong else layers.Permute((2, 1, 3))(image)
    x = layers.LSTM(D, return_sequences=True)(layers.Reshape((19, 35))(x))
    return keras.Model(image, layers.Dense(CLASSES)(x))


# Masks ------------------------------------------------------------------------------------------


def mask_the_wrong_way_round(wrong):
    mask = np.triu(np.ones((1, T, T), bool)) if wrong else np.tri(T, dtype=bool)[None]
    return decoder(lambda x: attend(x, attention_mask=mask), ffn)


def added_mask_the_wrong_way_round(wrong):
    seen = np.triu(np.ones((T, T))) if wrong else np.tri(T)
    mask = np.where(seen, 0, -1e9).astype("float32")
    return decoder(lambda x: heads(x, masked=lambda s: s + mask), ffn)


def mask_off_by_one(wrong):
    return decoder(lambda x: attend(x, attention_mask=np.tri(T, k=wrong, dtype=bool)[None]), ffn)


def mask_of_memories(wrong):
    """The mask of keys of the past and of its own is not moved by those of the past."""
    past, x = keras.Input((5, D)), ids()
    mask = np.tri(T, 5 + T, k=0 if wrong else 5, dtype=bool)[None]

    def attention(y):
        return attend(y, layers.Concatenate(axis=1)([past, y]), attention_mask=mask)

    y = stacked(embedded(x), attention, ffn, attention, ffn)
    return keras.Model([past, x], layers.Dense(TOKENS)(y))


def small_fill(wrong):
    def masked(scores):
        return ops.where(np.tri(T) > 0, scores, 1e-9 if wrong else -1e9)

    return decoder(lambda x: heads(x, masked=masked), ffn)


def mask_of_the_target(wrong):
    source, target = ids(), ids()
    own, other = (ops.expand_dims(ops.not_equal(x, 0), 1) for x in (source, target))
    memory = stacked(embedded(source), lambda x: attend(x, attention_mask=own), ffn)
    mask = other if wrong else own
    y = stacked(embedded(target), causal, lambda x: attend(x, memory, attention_mask=mask), ffn)
    return keras.Model([source, target], layers.Dense(TOKENS)(y))


def mask_on_queries(wrong):
    x = ids()
    mask = ops.expand_dims(ops.not_equal(x, 0), 2 if wrong else 1)
    y = stacked(embedded(x), lambda y: attend(y, attention_mask=mask), ffn)
    return keras.Model(x, layers.Dense(CLASSES)(y))


def mask_input_of_the_target(wrong):
    """The mask of the target is an input, and masks self-attention rightly."""
    source, target = ids(), ids()
    masks = [keras.Input((T,), dtype="bool") for _ in range(2)]
    own, other = (ops.expand_dims(mask, 1) for mask in masks)
    memory = stacked(embedded(source), lambda x: attend(x, attention_mask=own), ffn)
    y = stacked(
        embedded(target),
        lambda x: attend(x, attention_mask=other, use_causal_mask=True),
        lambda x: attend(x, memory, attention_mask=other if wrong else own),
        ffn,
    )
    return keras.Model([source, target, *masks], layers.Dense(TOKENS)(y))


# Positions and tables ---------------------------------------------------------------------------


def one_vector_for_all_positions(wrong):
    angles = np.arange(T)[:, None] / 100.0 ** (np.arange(D // 2) / 3)
    table = np.concatenate([np.sin(angles), np.cos(angles)], -1).astype("float32")
    return encoder(attend, ffn, positions=lambda x: table[5:6] if wrong else table)


def rotations(wrong):
    def turned(query, key):
        """Rotate (b, h, t, d) by the position, or by the head."""
        if wrong == "heads":
            return tuple(
                ops.swapaxes(turn(ops.swapaxes(y, 1, 2), HEADS), 1, 2) for y in (query, key)
            )
        return turn(query, T), key if wrong else turn(key, T)

    def turn(y, length):
        return rotated(y, np.arange(length)[:, None] / 10.0 ** np.arange(SIZE // 2))

    def turn_heads(y):
        return ops.swapaxes(turn(ops.swapaxes(y, 1, 2), HEADS), 1, 2)

    return encoder(lambda x: heads(x, turned=turned), ffn, positions=lambda x: 0.0)


def positions_in_every_block(wrong):
    x = ids()
    place = learned(x)
    y = layers.Embedding(TOKENS, D)(x) + place
    for number in range(2):
        y = pre(pre(y + place if wrong and number else y, attend), ffn)
    return keras.Model(x, labels(norm(y)))


def one_table(wrong):
    x, words = ids(), layers.Embedding(TOKENS, D)
    y = words(x) + (words if wrong else layers.Embedding(T, D))(count(x))
    return keras.Model(x, labels(stacked(y, attend, ffn)))


def positions_by_token(wrong):
    return encoder(
        attend, ffn, positions=lambda x: layers.Embedding(TOKENS, D)(x if wrong else count(x))
    )


def too_few_rows(wrong):
    return encoder(
        attend, ffn, positions=lambda x: layers.Embedding(T - 4 if wrong else T, D)(count(x))
    )


def positions_after_the_blocks(wrong):
    x = ids()
    y, place = layers.Embedding(TOKENS, D)(x), learned(x)
    y = stacked(y if wrong else y + place, attend, ffn, attend, ffn)
    return keras.Model(x, labels(y + place if wrong else y))


def mask_of_placed_vectors(wrong):
    x = ids()
    words = layers.Embedding(TOKENS, D, mask_zero=True)(x)
    placed = words + learned(x)
    mask = ops.any(ops.not_equal(placed, 0), axis=-1) if wrong else ops.not_equal(x, 0)
    y = stacked(placed, lambda y: attend(y, attention_mask=mask[:, None, :]), ffn)
    return keras.Model(x, labels(y))


def token_that_no_head_reads(wrong):
    x = keras.Input((T, D))
    token = Table(1)(x)
    y = ops.concatenate([x, token] if wrong else [token, x], axis=1)
    return keras.Model(x, layers.Dense(CLASSES)(stacked(y, attend, ffn)[:, 0]))
