"""Small models as people write them in Keras: without names, and of most kinds of architecture."""

import functools
from collections.abc import Callable

import keras
from keras import layers as L  # noqa: N812
from keras import ops

Tensor = keras.KerasTensor


def _norm(x: Tensor) -> Tensor:
    return L.LayerNormalization()(x)


def _stack(
    block: Callable[..., Tensor], times: int, shape: tuple[int, ...] = (5, 6)
) -> keras.Model:
    x = inputs = keras.Input(shape)
    for number in range(times):
        x = block(x, number)
    return keras.Model(inputs, L.Dense(3)(x))


def residual_dense(times: int = 6) -> keras.Model:
    return _stack(lambda x, _: x + L.Dense(6)(_norm(x)), times)


def vision_transformer(times: int = 4) -> keras.Model:
    inputs = keras.Input((8, 8, 3))
    x = L.Reshape((4, 6))(L.Conv2D(6, 4, 4)(inputs))
    x = x + L.Embedding(4, 6)(ops.arange(4))
    for _ in range(times):
        y = _norm(x)
        x = L.Add()([L.MultiHeadAttention(2, 3, dropout=0.1)(y, y), x])
        y = L.Dropout(0.1)(L.Dense(13, activation="gelu")(_norm(x)))
        x = L.Add()([L.Dropout(0.1)(L.Dense(6)(y)), x])
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(_norm(x))))


def post_norm(times: int = 4) -> keras.Model:
    def block(x: Tensor, _: int) -> Tensor:
        x = _norm(x + L.MultiHeadAttention(2, 3)(x, x))
        return _norm(x + L.Dense(6)(L.Dense(13, activation="relu")(x)))

    return _stack(block, times)


def attention_by_hand(times: int = 3) -> keras.Model:
    def block(x: Tensor, _: int) -> Tensor:
        y = _norm(x)
        query, key, value = (L.Dense(6)(y) for _ in range(3))
        weights = ops.softmax(ops.matmul(query, ops.swapaxes(key, 1, 2)) / 6**0.5)
        x = x + L.Dense(6)(ops.matmul(weights, value))
        return x + L.Dense(6)(L.Dense(13, activation="gelu")(_norm(x)))

    return _stack(block, times)


def encoder_decoder(times: int = 3) -> keras.Model:
    sources, targets = (keras.Input((n,), dtype="int32") for n in (7, 5))
    memory, x = L.Embedding(31, 6)(sources), L.Embedding(37, 6)(targets)
    for _ in range(times):
        memory = _norm(memory + L.MultiHeadAttention(2, 3)(memory, memory))
        memory = _norm(memory + L.Dense(6)(L.Dense(13)(memory)))
    for _ in range(times):
        x = _norm(x + L.MultiHeadAttention(2, 3)(x, x, use_causal_mask=True))
        x = _norm(x + L.MultiHeadAttention(2, 3)(x, memory))
        x = _norm(x + L.Dense(6)(L.Dense(13)(x)))
    return keras.Model([sources, targets], L.Dense(37)(x))


def mixer(times: int = 4) -> keras.Model:
    def block(x: Tensor, _: int) -> Tensor:
        y = L.Permute((2, 1))(_norm(x))
        y = L.Permute((2, 1))(L.Dense(5)(L.Dense(7, activation="gelu")(y)))
        x = L.Add()([x, y])
        return L.Add()([x, L.Dense(6)(L.Dense(13, activation="gelu")(_norm(x)))])

    return _stack(block, times)


def conv_mixer(times: int = 4) -> keras.Model:
    def block(x: Tensor, _: int) -> Tensor:
        y = L.Activation("gelu")(L.DepthwiseConv2D(3, padding="same")(x))
        x = L.Add()([L.BatchNormalization()(y), x])
        return L.BatchNormalization()(L.Activation("gelu")(L.Conv2D(6, 1)(x)))

    return _stack(block, times, (8, 8, 6))


def conformer(times: int = 3) -> keras.Model:
    def half(x: Tensor) -> Tensor:
        return x + 0.5 * L.Dense(6)(L.Dense(13, activation="swish")(_norm(x)))

    def block(x: Tensor, _: int) -> Tensor:
        x = half(x)
        y = _norm(x)
        x = x + L.MultiHeadAttention(2, 3)(y, y)
        y = L.Conv1D(12, 1)(_norm(x))
        y = L.DepthwiseConv1D(3, padding="same")(y[..., :6] * ops.sigmoid(y[..., 6:]))
        x = x + L.Conv1D(6, 1)(L.Activation("swish")(L.BatchNormalization()(y)))
        return _norm(half(x))

    return _stack(block, times)


