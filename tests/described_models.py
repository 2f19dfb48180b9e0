"""Small models of many kinds, without names, with what a description must and must not say."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops
from model_bricks import (
    HEADS,
    SERIES,
    TOKENS,
    D,
    Shift,
    T,
    Table,
    attend,
    causal,
    conv,
    embedded,
    ffn,
    ids,
    learned,
    norm,
    of_image,
    of_series,
    post,
    pre,
    residual_conv,
    stacked,
)


class CausalMask(layers.Layer):
    """Returns a mask that hides nothing, or all that is later."""

    def __init__(self, hides, **options):
        super().__init__(**options)
        self.hides = hides

    def call(self, x):
        seen = ops.ones_like(ops.matmul(x, ops.swapaxes(x, 1, 2)))
        return (ops.tril(seen) if self.hides else seen) > 0


class PositionalAttentionEncoder(layers.Layer):
    """A name that promises much, around a Dense."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(D, D))

    def call(self, x):
        return ops.matmul(x, self.kernel)


class Opaque(layers.Layer):
    """A layer of layers, which a graph does not open by itself."""

    def __init__(self, **options):
        super().__init__(**options)
        self.up, self.down = layers.Dense(37), layers.Dense(D)

    def build(self, shape):
        self.up.build(shape)
        self.down.build((*shape[:-1], 37))

    def call(self, x):
        return self.down(self.up(x))


def recurrent(kind=layers.LSTM, attention=True, reversed_=False):
    source, target = ids(), ids()
    memory, *state = kind(D, return_sequences=True, return_state=True)(
        layers.Embedding(TOKENS, D)(source)
    )
    x = layers.Embedding(TOKENS, D)(target)
    if reversed_:
        x = layers.Bidirectional(kind(D, return_sequences=True))(x)
        x = layers.Dense(D)(x)
    else:
        x = kind(D, return_sequences=True)(x, initial_state=state)
    x = layers.Concatenate()([x, layers.Attention()([x, memory])]) if attention else x
    return keras.Model([source, target], layers.Dense(TOKENS)(x))


def pooled_decoder():
    """The encoder is known to the decoder by its mean alone."""
    source, target = keras.Input(SERIES), keras.Input((7, D))
    memory = layers.Dense(D)(source)
    x = target + layers.RepeatVector(7)(layers.GlobalAveragePooling1D()(memory))
    x = post(post(x, lambda y: attend(y, memory)), ffn)
    return keras.Model([source, target], layers.Dense(7)(x))


def perceiver():
    data = keras.Input((23, D))
    x = Table()(data)
    for _ in range(2):
        x = pre(pre(pre(x, lambda y: attend(y, data)), attend), ffn)
    return keras.Model(data, layers.Dense(7)(layers.GlobalAveragePooling1D()(norm(x))))


def set_transformer():
    data = keras.Input(SERIES)
    x = data
    for _ in range(2):
        inducing = post(post(Table()(x), lambda y, x=x: attend(y, x)), ffn)
        x = post(post(x, lambda y, m=inducing: attend(y, m)), ffn)
    return keras.Model(data, layers.Dense(7)(layers.GlobalAveragePooling1D()(x)))


def detr():
    image = keras.Input((16, 16, 3))
    x = layers.Reshape((16, D))(layers.Conv2D(D, 4, strides=4)(image))
    where, asked = Table(16)(x), Table(5)(x)
    for _ in range(2):
        place = layers.MultiHeadAttention(HEADS, 2)
        x = post(norm(x + place(x + where, x, x + where)), ffn)
    y = ops.zeros_like(asked)
    for _ in range(2):
        own, cross = layers.MultiHeadAttention(HEADS, 2), layers.MultiHeadAttention(HEADS, 2)
        y = norm(y + own(y + asked, y, y + asked))
        y = post(norm(y + cross(y + asked, x, x + where)), ffn)
    return keras.Model(image, [layers.Dense(7)(y), layers.Dense(4)(y)])


def universal():
    """One block, called again and again, with positions added each time."""
    x = ids()
    place = learned(x)
    y = layers.Embedding(TOKENS, D)(x)
    attention, norms = (
        layers.MultiHeadAttention(HEADS, 2),
        [layers.LayerNormalization() for _ in "ab"],
    )
    up, down = layers.Dense(17, activation="relu"), layers.Dense(D)
    for _ in range(3):
        y = y + place
        y = norms[0](y + attention(y, y))
        y = norms[1](y + down(up(y)))
    return keras.Model(x, layers.Dense(7)(y))


