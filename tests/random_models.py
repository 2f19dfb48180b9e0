"""Random Functional models without names: layers and operations of Keras, wired at random."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

LENGTH, WIDTH = 7, 6

Step = Callable[[Any, Any], Any]
"""From two sequences of vectors, (b, t, d), to one."""


def _attention(causal: bool) -> Step:
    def step(x: Any, y: Any) -> Any:
        return layers.MultiHeadAttention(2, 3)(x, y, use_causal_mask=causal)

    return step


def _scores(mask: bool) -> Step:
    def step(x: Any, y: Any) -> Any:
        query, key = layers.Dense(WIDTH)(x), layers.Dense(WIDTH)(y)
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / WIDTH**0.5
        if mask:
            scores = scores + (1.0 - np.tri(LENGTH, dtype="float32")) * -1e9
        return ops.matmul(ops.softmax(scores), y)

    return step


def _recurrent(kind: type, both_ways: bool = False) -> Step:
    def step(x: Any, _: Any) -> Any:
        if both_ways:
            return layers.Bidirectional(kind(3, return_sequences=True))(x)
        return kind(WIDTH, return_sequences=True)(x)

    return step


def _sinusoids() -> np.ndarray:
    angles = np.arange(LENGTH)[:, None] * 10000.0 ** (-np.arange(0, WIDTH, 2) / WIDTH)
    return np.stack((np.sin(angles), np.cos(angles)), -1).reshape(LENGTH, WIDTH).astype("float32")


STEPS: dict[str, Step] = {
    "dense": lambda x, _: layers.Dense(WIDTH, activation="gelu")(x),
    "sum": lambda x, y: layers.Add()([x, y]),
    "difference": lambda x, y: x - y,
    "product": lambda x, y: x * ops.sigmoid(y),
    "mean": lambda x, y: layers.Average()([x, y]),
    "concatenation": lambda x, y: layers.Dense(WIDTH)(layers.Concatenate()([x, y])),
    "layer norm": lambda x, _: layers.LayerNormalization()(x),
    "RMS norm": lambda x, _: layers.RMSNormalization()(x),
    "batch norm": lambda x, _: layers.BatchNormalization()(x),
    "dropout": lambda x, _: layers.Dropout(0.2)(x),
    "causal attention": _attention(causal=True),
    "attention": _attention(causal=False),
    "causal scores": _scores(mask=True),
    "scores": _scores(mask=False),
    "causal convolution": lambda x, _: layers.Conv1D(WIDTH, 3, padding="causal")(x),
    "dilated": lambda x, _: layers.Conv1D(WIDTH, 2, padding="causal", dilation_rate=2)(x),
    "convolution": lambda x, _: layers.Conv1D(WIDTH, 3, padding="same")(x),
    "depthwise": lambda x, _: layers.DepthwiseConv1D(3, padding="same")(x),
    "GRU": _recurrent(layers.GRU),
    "LSTM": _recurrent(layers.LSTM),
    "both ways": _recurrent(layers.SimpleRNN, both_ways=True),
    "reversed": lambda x, _: ops.flip(x, 1),
    "running sum": lambda x, _: ops.cumsum(x, 1) / 3.0,
    "shifted": lambda x, _: ops.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1],
    "shifted back": lambda x, _: ops.pad(x, ((0, 0), (0, 1), (0, 0)))[:, 1:],
    "rolled": lambda x, _: ops.roll(x, 1, axis=1),
    "minus the mean over time": lambda x, _: x - ops.mean(x, axis=1, keepdims=True),
    "minus the mean of the batch": lambda x, _: x - ops.mean(x, axis=0, keepdims=True),
    "softmax over time": lambda x, _: ops.softmax(x, axis=1),
    "pooling": lambda x, _: layers.MaxPooling1D(3, 1, padding="same")(x),
    "positions": lambda x, _: x + _sinusoids(),
    "mixed by a matrix": lambda x, _: ops.swapaxes(
        layers.Dense(LENGTH)(ops.swapaxes(x, 1, 2)), 1, 2
    ),
    "lambda": lambda x, _: layers.Lambda(lambda v: v * 2.0)(x),
    "reshaped": lambda x, _: ops.reshape(
        layers.Dense(4)(ops.reshape(x, (-1, LENGTH, 3, 2)))[..., :2], (-1, LENGTH, WIDTH)
    ),
    "gathered": lambda x, _: ops.take(x, np.arange(LENGTH)[::-1].copy(), axis=1),
}


def random_model(seed: int, steps: int = 6) -> tuple[keras.Model, list[str]]:
    """Return a model from ids or vectors to vectors, (b, t, 5), and the steps it consists of."""
    random = np.random.default_rng(seed)
    if random.random() < 0.5:
        inputs = keras.Input((LENGTH,), dtype="int32")
        x = layers.Embedding(11, WIDTH)(inputs)
    else:
        inputs = keras.Input((LENGTH, 5))
        x = layers.Dense(WIDTH)(inputs)
    states, chosen = [x], []
    for name in random.choice(list(STEPS), int(random.integers(1, steps + 1))):
        # Mostly the last state, so that most models are deep and some are wide.
        first = states[-1] if random.random() < 0.8 else states[int(random.integers(len(states)))]
        states.append(STEPS[name](first, states[int(random.integers(len(states)))]))
        chosen.append(str(name))
    outputs = layers.Dense(5)(states[-1])
    return keras.Model(inputs, outputs), chosen