def mobile_net(times: int = 5) -> keras.Model:
    x = inputs = keras.Input((16, 16, 3))
    for width, strides in [(6, 1), (12, 2), *[(12, 1)] * times, (24, 2)]:
        for layer in (
            L.DepthwiseConv2D(3, strides, padding="same", use_bias=False),
            L.Conv2D(width, 1, use_bias=False),
        ):
            x = L.ReLU()(L.BatchNormalization()(layer(x)))
    return keras.Model(inputs, x)


def dense_net(times: int = 5) -> keras.Model:
    x = inputs = keras.Input((8, 8, 7))
    for _ in range(2):
        for _ in range(times):
            y = L.Conv2D(12, 1)(L.ReLU()(L.BatchNormalization()(x)))
            y = L.Conv2D(3, 3, padding="same")(L.ReLU()(L.BatchNormalization()(y)))
            x = L.Concatenate()([x, y])
        x = L.AveragePooling2D(2)(L.Conv2D(7, 1)(L.BatchNormalization()(x)))
    return keras.Model(inputs, x)


def res_net(stages: tuple[int, ...] = (3, 4, 3)) -> keras.Model:
    inputs = keras.Input((16, 16, 5))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(6, 3, padding="same")(inputs)))
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            opens = stage > 0 and block == 0
            width, strides = 6 * 2**stage, 2 if opens else 1
            y = L.Conv2D(width, 3, strides, padding="same")(x)
            y = L.Conv2D(width, 3, padding="same")(L.ReLU()(L.BatchNormalization()(y)))
            y = L.BatchNormalization()(y)
            if opens:
                x = L.BatchNormalization()(L.Conv2D(width, 1, strides)(x))
            x = L.ReLU()(L.Add()([x, y]))
    return keras.Model(inputs, x)


def growing_rates(times: int = 5) -> keras.Model:
    return _stack(lambda x, n: x + L.Dropout(0.05 * n)(L.Dense(6)(_norm(x))), times)


def dilated(times: int = 5) -> keras.Model:
    def block(x: Tensor, number: int) -> Tensor:
        new = functools.partial(L.Conv1D, padding="causal", dilation_rate=2**number)
        y = new(6, 2, activation="tanh")(x) * new(6, 2, activation="sigmoid")(x)
        return x + L.Conv1D(6, 1)(y)

    return _stack(block, times, (32, 6))


def _wave_net(times: int) -> tuple[Tensor, list[Tensor]]:
    """Return the input and what each block with a residual path adds to the result."""
    inputs = keras.Input((32, 3))
    x = L.Conv1D(6, 2, padding="causal")(inputs)
    skipped = []
    for number in range(times):
        new = functools.partial(L.Conv1D, padding="causal", dilation_rate=2**number)
        y = new(6, 2, activation="tanh")(x) * new(6, 2, activation="sigmoid")(x)
        skipped.append(L.Conv1D(7, 1)(y))
        x = x + L.Conv1D(6, 1)(y)
    return inputs, skipped


def wave_net(times: int = 6) -> keras.Model:
    """The outputs of all blocks are added; the last block has no residual path."""
    inputs, skipped = _wave_net(times)
    return keras.Model(inputs, L.Conv1D(5, 1)(L.ReLU()(L.Add()(skipped))))


def wave_net_with_sums(times: int = 6) -> keras.Model:
    """Each block adds its output to those before."""
    inputs, skipped = _wave_net(times)
    return keras.Model(inputs, L.Conv1D(5, 1)(L.ReLU()(functools.reduce(ops.add, skipped))))


def pyramid_net(times: int = 5) -> keras.Model:
    """Each block is wider by 2.4 channels, rounded; its shortcut is padded with zeros."""
    x = inputs = keras.Input((8, 8, 7))
    for stage in range(2):
        for block in range(times):
            opens = stage > 0 and block == 0
            width = 7 + int(2.4 * (stage * times + block + 1))
            y = L.Conv2D(width, 3, 2 if opens else 1, padding="same")(L.BatchNormalization()(x))
            y = L.Conv2D(width, 3, padding="same")(L.ReLU()(L.BatchNormalization()(y)))
            x = L.AveragePooling2D(2)(x) if opens else x
            x = L.Add()([y, ops.pad(x, [[0, 0], [0, 0], [0, 0], [0, width - x.shape[-1]]])])
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