def slots():
    data = keras.Input(SERIES)
    memory = norm(data)
    x = Table()(data)
    cell = layers.GRUCell(D)
    for _ in range(2):
        seen = attend(norm(x), memory)
        flat = ops.reshape(x, (-1, D))
        x = ops.reshape(cell(ops.reshape(seen, (-1, D)), [flat])[0], (-1, 5, D))
        x = pre(x, ffn)
    return keras.Model(data, layers.Dense(7)(x))


def added_slots():
    """Slot attention with sums in the place of the recurrent cell, and a softmax over slots."""
    data = keras.Input(SERIES)
    memory, x = norm(data), Table()(data)
    key, value, query = (layers.Dense(D) for _ in range(3))
    keys, values = ops.transpose(key(memory), (0, 2, 1)), value(memory)
    norms = [layers.LayerNormalization() for _ in range(2)]
    up, down = layers.Dense(17), layers.Dense(D)
    for _ in range(3):
        weights = ops.softmax(ops.matmul(query(norms[0](x)), keys) / D**0.5, axis=1) + 1e-8
        x = x + ops.matmul(weights / ops.sum(weights, axis=-1, keepdims=True), values)
        x = x + down(ops.relu(up(norms[1](x))))
    return keras.Model(data, layers.Dense(7)(x))


class Mix(layers.Layer):
    """Trained sums of streams."""

    def __init__(self, streams, **options):
        super().__init__(**options)
        self.streams = streams

    def build(self, shape):
        self.matrix = self.add_weight(shape=(self.streams, shape[1]))

    def call(self, x):
        return ops.einsum("mn,bntd->bmtd", self.matrix, x)


def hyper():
    x = ids()
    y = ops.repeat(ops.expand_dims(embedded(x), 1), 2, axis=1)
    for f in (causal, ffn, causal, ffn):
        y = Mix(2)(y) + Mix(2)(ops.expand_dims(f(norm(Mix(1)(y)[:, 0])), 1))
    return keras.Model(x, layers.Dense(TOKENS)(norm(ops.sum(y, axis=1))))


def highway_attention():
    x = keras.Input(SERIES)
    y = x
    for _ in range(2):
        gate = layers.Dense(D, activation="sigmoid")(y)
        y = gate * attend(y) + (1.0 - gate) * y
    return keras.Model(x, layers.Dense(7)(y))


def highway():
    x = keras.Input((D,))
    y = x
    for _ in range(3):
        gate = layers.Dense(D, activation="sigmoid")(y)
        y = gate * layers.Dense(D, activation="relu")(y) + (1.0 - gate) * y
    return keras.Model(x, layers.Dense(7)(y))


def u_net(attention=False):
    def model(image):
        a = residual_conv(conv(image))
        b = residual_conv(conv(a, strides=2))
        if attention:
            flat = layers.Reshape((64, 8))(b)
            b = layers.Reshape((8, 8, 8))(
                flat + layers.MultiHeadAttention(2, 4)(norm(flat), norm(flat))
            )
        up = layers.Concatenate()([layers.UpSampling2D()(b), a])
        return layers.Conv2D(3, 1)(residual_conv(conv(up)))

    return of_image(model)


def plain_u_net():
    def model(image):
        a = conv(image)
        b = conv(a, strides=2)
        c = conv(b, strides=2)
        up = conv(layers.Concatenate()([layers.UpSampling2D()(c), b]))
        crop = layers.Cropping2D(0)(a)
        return layers.Conv2D(3, 1)(layers.Concatenate()([layers.UpSampling2D()(up), crop]))

    return of_image(model)


def variational(image):
    code = layers.Flatten()(conv(conv(image, strides=2), strides=2))
    mean, scale = layers.Dense(3, name="z")(code), layers.Dense(3)(code)
    z = mean + ops.exp(scale) * layers.GaussianNoise(1.0)(ops.zeros_like(mean))
    x = layers.Reshape((4, 4, 2))(layers.Dense(32)(z))
    return layers.Conv2DTranspose(3, 4, strides=4)(x)


class Encoder(Opaque):
    """The encoder of an autoencoder."""


class TransformerDecoder(Opaque):
    """No Transformer, whatever its name."""


