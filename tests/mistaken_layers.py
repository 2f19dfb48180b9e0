"""Small models with mistakes in their inputs, recurrent layers, heads or losses, and put right.

Each builder takes whether to make the mistake.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops
from mistaken_models import CLASSES, encoder, labels
from model_bricks import (
    TOKENS,
    D,
    Shift,
    T,
    attend,
    count,
    ffn,
    ids,
    norm,
    of_image,
    pre,
)

# Recurrent layers -------------------------------------------------------------------------------


def steps_in_two_orders(wrong):
    x = keras.Input((T, D))
    back = layers.GRU(5, return_sequences=True, go_backwards=True)(x)
    back = back if wrong else ops.flip(back, axis=1)
    y = layers.Concatenate()([layers.GRU(5, return_sequences=True)(x), back])
    return keras.Model(x, layers.Dense(CLASSES)(y))


def last_step_of_both_directions(wrong):
    x = keras.Input((T, D))
    y = layers.Bidirectional(layers.LSTM(5, return_sequences=wrong))(x)
    return keras.Model(x, layers.Dense(CLASSES)(y[:, -1] if wrong else y))


def state_of_the_target(wrong):
    source, target = ids(), ids()
    words = layers.Embedding(TOKENS, D)
    state = layers.GRU(5)(words(target if wrong else source))
    y = layers.GRU(5, return_sequences=True)(words(target), initial_state=state)
    y = layers.Concatenate()([y, layers.Attention()([y, layers.Dense(5)(words(source))])])
    return keras.Model([source, target], layers.Dense(TOKENS)(y))


def masking_too_late(wrong):
    x = keras.Input((T, 5))
    masking, norm_ = layers.Masking(), layers.BatchNormalization()
    y = masking(layers.Activation("tanh")(norm_(x))) if wrong else norm_(masking(x * 2))
    return keras.Model(x, layers.Dense(CLASSES)(layers.LSTM(3)(y)))


def one_layer_for_mean_and_variance(wrong):
    x = keras.Input((5,))
    y = layers.Dense(11, activation="relu")(x)
    first = layers.Dense(3)
    mean, log_variance = first(y), (first if wrong else layers.Dense(3))(y)
    z = mean + ops.exp(log_variance / 2) * ops.cos(mean)
    return keras.Model(x, [layers.Dense(5)(z), mean, log_variance])


def zeros_everywhere(wrong):
    """Zeros in the last layer alone are a gate that training opens."""
    x = keras.Input((5,))
    y = layers.Dense(7, "relu", kernel_initializer="zeros" if wrong else "he_normal")(x)
    y = layers.Dropout(0.1)(layers.LayerNormalization()(y))
    return keras.Model(x, layers.Dense(CLASSES, kernel_initializer="zeros")(y))


# Heads and losses -------------------------------------------------------------------------------


def head(right, mistaken):
    """A classifier of rows whose (units, activation, loss) are right or mistaken."""

    def build(wrong):
        units, activation, loss, *more = mistaken if wrong else right
        x = keras.Input((5,))
        y = layers.Dense(units, activation=activation)(layers.Dense(11, activation="relu")(x))
        for layer in more:
            y = layer()(y)
        model = keras.Model(x, y)
        model.compile("sgd", loss)
        return model

    return build


FROM_LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
NAME = "sparse_categorical_crossentropy"
SOFTMAX = (CLASSES, "softmax", NAME)
LOGITS = (CLASSES, None, FROM_LOGITS)


def softmax_over_time(wrong):
    x = keras.Input((T, 5))
    model = keras.Model(x, layers.Softmax(axis=1 if wrong else -1)(layers.Dense(CLASSES)(x)))
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def frozen(wrong):
    model = head(LOGITS, LOGITS)(False)
    model.trainable = not wrong
    model.compile("sgd", FROM_LOGITS)
    return model


def hidden_softmax(wrong):
    x = keras.Input((5,))
    y = layers.Dense(11, activation="softmax" if wrong else "relu")(x)
    return keras.Model(x, layers.Dense(CLASSES)(y))


def two_zeros_in_series(wrong):
    x = keras.Input((5,))
    low = layers.Dense(2, use_bias=False, kernel_initializer="zeros" if wrong else "normal")(x)
    change = layers.Dense(CLASSES, use_bias=False, kernel_initializer="zeros")(low)
    return keras.Model(x, layers.Dense(CLASSES, trainable=False)(x) + change)


def rounded(wrong):
    x = keras.Input((5,))
    y = layers.Dense(11, activation="sigmoid")(x)
    return keras.Model(x, layers.Dense(CLASSES)(ops.round(y) if wrong else y))


def constant_positions(wrong):
    """An Embedding of a constant is no layer of the model."""
    return encoder(
        attend, ffn, positions=lambda x: layers.Embedding(T, D)(np.arange(T) if wrong else count(x))
    )


# Inputs -----------------------------------------------------------------------------------------


def unused_input(wrong):
    source, target = ids(), ids()
    _, *state = layers.LSTM(5, return_state=True)(layers.Embedding(TOKENS, D)(source))
    y = layers.LSTM(5)(layers.Embedding(TOKENS, D)(target), initial_state=None if wrong else state)
    return keras.Model([source, target], layers.Dense(CLASSES)(y))


def channels_first_image(wrong):
    image = keras.Input((3, 17, 17))
    x = image if wrong else layers.Permute((2, 3, 1))(image)
    x = layers.Conv2D(5, 3, activation="relu")(layers.Rescaling(1 / 255)(x))
    return keras.Model(image, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)))


def rescaled_twice(wrong):
    def model(image):
        x = layers.Rescaling(1 / 255)(image)
        x = layers.Conv2D(5, 3, activation="relu")(x / 127.5 - 1 if wrong else x - 0.5)
        return layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x))

    return of_image(model)


def one_step(wrong):
    x = keras.Input((19,))
    y = layers.LSTM(5)(layers.Reshape((1, 19) if wrong else (19, 1))(x))
    return keras.Model(x, layers.Dense(1)(y))


def embedding_of_floats(wrong):
    x = keras.Input((7,))
    y = layers.Normalization(mean=[0.5] * 7, variance=[2.0] * 7)(x) if wrong else x
    return keras.Model(x, layers.Dense(1)(layers.Flatten()(layers.Embedding(TOKENS, 3)(y))))


# Sequences and their summaries ------------------------------------------------------------------


def swapped_states(wrong):
    source, target = ids(), ids()
    _, h, c = layers.LSTM(5, return_state=True)(layers.Embedding(TOKENS, D)(source))
    state = [c, h] if wrong else [h, c]
    y = layers.LSTM(5, return_sequences=True)(
        layers.Embedding(TOKENS, D)(target), initial_state=state
    )
    return keras.Model([source, target], layers.Dense(TOKENS)(y))


def mixed_states(wrong):
    """The states of both directions are joined in the order in which they are returned."""
    source, target = ids(), ids()
    both = layers.Bidirectional(layers.LSTM(5, return_state=True))
    _, h, c, back_h, back_c = both(layers.Embedding(TOKENS, D)(source))
    pairs = [[h, c], [back_h, back_c]] if wrong else [[h, back_h], [c, back_c]]
    state = [layers.Concatenate()(pair) for pair in pairs]
    y = layers.LSTM(10)(layers.Embedding(TOKENS, D)(target), initial_state=state)
    return keras.Model([source, target], layers.Dense(CLASSES)(y))


def first_step(wrong):
    x = keras.Input((T, D))
    y = layers.GRU(5, return_sequences=True)(x)
    return keras.Model(x, layers.Dense(CLASSES)(y[:, 0 if wrong else -1]))


def masked_mean(wrong):
    x = ids()
    real = ops.cast(ops.not_equal(x, 0), "float32")[:, :, None]
    y = ops.sum(layers.Dense(5, "relu")(layers.Embedding(TOKENS, D)(x)) * real, axis=1)
    y = y / float(T) if wrong else y / ops.maximum(ops.sum(real, axis=1), 1.0)
    return keras.Model(x, layers.Dense(CLASSES)(y))


def pooled_features(wrong):
    x = keras.Input((T, D))
    order = "channels_first" if wrong else "channels_last"
    y = layers.GlobalAveragePooling1D(data_format=order)(norm(pre(x, attend)))
    return keras.Model(x, layers.Dense(CLASSES)(y))


def swapped_arguments(wrong):
    """Attention()([query, value]) of a recurrent decoder."""
    source, target = ids(), ids()
    memory = layers.GRU(5, return_sequences=True)(layers.Embedding(TOKENS, D)(source))
    y = layers.GRU(5, return_sequences=True)(layers.Embedding(TOKENS, D)(target))
    found = layers.Attention()([memory, y] if wrong else [y, memory])
    y = layers.Concatenate()([y, found])
    return keras.Model([source, target], layers.Dense(TOKENS)(y))


def rows_as_steps(wrong):
    """The steps of a recurrent layer are the columns of an image, whose sizes divide the others."""
    image = keras.Input((4, 12, 5))
    x = image if wrong else layers.Permute((2, 1, 3))(image)
    x = layers.LSTM(5)(layers.Reshape((12, 20))(x))
    return keras.Model(image, layers.Dense(CLASSES)(x))


def strips_for_squares(wrong):
    """Squares of 2 x 2 pixels of an image of 8 x 32, or pieces of 1 x 4."""
    image = keras.Input((8, 32, 3))
    x = image
    if not wrong:
        x = ops.transpose(ops.reshape(x, (-1, 4, 2, 16, 2, 3)), (0, 1, 3, 2, 4, 5))
    x = Shift(64)(layers.Dense(D)(ops.reshape(x, (-1, 64, 12))))
    return keras.Model(image, labels(norm(pre(x, attend))))


def time_for_features(wrong):
    x = keras.Input((20, 4))
    y = (layers.Reshape((4, 20)) if wrong else layers.Permute((2, 1)))(x)
    return keras.Model(x, layers.Dense(CLASSES)(layers.Conv1D(5, 3)(y)))


def positions_for_features(wrong):
    """A non-local block, whose keys are reshaped in the place of transposed."""

    def model(image):
        query, key, value = (layers.Conv2D(4, 1)(image) for _ in range(3))
        query, value = (layers.Reshape((16, 4))(y) for y in (query, value))
        key = layers.Reshape((4, 16))(key)
        key = key if wrong else layers.Permute((2, 1))(layers.Reshape((16, 4))(key))
        y = ops.matmul(ops.softmax(ops.matmul(query, key) / 2.0), value)
        return layers.Dense(CLASSES)(layers.Flatten()(y))

    return of_image(model, 4)


def norm_of_one_pixel(wrong):
    def model(image):
        x = layers.Conv2D(5, 3, strides=1 if wrong else 2, padding="valid")(image)
        x = layers.GroupNormalization(groups=-1)(x)
        return layers.Dense(CLASSES)(layers.Flatten()(layers.ReLU()(x)))

    return of_image(model, 3 if wrong else 7)


def one_number_for_all_classes(wrong):
    x = keras.Input((5,))
    y = layers.Dense(1 if wrong else 11, "sigmoid")(x)
    model = keras.Model(x, layers.Dense(CLASSES, "softmax")(y))
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def twins(wrong):
    left, right = keras.Input((5,)), keras.Input((5,))
    first, last = layers.Dense(11, "relu"), layers.Dense(3)
    y = last(first(left))
    z = layers.Dense(3)(layers.Dense(11, "relu")(right)) if wrong else last(first(right))
    return keras.Model([left, right], layers.Dot(1)([y, z]))


# Layers in series -------------------------------------------------------------------------------


def linear_convolutions(wrong):
    def model(image):
        x = image
        for filters in (5, 7, 11):
            x = layers.Conv2D(filters, 3, activation=None if wrong else "relu")(x)
        return layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x))

    return of_image(model)


def norm_for_an_activation(wrong):
    x = keras.Input((5,))
    y = layers.BatchNormalization()(layers.Dense(11)(x))
    y = y if wrong else layers.ReLU()(y)
    return keras.Model(x, layers.Dense(CLASSES)(layers.ReLU()(layers.Dense(7)(y))))


def large_epsilon(wrong):
    x = keras.Input((5,))
    y = layers.LayerNormalization(epsilon=1e6 if wrong else 1e-6)(layers.Dense(11)(x))
    return keras.Model(x, layers.Dense(CLASSES)(y))


def dropout_of_all(wrong):
    x = keras.Input((5,))
    y = layers.Dropout(1.0 if wrong else 0.1)(layers.Dense(11, activation="relu")(x))
    return keras.Model(x, layers.Dense(CLASSES)(y))


def forgetful_norm(wrong):
    x = keras.Input((5,))
    y = layers.BatchNormalization(momentum=0.1 if wrong else 0.9)(layers.Dense(11)(x))
    return keras.Model(x, layers.Dense(CLASSES)(layers.ReLU()(y)))


def cosine_as_probability(wrong):
    left, right = keras.Input((5,)), keras.Input((5,))
    y = layers.Dot(1, normalize=True)([layers.Dense(3)(left), layers.Dense(3)(right)])
    model = keras.Model([left, right], y if wrong else layers.Dense(1, "sigmoid")(y))
    model.compile("sgd", "binary_crossentropy")
    return model


def fixed_noise(wrong):
    x = keras.Input((5,))
    noise = np.random.default_rng(0).standard_normal(3).astype("float32")
    noise = noise if wrong else layers.GaussianNoise(1.0)(ops.zeros_like(x[:, :3]))
    deviation = ops.exp(layers.Dense(3)(x) / 2)
    return keras.Model(x, layers.Dense(CLASSES)(layers.Dense(3)(x) + deviation * noise))


def one_gate_for_both(wrong):
    x = keras.Input((5,))
    gate = layers.Dense(5, activation="sigmoid")(x)
    y = layers.Dense(5, activation="relu")(x)
    return keras.Model(x, layers.Dense(CLASSES)(gate * y + (gate if wrong else 1 - gate) * x))


def both_directions_in_a_row(wrong):
    x = keras.Input((T, D))
    y, z = (layers.GRU(5, return_sequences=True)(x) for _ in range(2))
    y = layers.Concatenate(axis=1 if wrong else -1)([y, z])
    return keras.Model(x, layers.Dense(CLASSES)(layers.GlobalMaxPooling1D()(y)))


def joined_rows(wrong):
    def model(image):
        kept = layers.Conv2D(5, 3, padding="same", activation="relu")(image)
        x = layers.UpSampling2D()(layers.MaxPooling2D()(kept))
        return layers.Conv2D(3, 1)(layers.Concatenate(axis=1 if wrong else 3)([x, kept]))

    return of_image(model)


def points_of_features(wrong):
    """The largest feature of each point, not the largest of all points."""
    x = keras.Input((11, 3))
    y = layers.Dense(5, "relu")(layers.Conv1D(17, 1, activation="relu")(x))
    return keras.Model(x, layers.Dense(CLASSES)(ops.max(y, axis=-1 if wrong else 1)))


def one_state(wrong):
    source, target = ids(), ids()
    _, h, c = layers.LSTM(5, return_state=True)(layers.Embedding(TOKENS, D)(source))
    read = layers.Embedding(TOKENS, D)(target)
    y = layers.LSTM(5, return_sequences=True)(read, initial_state=[h, h if wrong else c])
    return keras.Model([source, target], layers.Dense(TOKENS)(y))


def clipped_gate(wrong):
    x = keras.Input((D,))
    shares = layers.Softmax()(layers.Dense(3, "relu" if wrong else None)(x))
    experts = ops.stack([layers.Dense(5, "gelu")(x) for _ in range(3)], axis=1)
    return keras.Model(x, layers.Dense(CLASSES)(ops.sum(shares[:, :, None] * experts, axis=1)))


def map_without_a_range(wrong):
    image = keras.Input((7, 5, 3))
    x = layers.Conv2D(8, 3, activation="relu")(image)
    kept = layers.Conv2D(1, 3, padding="same", activation=None if wrong else "sigmoid")(x)
    return keras.Model(image, layers.Dense(CLASSES)(layers.GlobalMaxPooling2D()(x * kept)))


def gate_without_a_range(wrong):
    """Squeeze-and-excitation without its sigmoid."""

    def model(image):
        x = layers.Conv2D(5, 3, activation="relu")(image)
        gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
        gate = layers.Dense(5, activation=None if wrong else "sigmoid")(gate)
        return layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x * gate))

    return of_image(model)


def scale_near_zero(wrong):
    x, condition = keras.Input((T, D)), keras.Input((3,))
    scale, shift = ops.split(layers.Dense(2 * D)(condition)[:, None], 2, axis=-1)
    y = layers.LayerNormalization(center=False, scale=False)(layers.Dense(D)(x))
    y = y * (scale if wrong else 1 + scale) + shift
    return keras.Model([x, condition], layers.Dense(CLASSES)(layers.ReLU()(y)))


def rows_of_a_map(wrong):
    """Scores of the places in one row, with a softmax over all places that ask."""
    image = keras.Input((7, 5, 3))
    key, query, value = (layers.Conv2D(n, 1)(image) for n in (4, 4, 3))
    if not wrong:
        key, query, value = (ops.reshape(y, (-1, 35, y.shape[-1])) for y in (key, query, value))
    scores = ops.matmul(query, ops.swapaxes(key, -1, -2)) / 2.0
    if wrong:
        shares = ops.softmax(ops.reshape(scores, (-1, 35, 5)), axis=1)
        y = ops.matmul(ops.reshape(shares, (-1, 7, 5, 5)), value)
    else:
        y = ops.reshape(ops.matmul(ops.softmax(scores), value), (-1, 7, 5, 3))
    y = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()([image, y])))
    return keras.Model(image, layers.Dense(CLASSES)(y))


def variance_for_deviation(wrong):
    x, noise = keras.Input((D,)), keras.Input((5,))
    log_variance = layers.Dense(5, name="z_log_var")(x)
    deviation = ops.exp(log_variance if wrong else 0.5 * log_variance)
    return keras.Model([x, noise], layers.Dense(CLASSES)(layers.Dense(5)(x) + deviation * noise))