def rev_net(times: int = 4) -> keras.Model:
    inputs = keras.Input((5, 12))
    x, y = ops.split(inputs, 2, axis=-1)
    for _ in range(times):
        x = x + L.Dense(6, activation="relu")(_norm(y))
        y = y + L.Dense(6)(L.Dense(13, activation="gelu")(x))
    return keras.Model(inputs, L.Concatenate()([x, y]))


def alternating(times: int = 6) -> keras.Model:
    def block(x: Tensor, number: int) -> Tensor:
        y = _norm(x)
        return x + L.MultiHeadAttention(2, 3, use_bias=number % 2 == 0)(y, y)

    return _stack(block, times)


def cross_network(times: int = 4) -> keras.Model:
    x = start = keras.Input((7,))
    for _ in range(times):
        x = start * L.Dense(7)(x) + x
    return keras.Model(start, x)


def film(times: int = 4) -> keras.Model:
    x = inputs = keras.Input((7,))
    condition = keras.Input((5,))
    shared = L.Dense(6)(condition)
    for _ in range(times):
        x = L.Dense(7)(x) * L.Activation("sigmoid")(L.Dense(7)(shared))
    return keras.Model([inputs, condition], x)


def shared_block(times: int = 5) -> keras.Model:
    dense, norm = L.Dense(6), L.LayerNormalization()
    return _stack(lambda x, _: x + dense(norm(x)), times)


def states(times: int = 5) -> keras.Model:
    x = inputs = keras.Input((7,))
    found = []
    for _ in range(times):
        x = x + L.Dense(7)(_norm(x))
        found.append(x)
    return keras.Model(inputs, found)


def closed_layers(times: int = 6) -> keras.Model:
    return _stack(lambda x, _: L.MultiHeadAttention(2, 3)(x, x), times)


def nested_models(times: int = 6) -> keras.Model:
    return _stack(lambda x, _: keras.Sequential([L.Dense(13), L.Dense(6)])(x), times)


def cells(times: int = 6) -> keras.Model:
    """Each cell takes the outputs of the two before it, like those of NASNet."""
    inputs = keras.Input((7,))
    before = L.Dense(8)(inputs)
    last = L.Dense(8)(before)
    for _ in range(times):
        one, other = L.Dense(8)(L.ReLU()(before)), L.Dense(8)(L.ReLU()(last))
        joined = [L.Dense(4)(one) + L.Dense(4)(other), L.Dense(4, activation="relu")(other)]
        before, last = last, L.Concatenate()(joined)
    return keras.Model(inputs, L.Dense(3)(last))


def two_streams(times: int = 4) -> keras.Model:
    x = images = keras.Input((5, 6))
    y = words = keras.Input((4, 6))
    for _ in range(times):
        both = L.Concatenate(axis=1)([_norm(x), _norm(y)])
        both = L.MultiHeadAttention(2, 3)(both, both)
        x = x + L.Dense(6)(both[:, :5])
        y = y + L.Dense(6, activation="relu")(both[:, 5:])
    return keras.Model([images, words], [x, y])


# Branches


def many_inputs(number: int = 20) -> keras.Model:
    inputs = [keras.Input((3,)) for _ in range(number)]
    return keras.Model(inputs, L.Dense(2)(L.Concatenate()([L.Dense(4)(x) for x in inputs])))


def ensemble(number: int = 5) -> keras.Model:
    x = keras.Input((7,))
    towers = [L.Dense(1)(L.Dense(8, activation="relu")(x)) for _ in range(number)]
    return keras.Model(x, L.Average()(towers))


def heads_by_hand(number: int = 4) -> keras.Model:
    x = keras.Input((5, 8))
    heads = []
    for _ in range(number):
        query, key, value = (L.Dense(2)(x) for _ in range(3))
        weights = ops.softmax(ops.matmul(query, ops.transpose(key, (0, 2, 1))))
        heads.append(ops.matmul(weights, value))
    return keras.Model(x, L.Dense(8)(L.Concatenate()(heads)))


# Models in which nothing repeats