def cait():
    x = keras.Input(SERIES)
    y = pre(pre(Shift(T)(x), attend), ffn)
    token = Table(1)(y)
    for _ in range(2):
        all_ = norm(layers.Concatenate(axis=1)([token, y]))
        token = pre(token + attend(all_[:, :1], all_), ffn)
    return keras.Model(x, layers.Dense(7)(norm(token)[:, 0]))


def retention(x):
    query, key, value = layers.Dense(D)(x), layers.Dense(D)(x), layers.Dense(D)(x)
    scores = ops.matmul(query, ops.transpose(key, (0, 2, 1)))
    return layers.Dense(D)(ops.matmul(scores * np.tri(T, dtype="float32"), value))


def state_space(x):
    gate = layers.Dense(D, activation="sigmoid")(x)
    steps = ops.associative_scan(lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1]), (gate, x), axis=1)
    return layers.Dense(D)(steps[1])


def experts(x):
    gate = ops.softmax(layers.Dense(3)(x))
    return sum(gate[..., k : k + 1] * ffn(x) for k in range(3))


def adapted(f):
    def call(x):
        y = f(x)
        return y + layers.Dense(D)(layers.Dense(2, activation="gelu")(y))

    return call


def mixer(x):
    y = layers.Dense(T)(layers.Dense(17, activation="gelu")(ops.swapaxes(x, 1, 2)))
    return ops.swapaxes(y, 1, 2)


def vision(image):
    x = layers.Reshape((16, D))(layers.Conv2D(D, 4, strides=4)(image))
    x = Shift(17)(layers.Concatenate(axis=1)([Table(1)(x), x]))
    return layers.Dense(7)(stacked(x, attend, ffn, attend, ffn)[:, 0])


def two_towers():
    text, image = ids(), keras.Input((16, 16, 3))
    a = layers.GlobalAveragePooling1D()(stacked(embedded(text), causal, ffn))
    patches = layers.Reshape((16, D))(layers.Conv2D(D, 4, strides=4)(image))
    b = layers.GlobalAveragePooling1D()(stacked(Shift(16)(patches), attend, ffn))
    return keras.Model([text, image], layers.Dot(1)([a, b]))


def mutual():
    a, b = keras.Input(SERIES), keras.Input((7, D))
    x, y = a, b
    for _ in range(2):
        x, y = post(x, lambda z, y=y: attend(z, y)), post(y, lambda z, x=x: attend(z, x))
        x, y = (post(post(z, attend), ffn) for z in (x, y))
    return keras.Model([a, b], [layers.Dense(7)(x), layers.Dense(7)(y)])


def reversible():
    """Two streams, of which each sublayer reads the one and adds to the other."""
    tokens = ids()
    x = y = embedded(tokens)
    for _ in range(2):
        x = x + causal(norm(y))
        y = y + ffn(norm(x))
    return keras.Model(tokens, layers.Dense(13)(norm(layers.Concatenate()([x, y]))))


def tab_transformer():
    """Norms also begin the feed-forwards of post-norm blocks."""
    x = keras.Input(SERIES)
    y = x
    for _ in range(3):
        y = norm(y + attend(y))
        y = norm(layers.Dense(D)(norm(y)) + y)
    return keras.Model(x, layers.Dense(7)(layers.Flatten()(y)))


def channel_attention(x):
    query, key, value = (ops.transpose(layers.Dense(D)(x), (0, 2, 1)) for _ in range(3))
    weights = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 2, 1))))
    return layers.Dense(D)(ops.transpose(ops.matmul(weights, value), (0, 2, 1)))


def captioner():
    """Stage changes without skip paths, as in EfficientNet, under a Transformer."""
    image, target = keras.Input((16, 16, 3)), ids()
    x = conv(image)
    for stage in range(3):
        x = (
            layers.Conv2D(8, 1, name=f"block{stage}a_expand_conv")(x)
            if stage == 1
            else residual_conv(x)
        )
    memory = layers.Dense(D)(layers.Reshape((256, 8))(x))
    y = embedded(target)
    y = post(post(post(y, causal), lambda z: attend(z, memory)), ffn)
    return keras.Model([image, target], layers.Dense(TOKENS)(y))


def condition_in_every_block():
    x, condition = keras.Input(SERIES), keras.Input((5,))
    y, c = x, layers.Dense(D)(condition)
    for _ in range(2):
        y = pre(pre(y + ops.expand_dims(c, 1), attend), ffn)
    return keras.Model([x, condition], layers.Dense(7)(norm(y)))


def with_inner(layer):
    return of_series(attend, ffn, lambda y: layer()(y), attend, ffn)
