"""Models of public patterns that are seldom, and what running each of them shows.

A truth is written as `plots.check` says it: "causality causal" for a statement, "finding causality
window" for a finding, "remark ..." for a remark. Statements that every model gets, such as that
numbers are finite, are left out, so that a model with nothing to say about it has "".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

TOKENS, WIDTH, HEADS = 29, 8, 2
WORDS = ["the", "cat", "sat", "mat", "on", "dog"]

UNUSUAL: dict[str, tuple[Callable[[], keras.Model], str]] = {}
NEEDS_TEXTS: set[str] = set()


def truth(*lines: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Decorator that registers a model under its name, with what is true of it."""

    def register(build: Callable[[], Any]) -> Callable[[], Any]:
        UNUSUAL[build.__name__] = build, "; ".join(sorted(lines))
        return build

    return register


def ids(length: int | None = None, name: str | None = None) -> Any:
    return keras.Input((length,), dtype="int32", name=name)


def embedded(tokens: Any, mask_zero: bool = False) -> Any:
    return layers.Embedding(TOKENS, WIDTH, mask_zero=mask_zero)(tokens)


def attended(x: Any, memory: Any = None, **options: Any) -> Any:
    memory = x if memory is None else memory
    return x + layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(x, memory, **options)


def causal(x: Any, **options: Any) -> Any:
    return attended(x, use_causal_mask=True, **options)


def scored(tokens: Any, x: Any) -> keras.Model:
    return keras.Model(tokens, layers.Dense(TOKENS)(x))


class ClassToken(layers.Layer):
    """A learned vector in front: (b, t, d) -> (b, t + 1, d)."""

    def build(self, shape: Any) -> None:
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="random_normal")

    def call(self, x: Any) -> Any:
        return ops.concatenate([ops.repeat(self.token, ops.shape(x)[0], axis=0), x], axis=1)


class Latents(layers.Layer):
    """Learned vectors, as many for every sample: (b, t, d) -> (b, 7, d)."""

    def build(self, shape: Any) -> None:
        self.latents = self.add_weight(shape=(1, 7, WIDTH), initializer="random_normal")

    def call(self, x: Any) -> Any:
        return ops.repeat(self.latents, ops.shape(x)[0], axis=0)


