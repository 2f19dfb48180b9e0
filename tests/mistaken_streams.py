"""Small models whose norms or skip paths are wrong, and put right.

Each builder takes whether to make the mistake.
"""

from __future__ import annotations

import keras
from keras import layers, ops
from mistaken_models import CLASSES, encoder, labels, stepwise
from model_bricks import (
    TOKENS,
    D,
    T,
    attend,
    causal,
    embedded,
    ffn,
    ids,
    norm,
    of_image,
    post,
    pre,
    stacked,
)

# Norms ------------------------------------------------------------------------------------------


def norm_over_positions(wrong):
    x = ids()

    def sublayer(y, f):
        return y + f(layers.LayerNormalization(axis=1 if wrong else -1)(y))

    return keras.Model(x, labels(norm(stepwise(embedded(x), sublayer))))


def norm_over_one_feature(wrong):
    x = keras.Input((T, 1))
    y = norm(x if wrong else layers.Dense(D)(x))
    return keras.Model(x, layers.Dense(CLASSES)(layers.Flatten()(attend(y))))


def batch_norm_over_rows(wrong):
    def model(image):
        x = layers.Conv2D(8, 3)(image)
        x = layers.ReLU()(layers.BatchNormalization(axis=1 if wrong else -1)(x))
        return layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x))

    return of_image(model, 13)


def norm_of_a_norm(wrong):
    x = ids()
    y = stacked(embedded(x), attend, ffn, attend, ffn, block=post)
    return keras.Model(x, labels(norm(y) if wrong else y))


def norm_on_queries_alone(wrong):
    x = keras.Input((T, D))
    y = x
    for _ in range(2):
        z = norm(y)
        y = pre(y + attend(z, y if wrong else z), ffn)
    return keras.Model(x, labels(norm(y)))


def norm_on_branch_outputs(wrong):
    x = ids()
    step = (lambda y, f: y + norm(f(y))) if wrong else post
    return keras.Model(x, labels(stepwise(embedded(x), step)))


def skip_path_after_the_norm(wrong):
    """The second skip path of a pre-norm block begins after its norm."""
    x = ids()
    y = embedded(x)
    for _ in range(3):
        y = pre(y, attend)
        z = norm(y)
        y = (z if wrong else y) + ffn(z)
    return keras.Model(x, labels(norm(y)))


def skip_path_before_the_norm(wrong):
    """The second skip path of a post-norm block begins before the norm of the first."""
    x = ids()
    y = embedded(x)
    for _ in range(3):
        y = y + attend(y)
        z = norm(y)
        y = norm((y if wrong else z) + ffn(z))
    return keras.Model(x, labels(y))


def no_final_norm(wrong):
    x = ids()
    y = stepwise(embedded(x), pre)
    return keras.Model(x, labels(y if wrong else norm(y)))


def head_before_the_final_norm(wrong):
    x = ids()
    end = stepwise(embedded(x), pre)
    y = norm(end)
    return keras.Model(x, [layers.Dense(TOKENS)(y), layers.Dense(1)(end if wrong else y)])


# Skip paths -------------------------------------------------------------------------------------


def product_for_a_sum(wrong):
    x = ids()
    y = stepwise(embedded(x), pre)
    z = ffn(norm(y))
    return keras.Model(x, labels(norm(y * z if wrong else y + z)))


def one_part_twice(wrong):
    def model(image):
        x = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
        last = x[:, 1::2, ::2] if wrong else x[:, 1::2, 1::2]
        x = layers.Concatenate()([x[:, ::2, ::2], x[:, 1::2, ::2], x[:, ::2, 1::2], last])
        x = layers.Dense(5, activation="relu")(norm(x))
        return layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x))

    return of_image(model, 12)


def always_training(wrong):
    x = keras.Input((5,))
    drop = layers.Dropout(0.2)
    y = drop(layers.Dense(3)(x), training=True) if wrong else drop(layers.Dense(3)(x))
    return keras.Model(x, layers.Dense(CLASSES)(y))


def norms_on_keys_and_values(wrong):
    x = ids()
    y = embedded(x)
    query, key, value = (layers.Dense(D)(y) for _ in range(3))
    query, value = (query, norm(value)) if wrong else (norm(query), value)
    scores = ops.matmul(query, ops.transpose(norm(key), (0, 2, 1))) / D**0.5
    return keras.Model(x, labels(norm(y + ops.matmul(ops.softmax(scores), value))))


def values_of_the_target(wrong):
    source, target = ids(), ids()
    memory = stacked(embedded(source), attend, ffn)
    y = norm(embedded(target))
    z = layers.MultiHeadAttention(3, 2)(query=y, key=memory, value=y if wrong else memory)
    return keras.Model([source, target], layers.Dense(TOKENS)(y + z))


def channels_joined_to_the_batch(wrong):
    x = keras.Input((24, 3))
    y = ops.reshape(x if wrong else ops.transpose(x, (0, 2, 1)), (-1, 6, 4))
    y = layers.Flatten()(attend(layers.Dense(D)(y)))
    return keras.Model(x, ops.reshape(layers.Dense(5)(y), (-1, 3, 5)))


def added_to_itself(wrong):
    x = ids()
    y = embedded(x)
    for _ in range(2):
        z = attend(norm(y))
        y = pre(z + z if wrong else y + z, ffn)
    return keras.Model(x, labels(norm(y)))


def joined_with_itself(wrong):
    def model(image):
        kept = layers.Conv2D(5, 3, padding="same", activation="relu")(image)
        x = layers.Conv2D(5, 3, padding="same", activation="relu")(layers.MaxPooling2D()(kept))
        x = layers.UpSampling2D()(x)
        return layers.Conv2D(3, 1)(layers.Concatenate()([x, x if wrong else kept]))

    return of_image(model)


