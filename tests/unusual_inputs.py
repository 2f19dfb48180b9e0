"""More models of `unusual_models`: random numbers, states, precisions, and other inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from unusual_models import (
    TOKENS,
    WIDTH,
    Counter,
    Noise,
    attended,
    causal,
    embedded,
    ids,
    scored,
    truth,
)

# Random numbers, states and precisions ------------------------------------------------------------


@truth("batch random", "causality causal")
def noise_in_inference() -> keras.Model:
    tokens = ids()
    return scored(tokens, causal(Noise()(embedded(tokens))))


@truth("batch random")
def variational_autoencoder() -> keras.Model:
    x = keras.Input((12,))
    hidden = layers.Dense(WIDTH, activation="relu")(x)
    mean, spread = layers.Dense(3)(hidden), layers.Dense(3)(hidden)
    noise = Noise()(ops.zeros_like(mean))
    return keras.Model(x, [mean, spread, layers.Dense(12)(mean + ops.exp(spread) * noise)])


@truth("")
def augmentation_that_rests_in_inference() -> keras.Model:
    image = keras.Input((16, 16, 3))
    x = layers.GaussianNoise(0.1)(layers.RandomFlip()(image))
    return keras.Model(image, layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(x)))


@truth("causality causal", "order known")
def counter_of_calls() -> keras.Model:
    tokens = ids()
    return scored(tokens, causal(Counter()(embedded(tokens))))


@truth("causality causal", "order known")
def frozen_batch_norm() -> keras.Model:
    tokens = ids()
    norm = layers.BatchNormalization(trainable=False)
    return scored(tokens, norm(causal(embedded(tokens))))


@truth("causality causal", "finding causality all", "order known")
def batch_norm_that_trains() -> keras.Model:
    tokens = ids()
    return scored(tokens, layers.BatchNormalization()(causal(embedded(tokens))))


@truth("causality causal", "order known")
def low_rank_adapters() -> keras.Model:
    tokens = ids()
    dense = layers.Dense(16)
    x = dense(causal(embedded(tokens)))
    dense.enable_lora(2)
    return scored(tokens, x)


@truth("")
def scores_of_minus_infinity() -> keras.Model:
    x = keras.Input((6,))
    allowed = np.array([True, True, False, True, True])
    return keras.Model(x, ops.where(allowed, layers.Dense(5)(x), -np.inf))


@truth("causality itself", "order unknown")
def quantized_to_int8() -> keras.Model:
    tokens = ids()
    model = scored(tokens, layers.Dense(16, activation="relu")(embedded(tokens)))
    with warnings.catch_warnings():  # the input has nothing to quantize
        warnings.simplefilter("ignore")
        model.quantize("int8")
    return model


def of_half_precision(function: Callable[[Any], Any], policy: str = "mixed_float16") -> keras.Model:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        x = keras.Input((7, 6))
        y = function(layers.Dense(WIDTH)(x))
        return keras.Model(x, layers.Dense(3, dtype="float32")(y))
    finally:
        keras.config.set_dtype_policy(before)


@truth("finding numbers not finite")
def squares_beyond_the_range_of_float16() -> keras.Model:
    return of_half_precision(lambda x: layers.LayerNormalization()(ops.square(x * 300.0)))


@truth("causality itself", "finding numbers vanishing", "order unknown")
def squares_below_the_range_of_float16() -> keras.Model:
    return of_half_precision(lambda x: ops.cast(ops.square(x * 1e-4), "float32") * 1e8)


@truth("causality itself", "order unknown")
def squares_in_the_range_of_bfloat16() -> keras.Model:
    return of_half_precision(
        lambda x: ops.cast(ops.square(x * 1e-4), "float32") * 1e8, "mixed_bfloat16"
    )


# Inputs of other kinds ----------------------------------------------------------------------------


@truth("")
def image_of_bytes() -> keras.Model:
    image = keras.Input((24, 24, 3), dtype="uint8")
    x = layers.BatchNormalization()(layers.Conv2D(WIDTH, 3)(layers.Rescaling(1 / 255)(image)))
    return keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(layers.ReLU()(x))))


@truth("")
def integers_that_are_no_ids() -> keras.Model:
    x = keras.Input((4,), dtype="int32")
    hidden = layers.Dense(WIDTH, activation="relu")(ops.cast(x, "float32") / 100.0)
    return keras.Model(x, layers.Dense(1)(hidden))


@truth("order known")
def million_words() -> keras.Model:
    tokens = ids()
    return keras.Model(tokens, layers.GRU(6)(layers.Embedding(1_000_000, 4)(tokens)))


@truth("")
def one_number() -> keras.Model:
    x = keras.Input(())
    return keras.Model(x, layers.Dense(2)(layers.Dense(4, activation="tanh")(x[:, None])))


@truth("")
def one_id() -> keras.Model:
    token = keras.Input((), dtype="int32")
    return keras.Model(token, layers.Dense(2)(layers.Embedding(11, 4)(token)))


@truth("order known")
def video() -> keras.Model:
    frames = keras.Input((5, 16, 16, 3))
    x = layers.Conv3D(4, 3, padding="same")(frames)
    x = layers.ConvLSTM2D(4, 3, return_sequences=True)(x)
    return keras.Model(frames, layers.Dense(2)(layers.GlobalAveragePooling3D()(x)))


@truth("batch pairs")
def scores_of_all_pairs_in_a_batch() -> keras.Model:
    left, right = keras.Input((WIDTH,)), keras.Input((WIDTH,))
    products = ops.matmul(layers.Dense(4)(left), ops.transpose(layers.Dense(4)(right)))
    return keras.Model([left, right], products)


@truth("finding dead weights dead")
def softmax_of_one_score() -> keras.Model:
    x = keras.Input((6,))
    return keras.Model(x, layers.Dense(1, activation="softmax")(layers.Dense(4)(x)))


# Mistakes that only running shows -----------------------------------------------------------------


class TokensAndPositions(layers.Layer):
    """The embedding of keras.io's examples: both tables are inside of it."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.words = layers.Embedding(TOKENS, WIDTH)
        self.places = layers.Embedding(length, WIDTH)

    def call(self, tokens: Any) -> Any:
        return self.words(tokens) + self.places(ops.arange(self.length))


