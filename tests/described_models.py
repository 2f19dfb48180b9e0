"""Small models of many kinds, without names, with what a description must and must not say."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers, ops

T, D, HEADS, TOKENS = 11, 6, 3, 13
SERIES = (T, D)

norm = lambda x: layers.LayerNormalization()(x)  # noqa: E731
pre = lambda x, f: x + f(norm(x))  # noqa: E731
post = lambda x, f: norm(x + f(x))  # noqa: E731


def attend(x, memory=None, **options):
    return layers.MultiHeadAttention(HEADS, 2)(x, x if memory is None else memory, **options)


def causal(x):
    return attend(x, use_causal_mask=True)


def ffn(x):
    return layers.Dense(D)(layers.Dense(17, activation="relu")(x))


def ids():
    return keras.Input((T,), dtype="int32")


def count(x):
    """Positions from 0, computed from the shape of the ids."""
    return ops.cumsum(ops.ones_like(x), axis=1) - 1


def learned(x):
    return layers.Embedding(T, D)(count(x))


def embedded(x, positions=learned):
    return layers.Embedding(TOKENS, D)(x) + positions(x)


def stacked(x, *functions, block=pre):
    for f in functions:
        x = block(x, f)
    return norm(x) if block is pre else x


def language_model(f=causal, positions=learned, block=pre, outputs=TOKENS):
    x = ids()
    y = layers.Embedding(TOKENS, D)(x)
    y = y if positions is None else y + positions(x)
    return keras.Model(x, layers.Dense(outputs)(stacked(y, f, ffn, f, ffn, block=block)))


def translator(f=causal, g=attend):
    source, target = ids(), ids()
    memory = stacked(embedded(source), g, ffn)
    cross = lambda y: attend(y, memory)  # noqa: E731
    y = stacked(embedded(target), f, cross, ffn, f, cross, ffn)
    return keras.Model([source, target], layers.Dense(TOKENS)(y))


class Table(layers.Layer):
    """A trained array for every sample of the batch: only the batch size of the input matters."""

    def __init__(self, length=5, **options):
        super().__init__(**options)
        self.length = length

    def build(self, shape):
        self.array = self.add_weight(shape=(1, self.length, D))

    def call(self, x):
        return ops.repeat(self.array, ops.shape(x)[0], axis=0)


class Shift(layers.Layer):
    """Adds trained vectors: one for each position, or one for all."""

    def __init__(self, length, **options):
        super().__init__(**options)
        self.length = length

    def build(self, shape):
        self.array = self.add_weight(shape=(self.length, D))

    def call(self, x):
        return x + self.array


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


def by_hand(x, masked=lambda s: s, turned=lambda y: y):
    query, key, value = turned(layers.Dense(D)(x)), turned(layers.Dense(D)(x)), layers.Dense(D)(x)
    scores = masked(ops.matmul(query, ops.transpose(key, (0, 2, 1))) / D**0.5)
    return layers.Dense(D)(ops.matmul(ops.softmax(scores), value))


ANGLES = np.arange(T)[:, None] / 100.0 ** (np.arange(D // 2) / 3)


def rotated(x, angles=ANGLES):
    sin, cos = (f(angles).astype("float32") for f in (np.sin, np.cos))
    first, second = ops.split(x, 2, axis=-1)
    return ops.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def rotated_by_ops(x):
    place = ops.cast(ops.cumsum(ops.ones_like(x[..., :1]), axis=1), "float32")
    angles = place * (0.1 ** np.arange(D // 2)).astype("float32")
    sin, cos = ops.sin(angles), ops.cos(angles)
    first, second = ops.split(x, 2, axis=-1)
    return ops.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def sines_by_ops(x):
    place = ops.expand_dims(ops.cast(count(x), "float32"), -1)
    angles = place * (0.1 ** np.arange(D // 2)).astype("float32")
    return ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)


def mask_of(compare):
    def attended(x):
        place = ops.cumsum(ops.ones_like(x[:, :, 0]), axis=1)
        return attend(x, attention_mask=compare(place[:, None, :], place[:, :, None]))

    return attended


def constant_mask(k):
    return lambda x: attend(x, attention_mask=np.tri(T, k=k, dtype=bool)[None])


def added_mask(hidden):
    table = np.where(np.tri(T), 0, hidden).astype("float32")
    return lambda x: by_hand(x, lambda s: s + ops.convert_to_tensor(table))


def encoder_of(x, *functions, block=pre, pooled=True):
    y = stacked(x, *functions, block=block)
    return layers.Dense(7)(layers.GlobalAveragePooling1D()(y) if pooled else y)


def of_series(*functions, block=pre, begin=lambda x: x):
    x = keras.Input(SERIES)
    return keras.Model(x, encoder_of(begin(x), *functions, block=block))


def of_image(f, size=16):
    x = keras.Input((size, size, 3))
    return keras.Model(x, f(x))


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


def conv(x, filters=8, strides=1):
    x = layers.Conv2D(filters, 3, strides=strides, padding="same")(x)
    return layers.ReLU()(layers.BatchNormalization()(x))


def residual_conv(x):
    return layers.ReLU()(
        layers.Add()([x, layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(conv(x)))])
    )


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


def variational(image):
    code = layers.Flatten()(conv(conv(image, strides=2), strides=2))
    mean, scale = layers.Dense(3, name="z")(code), layers.Dense(3)(code)
    z = mean + ops.exp(scale) * keras.random.normal((1, 3))
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


NOT_TRANSFORMER = r"^(?!.*Transformer)"
ENCODER = (
    r"^Pre-norm Transformer encoder: 2 blocks with 4 residual paths, final norm; "
    r"self-attention in both directions; "
)
DECODER = (
    r"^Pre-norm Transformer decoder: 2 blocks with 4 residual paths, final norm; causal "
    r"self-attention; "
)
NO_POSITIONS = "no positions that the graph shows; "
BOTH = "self-attention in both directions; "

DESCRIBED = {
    # kind: (builder, what the description has to match)
    "language model": (language_model, DECODER + "learned positions"),
    "language model without positions": (
        lambda: language_model(positions=None),
        DECODER + NO_POSITIONS,
    ),
    "masked language model": (lambda: language_model(attend), ENCODER + "learned positions"),
    "post-norm": (lambda: language_model(block=post), "^Post-norm Transformer decoder: 2 blocks"),
    "mixed masks": (
        lambda: keras.Model(
            x := ids(), layers.Dense(7)(stacked(embedded(x), causal, ffn, attend, ffn))
        ),
        r"^Pre-norm Transformer: 2 blocks.*; self-attention, 1 of 2 causal",
    ),
    "constant mask": (lambda: language_model(constant_mask(0)), DECODER),
    "constant mask, one off": (lambda: language_model(constant_mask(1)), r"^(?!.*causal)"),
    "constant mask, only the past": (lambda: language_model(mask_of(lambda j, i: j < i)), DECODER),
    "computed mask": (lambda: language_model(mask_of(lambda j, i: j <= i)), DECODER),
    "computed mask, inverted": (
        lambda: language_model(mask_of(lambda j, i: j >= i)),
        r"^(?!.*causal)",
    ),
    "computed mask, off by one": (
        lambda: language_model(mask_of(lambda j, i: j <= i + 1)),
        r"^(?!.*causal)",
    ),
    "sliding window": (
        lambda: language_model(mask_of(lambda j, i: ops.logical_and(j <= i, j > i - 3))),
        DECODER,
    ),
    "added mask": (lambda: language_model(added_mask(-1e9)), DECODER),
    "added mask too small": (lambda: language_model(added_mask(1e-9)), r"^(?!.*causal)"),
    "scores times a mask": (
        lambda: language_model(lambda x: by_hand(x, lambda s: s * np.tri(T, dtype="float32"))),
        r"^(?!.*causal)",
    ),
    "where": (
        lambda: language_model(lambda x: by_hand(x, lambda s: ops.where(np.tri(T) > 0, s, -1e9))),
        DECODER,
    ),
    "where, inverted": (
        lambda: language_model(
            lambda x: by_hand(x, lambda s: ops.where(ops.tril(ops.ones_like(s)) > 0, -1e9, s))
        ),
        r"^(?!.*causal)",
    ),
    "layer CausalMask of ones": (
        lambda: language_model(lambda x: attend(x, attention_mask=CausalMask(False)(x))),
        ENCODER,
    ),
    "layer CausalMask": (
        lambda: language_model(lambda x: attend(x, attention_mask=CausalMask(True)(x))),
        DECODER,
    ),
    "translator": (
        translator,
        r"^Pre-norm Transformer encoder-decoder: 1 encoder block and 2 decoder blocks "
        r"with 8 residual paths, final norm; self-attention in both directions in the "
        r"encoder, causal self-attention in the decoder, cross-attention; learned",
    ),
    "translator with a causal encoder": (
        lambda: translator(g=causal),
        r"encoder-decoder: 1 encoder block and 2 decoder blocks.*; causal self-attention "
        r"in the encoder, causal",
    ),
    "sines by operations": (
        lambda: language_model(positions=sines_by_ops),
        DECODER + "sinusoidal positions",
    ),
    "table of sines": (
        lambda: language_model(
            positions=lambda x: np.concatenate([np.sin(ANGLES), np.cos(ANGLES)], -1).astype(
                "float32"
            )
        ),
        DECODER + "sinusoidal positions",
    ),
    "rotations by constants": (
        lambda: language_model(lambda x: by_hand(x, turned=rotated), None),
        "; rotary positions",
    ),
    "rotations by operations": (
        lambda: language_model(lambda x: by_hand(x, turned=rotated_by_ops), None),
        "; rotary positions",
    ),
    "rotations by one angle": (
        lambda: language_model(
            lambda x: by_hand(x, turned=lambda y: rotated(y, ANGLES[1:2])), None
        ),
        NO_POSITIONS,
    ),
    "positions of the batch": (
        lambda: language_model(
            positions=lambda x: layers.Embedding(T, D)(ops.cumsum(ops.ones_like(x), axis=0))
        ),
        NO_POSITIONS,
    ),
    "positions constant over time": (
        lambda: language_model(positions=lambda x: layers.Embedding(T, D)(ops.ones_like(x))),
        NO_POSITIONS,
    ),
    "one vector for all positions": (lambda: of_series(attend, ffn, begin=Shift(1)), NO_POSITIONS),
    "one vector for each position": (
        lambda: of_series(attend, ffn, begin=Shift(T)),
        "learned positions",
    ),
    "layer PositionalAttentionEncoder": (
        lambda: of_series(attend, ffn, begin=lambda x: PositionalAttentionEncoder()(x)),
        r"encoder: 1 block.*" + NO_POSITIONS,
    ),
    "LSTM encoder-decoder": (
        recurrent,
        r"^Recurrent encoder-decoder: 2 recurrent layers \(LSTM\), 1 cross-attention; "
        r"(?!.*(Transformer|self-att))",
    ),
    "GRU encoder-decoder": (
        lambda: recurrent(layers.GRU, False),
        r"^Recurrent encoder-decoder: 2 recurrent layers \(GRU\); ",
    ),
    "Bidirectional decoder": (
        lambda: recurrent(reversed_=True),
        r"^Recurrent encoder-decoder: .*LSTM and Bidirectional.*1 cross-attention",
    ),
    "one LSTM": (
        lambda: keras.Model(x := keras.Input(SERIES), layers.LSTM(3)(x)),
        "^Recurrent network: 1 recurrent layer",
    ),
    "encoder known by its mean": (pooled_decoder, r"cross-attention(?!.*self-attention)"),
    "Perceiver": (
        perceiver,
        r"^Pre-norm Transformer: 2 blocks with 6 residual paths, final norm; "
        r"self-attention in both directions, cross-attention; no positions",
    ),
    "set transformer": (
        set_transformer,
        r"^Post-norm Transformer: .*; cross-attention; no positions",
    ),
    "DETR": (
        detr,
        r"^Post-norm Transformer encoder-decoder: 2 encoder blocks and 2 decoder blocks "
        r"with 10 residual paths; .*learned positions",
    ),
    "Universal Transformer": (
        universal,
        r"^Post-norm Transformer encoder: 3 blocks with 6 residual paths; .*3 calls of 1 "
        r"attention layer.*learned positions",
    ),
    "slot attention": (slots, NOT_TRANSFORMER + r".*2 residual paths, 2 attentions"),
    "hyper-connections": (hyper, r"^(?!.*no skip paths).*causal self-attention"),
    "highway attention": (highway_attention, r"^(?!.*(residual path))"),
    "highway": (highway, "^Network without skip paths: 7 layers"),
    "U-net": (u_net, r"^Residual network: 3 residual paths"),
    "U-net with attention": (lambda: u_net(True), NOT_TRANSFORMER + ".*1 attention"),
    "variational autoencoder": (lambda: of_image(variational), "^Network without skip paths"),
    "layer Encoder": (
        lambda: keras.Model(x := keras.Input(SERIES), Encoder()(x)),
        NOT_TRANSFORMER + r".*1 of them closed \(Encoder\)",
    ),
    "layer TransformerDecoder": (
        lambda: keras.Model(x := keras.Input(SERIES), TransformerDecoder()(x)),
        r"^Network without skip paths that the graph shows",
    ),
    "CaiT": (cait, r"^Pre-norm Transformer encoder: 3 blocks with 6 residual paths, final norm"),
    "retention": (lambda: of_series(retention, ffn), "^Residual network: 2 residual paths; Layer"),
    "state space": (
        lambda: of_series(state_space, ffn),
        "^Residual network: 2 residual paths; Layer",
    ),
    "mixture of experts": (
        lambda: (
            language_model(lambda x: causal(x))
            and keras.Model(x := ids(), layers.Dense(7)(stacked(embedded(x), causal, experts)))
        ),
        r"^Pre-norm Transformer decoder: 1 block with 2 ",
    ),
    "adapters": (
        lambda: of_series(adapted(attend), adapted(ffn), block=post),
        r"^Post-norm Transformer encoder: 1 block",
    ),
    "MLP-Mixer": (
        lambda: of_series(mixer, ffn),
        "^Residual network: 2 residual paths; LayerNormalization first",
    ),
    "vision Transformer": (lambda: of_image(vision), ENCODER + "learned positions"),
    "convolutional network": (
        lambda: of_image(lambda x: layers.Dense(7)(layers.Flatten()(conv(conv(x))))),
        "^Network without skip paths: 5 layers",
    ),
    "residual network": (
        lambda: of_image(lambda x: residual_conv(residual_conv(conv(x)))),
        "^Residual network: 2 residual paths; BatchNormalization last",
    ),
    "two towers": (
        two_towers,
        r"^Pre-norm Transformer: 2 blocks with 4 residual paths, final norm; "
        r"self-attention, 1 of 2 causal; learned",
    ),
    "two streams that attend to each other": (
        mutual,
        r"^Post-norm Transformer: 4 blocks.*self-attention in both directions, cross-attention",
    ),
    "norms at both ends of a feed-forward": (
        tab_transformer,
        "^Post-norm Transformer encoder: 3 blocks with 6",
    ),
    "attention between channels": (
        lambda: of_series(channel_attention, ffn, begin=Shift(T)),
        r"attention between channels(?!.*self-attention)",
    ),
    "image captions": (
        captioner,
        r"^Post-norm Transformer decoder: 1 block with 3 .*causal self-attention, cross-attention",
    ),
    "a condition in every block": (
        condition_in_every_block,
        "^Pre-norm Transformer encoder: 2 blocks with 4 residual paths",
    ),
    "closed layers between": (
        lambda: with_inner(Opaque),
        r"^Partly opened network: 1 closed layer \(Opaque\), 2 attentions, 5 residual paths; self",
    ),
}