def towers_of_a_cell() -> keras.Model:
    """Two equal pairs of branches, as in a cell of NASNet; none feeds another one."""
    x = inputs = keras.Input((8, 8, 3))
    x = L.BatchNormalization()(L.Conv2D(8, 3, padding="same")(x))

    def branch() -> Tensor:
        y = L.BatchNormalization()(L.SeparableConv2D(8, 5, padding="same")(L.ReLU()(x)))
        return L.BatchNormalization()(L.SeparableConv2D(8, 5, padding="same")(L.ReLU()(y)))

    return keras.Model(inputs, L.Concatenate()([branch() + branch() for _ in range(2)]))


def u_net() -> keras.Model:
    x = inputs = keras.Input((16, 16, 8))
    levels = []
    for _ in range(3):
        x = L.Conv2D(8, 3, padding="same", activation="relu")(x)
        levels.append(x)
        x = L.MaxPooling2D()(x)
    for _ in range(3):
        x = L.Concatenate()([L.UpSampling2D()(x), levels.pop()])
        x = L.Conv2D(8, 3, padding="same", activation="relu")(x)
    return keras.Model(inputs, x)


def long_skips(times: int = 4) -> keras.Model:
    x = inputs = keras.Input((5, 6))
    kept = []
    for _ in range(times):
        x = x + L.Dense(6)(_norm(x))
        kept.append(x)
    for _ in range(times):
        x = L.Dense(6)(L.Concatenate()([x, kept.pop()]))
        x = x + L.Dense(6)(_norm(x))
    return keras.Model(inputs, x)


def two_long_skips() -> keras.Model:
    return long_skips(2)


def siamese() -> keras.Model:
    tower = [L.Dense(8) for _ in range(2)]
    inputs = [keras.Input((8,)) for _ in range(3)]
    ends = [tower[1](tower[0](x)) for x in inputs]
    return keras.Model(inputs, L.Dense(1)(L.Concatenate()(ends)))


def two_towers() -> keras.Model:
    inputs = [keras.Input((7,)) for _ in range(2)]
    ends = [L.Dense(8)(L.Dense(16, activation="relu")(x)) for x in inputs]
    return keras.Model(inputs, L.Dot(1)(ends))


def funnel() -> keras.Model:
    x = inputs = keras.Input((60,))
    for units in (50, 40, 30, 20, 10):
        x = L.Dense(units)(x)
    return keras.Model(inputs, x)


def several_outputs() -> keras.Model:
    x = keras.Input((7,))
    return keras.Model(x, [L.Dense(3)(x) for _ in range(6)])


def recurrent_encoder_decoder() -> keras.Model:
    sources, targets = keras.Input((7,), dtype="int32"), keras.Input((5,), dtype="int32")
    lstm = functools.partial(L.LSTM, 6, return_sequences=True)
    memory, *state = lstm(return_state=True)(L.Embedding(31, 6)(sources))
    x = lstm()(L.Embedding(31, 6)(targets), initial_state=state)
    return keras.Model([sources, targets], L.Concatenate()([x, L.Attention()([x, memory])]))


def lists_of_everything() -> keras.Model:
    found = [keras.Input((7,))]
    for _ in range(5):
        found.append(L.Dense(4)(L.Concatenate()(found) if len(found) > 1 else found[0]))
    return keras.Model(found[0], found[-1])


REPEATED: dict[Callable[..., keras.Model], list[int]] = {
    residual_dense: [6],
    vision_transformer: [4],
    post_norm: [4],
    attention_by_hand: [3],
    encoder_decoder: [3, 3],
    mixer: [4],
    conv_mixer: [4],
    conformer: [3],
    mobile_net: [5],
    dense_net: [5, 5],
    res_net: [3, 4, 3],
    growing_rates: [5],
    dilated: [5],
    wave_net: [5],
    wave_net_with_sums: [3],
    pyramid_net: [5, 5],
    rev_net: [4],
    alternating: [3],
    cross_network: [4],
    film: [4],
    shared_block: [5],
    states: [5],
    closed_layers: [6],
    nested_models: [6],
    cells: [6],
    two_streams: [4],
    many_inputs: [20],
    ensemble: [5],
    heads_by_hand: [4],
}
"""Model -> how often its blocks or branches repeat, in order."""

DIFFERENT = (
    towers_of_a_cell,
    u_net,
    long_skips,
    two_long_skips,
    siamese,
    two_towers,
    funnel,
    several_outputs,
    recurrent_encoder_decoder,
    lists_of_everything,
)
"""Models in which nothing repeats, although some of it is alike."""