@truth("causality causal", "order known")
def tables_inside_of_a_layer() -> keras.Model:
    tokens = ids(11)
    return scored(tokens, causal(TokensAndPositions(11)(tokens)))


@truth("finding causality first", "order known", "remark dead weights dead")
def first_position_behind_a_causal_mask() -> keras.Model:
    tokens = ids(11)
    x = causal(TokensAndPositions(11)(tokens))
    return keras.Model(tokens, layers.Dense(3)(x[:, 0]))


@truth("finding numbers not finite")
def roots_of_zero() -> keras.Model:
    x = keras.Input((6,))
    h = layers.Dense(13)(x)
    positive = h * ops.cast(h > 0, h.dtype)  # JAX defines the gradients of `relu` behind a root
    return keras.Model(x, layers.Dense(3)(ops.sqrt(positive)))


@truth("finding padding seen", "order unknown")
def mean_over_one_length() -> keras.Model:
    tokens = ids(11)
    real = ops.cast(ops.not_equal(tokens, 0), "float32")[..., None]
    x = layers.Dense(5, activation="tanh")(embedded(tokens)) * real
    return keras.Model(tokens, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


@truth("finding batch mixed", "padding ignored", "order unknown")
def padding_counted_in_all_samples() -> keras.Model:
    tokens = ids(11)
    real = ops.cast(ops.not_equal(tokens, 0), "float32")[..., None]
    x = layers.Dense(5, activation="tanh")(embedded(tokens)) * real
    return keras.Model(tokens, layers.Dense(3)(ops.sum(x, axis=1) / ops.sum(real)))


@truth("finding dead weights dead")
def comparison_for_a_gate() -> keras.Model:
    x = keras.Input((6,))
    gate = layers.Dense(13, activation="sigmoid")(x)
    hard = layers.Lambda(lambda p: ops.cast(p > 0.5, "float32"))(gate)
    return keras.Model(x, layers.Dense(3)(layers.Dense(13)(x) * hard))


@truth("causality all", "causality causal", "order known")
def encoder_decoder_of_a_family_of_decoders() -> keras.Model:
    """Its name claims a causal mask, which the decoder has."""
    source, target = ids(11), ids(11)
    memory = attended(TokensAndPositions(11)(source))
    x = attended(causal(TokensAndPositions(11)(target)), memory)
    return keras.Model([source, target], [memory, layers.Dense(TOKENS)(x)], name="t5_gemma")