class Noise(layers.Layer):
    """Noise in training and in inference."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = keras.random.SeedGenerator(3)

    def call(self, x: Any) -> Any:
        return x + keras.random.normal(ops.shape(x), seed=self.generator)


class Counter(layers.Layer):
    """A layer that counts its calls and returns its input."""

    def build(self, shape: Any) -> None:
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, dtype="int32")

    def call(self, x: Any) -> Any:
        self.calls.assign(self.calls + 1)
        return x + 0.0


# Convolutions and recurrences ---------------------------------------------------------------------


def wavenet(paddings: list[str]) -> keras.Model:
    tokens = ids()
    x, skips = embedded(tokens), []
    for power, padding in enumerate(paddings):
        options = {"dilation_rate": 2**power, "padding": padding}
        gate = layers.Conv1D(WIDTH, 2, activation="sigmoid", **options)(x)
        gated = layers.Conv1D(WIDTH, 2, activation="tanh", **options)(x) * gate
        skips.append(layers.Conv1D(WIDTH, 1)(gated))
        x = x + skips[-1]
    return scored(tokens, layers.Add()(skips))


@truth("causality causal", "order known")
def wavenet_of_causal_convolutions() -> keras.Model:
    return wavenet(["causal"] * 4)


@truth("causality window", "finding causality window", "order known")
def wavenet_with_a_convolution_of_both_sides() -> keras.Model:
    return wavenet(["causal", "same", "causal"])


@truth("order known")
def causal_convolutions_with_strides() -> keras.Model:
    x = keras.Input((24, 3))
    y = layers.Conv1D(WIDTH, 3, strides=2, padding="causal")(x)
    return keras.Model(x, layers.Conv1D(WIDTH, 3, strides=2, padding="causal")(y))


@truth("causality aligned", "order known")
def convolutions_without_padding() -> keras.Model:
    tokens = ids()
    return scored(tokens, layers.Conv1D(WIDTH, 3)(layers.Conv1D(WIDTH, 3)(embedded(tokens))))


@truth("causality all", "finding causality all", "order known")
def squeeze_and_excitation_over_time() -> keras.Model:
    x = keras.Input((None, 4))
    y = layers.Conv1D(WIDTH, 3, padding="causal")(x)
    gate = layers.GlobalAveragePooling1D(keepdims=True)(y)
    return keras.Model(x, y * layers.Dense(WIDTH, activation="sigmoid")(gate))


@truth("causality window", "order known")
def unet_of_series() -> keras.Model:
    x = keras.Input((32, 2))
    fine = layers.Conv1D(WIDTH, 3, padding="same", activation="relu")(x)
    coarse = layers.Conv1D(WIDTH, 3, padding="same")(layers.MaxPooling1D(2)(fine))
    joined = layers.Concatenate()([fine, layers.UpSampling1D(2)(coarse)])
    return keras.Model(x, layers.Conv1D(2, 3, padding="same")(joined))


@truth("causality all", "order known", "padding ignored", "remark causality all")
def bidirectional_recurrence() -> keras.Model:
    tokens = ids()
    recurrent = layers.Bidirectional(layers.LSTM(4, return_sequences=True))
    return scored(tokens, recurrent(embedded(tokens, mask_zero=True)))


@truth("causality causal", "order known")
def stateful_recurrence() -> keras.Model:
    x = keras.Input(batch_shape=(4, 11, 3))
    return keras.Model(x, layers.LSTM(5, return_sequences=True, stateful=True)(x))


@truth("causality some", "order known")
def recurrence_that_looks_two_steps_ahead() -> keras.Model:
    x = keras.Input((None, 3))
    ahead = ops.pad(x[:, 2:], ((0, 0), (0, 2), (0, 0)))
    return keras.Model(x, layers.GRU(5, return_sequences=True)(layers.Concatenate()([x, ahead])))


@truth("causality future", "remark causality future", "order known")
def recurrence_between_lambdas_that_reverse() -> keras.Model:
    def reversed_in_time(x: Any) -> Any:
        return layers.Lambda(lambda v: ops.flip(v, axis=1), output_shape=(None, WIDTH))(x)

    tokens = ids()
    x = layers.LSTM(WIDTH, return_sequences=True)(reversed_in_time(embedded(tokens)))
    return scored(tokens, reversed_in_time(x))


@truth("causality itself", "remark dead weights dead")  # of the recurrent kernel
def one_step() -> keras.Model:
    x = keras.Input((1, 6))
    return keras.Model(x, layers.LSTM(5, return_sequences=True)(x))


# Transformers -------------------------------------------------------------------------------------


@truth("causality aligned", "order known")
def class_token_in_front_of_a_causal_decoder() -> keras.Model:
    tokens = ids(11)
    return scored(tokens, causal(ClassToken()(embedded(tokens))))


@truth("finding causality future", "order known")
def class_token_and_an_inverted_mask() -> keras.Model:
    tokens = ids(11)
    mask = np.triu(np.ones((1, 12, 12), bool), 1)
    return scored(tokens, attended(ClassToken()(embedded(tokens)), attention_mask=mask))


@truth("causality aligned", "order known")
def causal_decoder_without_the_first_output() -> keras.Model:
    tokens = ids()
    return scored(tokens, causal(embedded(tokens))[:, 1:])


@truth("causality causal", "order known")
def decoder_that_shifts_its_tokens() -> keras.Model:
    tokens = ids()
    return scored(tokens, causal(ops.pad(embedded(tokens)[:, :-1], ((0, 0), (1, 0), (0, 0)))))


@truth("causality causal", "order known")
def hourglass_with_a_shift() -> keras.Model:
    tokens = ids(24)
    x = embedded(tokens)
    short = layers.AveragePooling1D(3)(layers.ZeroPadding1D((2, 0))(x)[:, :-2])
    return scored(tokens, causal(x + ops.repeat(causal(short), 3, axis=1)))


@truth("causality some", "finding causality some", "order known")
def hourglass_without_a_shift() -> keras.Model:
    tokens = ids(24)
    x = embedded(tokens)
    return scored(tokens, causal(x + ops.repeat(causal(layers.AveragePooling1D(3)(x)), 3, axis=1)))


@truth("remark order unknown")
def perceiver() -> keras.Model:
    x = keras.Input((23, 6))
    latents = attended(attended(Latents()(x), layers.Dense(WIDTH)(x)))
    return keras.Model(x, layers.Dense(5)(layers.GlobalAveragePooling1D()(latents)))


@truth("remark order unknown")  # it has no positions
def vision_transformer_with_a_class_token() -> keras.Model:
    image = keras.Input((16, 16, 3))
    patches = layers.Reshape((16, WIDTH))(layers.Conv2D(WIDTH, 4, strides=4)(image))
    return keras.Model(image, layers.Dense(10)(attended(ClassToken()(patches))[:, 0]))


def translator(masks_memory: bool) -> keras.Model:
    source, target = ids(name="source"), ids(name="target")
    is_real = ops.expand_dims(ops.not_equal(source, 0), 1)
    memory = attended(embedded(source), attention_mask=is_real)
    x = causal(embedded(target), attention_mask=ops.expand_dims(ops.not_equal(target, 0), 1))
    x = attended(x, memory, attention_mask=is_real if masks_memory else None)
    outputs = layers.Dense(TOKENS)(x)
    return keras.Model({"source": source, "target": target}, {"scores": outputs})


_TRANSLATOR = ("causality causal", "order known", "padding ignored", "remark order unknown")


@truth(*_TRANSLATOR)
def encoder_decoder_with_masks_from_ids() -> keras.Model:
    return translator(masks_memory=True)


@truth(*_TRANSLATOR, "finding padding seen")
def encoder_decoder_without_a_mask_on_the_memory() -> keras.Model:
    return translator(masks_memory=False)


@truth("causality causal", "order known", "padding ignored")
def decoder_for_padding_on_the_left() -> keras.Model:
    tokens = ids()
    real = ops.not_equal(tokens, 0)
    place = ops.maximum(ops.cumsum(ops.cast(real, "int32"), axis=1) - 1, 0)
    x = embedded(tokens) + layers.Embedding(64, WIDTH)(place)
    return scored(tokens, causal(x, attention_mask=ops.expand_dims(real, 1)))


# Padding ------------------------------------------------------------------------------------------


def of_real_vectors(reduce: Callable[[Any, Any], Any]) -> keras.Model:
    tokens = ids()
    real = ops.cast(ops.not_equal(tokens, 0), "float32")[..., None]
    return keras.Model(tokens, layers.Dense(3)(reduce(embedded(tokens) * real, real)))


@truth("order unknown", "padding ignored")
def mean_of_the_real_vectors() -> keras.Model:
    return of_real_vectors(lambda x, real: ops.sum(x, axis=1) / ops.sum(real, axis=1))


@truth("finding padding seen", "order unknown")
def mean_that_divides_by_the_padded_length() -> keras.Model:
    return of_real_vectors(lambda x, real: ops.mean(x, axis=1))


@truth("order known", "padding ignored")
def masking_of_a_number() -> keras.Model:
    x = keras.Input((None, 5))
    return keras.Model(x, layers.GRU(4)(layers.Masking(-1.0)(x)))


@truth("order known", "remark padding seen")
def classifier_of_the_last_position() -> keras.Model:
    tokens = ids()
    real = ops.expand_dims(ops.not_equal(tokens, 0), 1)
    x = causal(embedded(tokens), attention_mask=real)
    return keras.Model(tokens, layers.Dense(3)(x[:, -1]))


@truth("causality causal", "order known")
def id_that_is_a_feature() -> keras.Model:
    tokens = ids()
    is_end = ops.cast(ops.equal(tokens, 7), "float32")[..., None]
    return scored(tokens, causal(layers.Concatenate()([embedded(tokens), is_end])))


@truth("causality causal", "order known")
def id_whose_vector_is_hidden() -> keras.Model:
    tokens = ids()
    x = embedded(tokens)
    return scored(tokens, causal(ops.where(ops.equal(tokens, 4)[..., None], 0.0, x)))


def texts(mask_zero: bool) -> keras.Model:
    text = keras.Input((1,), dtype="string")
    split = layers.TextVectorization(vocabulary=WORDS, output_sequence_length=12)
    x = layers.Embedding(10, WIDTH, mask_zero=mask_zero)(split(text))
    pooled = layers.GlobalAveragePooling1D()(x)
    return keras.Model(text, layers.Dense(3)(pooled))


@truth("padding ignored")
def texts_with_masked_padding() -> keras.Model:
    return texts(mask_zero=True)


@truth("finding padding seen")
def texts_whose_mask_is_lost() -> keras.Model:
    text = keras.Input((1,), dtype="string")
    split = layers.TextVectorization(vocabulary=WORDS, output_sequence_length=12)
    x = ops.tanh(layers.Embedding(10, WIDTH, mask_zero=True)(split(text)))
    return keras.Model(text, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


@truth("causality causal")
def tagger_of_texts() -> keras.Model:
    text = keras.Input((), dtype="string")
    split = layers.TextVectorization(vocabulary=WORDS, output_sequence_length=12)
    x = causal(layers.Embedding(10, WIDTH)(split(text)))
    return keras.Model(text, layers.Dense(10)(x))


@truth("")
def looked_up_words() -> keras.Model:
    text, numbers = keras.Input((1,), dtype="string"), keras.Input((3,))
    x = layers.Flatten()(layers.Embedding(5, 4)(layers.StringLookup(vocabulary=WORDS[:3])(text)))
    return keras.Model([text, numbers], layers.Dense(2)(layers.Concatenate()([x, numbers])))


NEEDS_TEXTS |= {"texts_with_masked_padding", "texts_whose_mask_is_lost", "tagger_of_texts"}
NEEDS_TEXTS |= {"looked_up_words"}