def block_without_its_addition(wrong):
    def model(image):
        x = layers.Conv2D(8, 3, padding="same")(image)
        for number in range(4):
            y = layers.ReLU()(layers.Conv2D(8, 3, padding="same")(x))
            y = layers.Conv2D(8, 3, padding="same")(y)
            x = layers.ReLU()(y if wrong and number == 2 else layers.Add()([x, y]))
        return layers.Conv2D(3, 1)(x)

    return of_image(model)


def attention_without_a_skip_path(wrong):
    x = ids()
    y = pre(pre(embedded(x), attend), ffn)
    y = attend(norm(y)) if wrong else pre(y, attend)
    return keras.Model(x, labels(norm(pre(y, ffn))))


def lost_attention(wrong):
    x = ids()
    y = embedded(x)
    for _ in range(2):
        z = norm(y + attend(y))
        y = norm((y if wrong else z) + ffn(z))
    return keras.Model(x, labels(y))


def takes_a_branch(wrong):
    """Cross-attention takes the output of self-attention before it is merged."""
    source, target = ids(), ids()
    memory = stacked(embedded(source), attend, ffn, block=post)
    y = embedded(target)
    for _ in range(2):
        z = causal(y)
        y = norm(y + z)
        y = post(norm(y + attend(z if wrong else y, memory)), ffn)
    return keras.Model([source, target], layers.Dense(TOKENS)(y))


def swapped_memory(wrong):
    source, target = ids(), ids()
    memory = stacked(embedded(source), attend, ffn)

    def cross(x):
        return attend(memory, x) if wrong else attend(x, memory)

    y = stacked(embedded(target), causal, cross, ffn, causal, cross, ffn)
    return keras.Model([source, target], layers.Dense(TOKENS)(y))


def branch_ends_with_relu(wrong):
    def model(image):
        x = layers.Conv2D(8, 3, padding="same")(image)
        for _ in range(2):
            y = layers.Conv2D(8, 3, padding="same", activation="relu")(x)
            y = layers.Conv2D(8, 3, padding="same", activation="relu" if wrong else None)(y)
            x = layers.Add()([x, y])
        return layers.Conv2D(3, 1)(x)

    return of_image(model)


def linear_feedforward(wrong):
    def linear(x):
        return layers.Dense(D)(layers.Dense(17, activation=None if wrong else "gelu")(x))

    return encoder(attend, linear)


def linear_layers_in_series(wrong):
    x = keras.Input((29,))
    y = x
    for units in (19, 13):
        y = layers.Dense(units, activation=None if wrong else "tanh")(y)
    return keras.Model(x, layers.Dense(CLASSES)(y))


def dropout_on_the_stream(wrong):
    x = ids()
    drop = layers.Dropout(0.1)

    def step(y, f):
        return drop(norm(y + f(y))) if wrong else norm(y + drop(f(y)))

    return keras.Model(x, labels(stepwise(embedded(x), step)))


def shortcut_of_the_branch(wrong):
    def model(image):
        x = layers.Conv2D(5, 3, padding="same", activation="relu")(image)
        for filters in (7, 11):
            y = layers.ReLU()(layers.Conv2D(filters, 3, padding="same")(x))
            y = layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same")(y))
            shortcut = layers.BatchNormalization()(layers.Conv2D(filters, 1)(y if wrong else x))
            x = layers.ReLU()(layers.Add()([y, shortcut]))
        return layers.Conv2D(3, 1)(x)

    return of_image(model)


def memory_of_embeddings(wrong):
    source, target = ids(), ids()
    given = embedded(source)
    memory = given if wrong else stacked(given, attend, ffn)
    y = stacked(embedded(target), causal, lambda x: attend(x, memory), ffn)
    return keras.Model([source, target], layers.Dense(TOKENS)(y))


def positions_of_the_source(wrong):
    source, target = ids(), ids()
    memory = stacked(embedded(source), attend, ffn)
    y = layers.Embedding(TOKENS, D)(target) if wrong else embedded(target)
    y = stacked(y, causal, lambda x: attend(x, memory), ffn)
    return keras.Model([source, target], layers.Dense(TOKENS)(y))


def one_shortcut_for_all(wrong):
    """All sublayers add the embeddings, and not their own input."""
    x = ids()
    y = first = embedded(x)
    for f in (attend, ffn, attend, ffn):
        y = norm((first if wrong else y) + f(y))
    return keras.Model(x, labels(y))


class Closed(layers.Layer):
    """Mixes the positions of windows, in a way that no graph shows."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(4, 4))

    def call(self, x):
        windows = keras.tree.map_structure(lambda y: ops.reshape(y, (-1, 4, D)), x)
        return ops.reshape(ops.einsum("ts,bsd->btd", self.kernel, windows), (-1, 12, D))


def rolled_on(wrong):
    """A branch that is rolled twice, where the second roll should undo the first."""
    x = keras.Input((12, D))
    y = Closed()(ops.roll(norm(x), -2, axis=1))
    return keras.Model(x, labels(norm(x + ops.roll(y, -2 if wrong else 2, axis=1))))


def rolled_and_not_back(wrong):
    """Attention in windows of rolled positions."""
    x = keras.Input((12, D))
    y = x
    for shift in (0, 2):
        z = ops.roll(norm(y), -shift, axis=1) if shift else norm(y)
        z = ops.reshape(attend(ops.reshape(z, (-1, 4, D))), (-1, 12, D))
        y = y + (ops.roll(z, shift, axis=1) if shift and not wrong else z)
    return keras.Model(x, labels(norm(y)))
