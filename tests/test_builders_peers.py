"""Layers agree with the equivalent layers of KerasHub."""

from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
from keras_hub.src.models.gemma.rms_normalization import RMSNormalization as GemmaNorm
from keras_hub.src.models.llama.llama_rotary_embedding import LlamaRotaryEmbedding
from keras_hub.src.models.t5.t5_multi_head_attention import T5MultiHeadAttention
from small_models import as_array

from builders import TransformerSpec
from builders.components import component
from builders.norms import UnitOffsetRMSNormalization
from builders.positions import ALiBiBias, RelativePositionBias
from builders.rotary import RotaryPositions

ROWS, LENGTH, HEADS, WIDTH = 2, 37, 3, 22


def random_heads(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(ROWS, LENGTH, HEADS, WIDTH)).astype("float32")


def rotary_spec(**fields: Any) -> TransformerSpec:
    sizes = {"vocabulary_size": 31, "num_layers": 1, "hidden_dim": HEADS * WIDTH}
    return TransformerSpec(**sizes, num_heads=HEADS, positions="rotary", **fields)


def rotate(x: np.ndarray, **fields: Any) -> np.ndarray:
    spec = rotary_spec(**fields)
    layer = RotaryPositions(*component("rotary_scaling", spec.rotary_scaling)(spec))
    return as_array(layer(x, np.arange(x.shape[1], dtype="int32")[None]))


@pytest.mark.parametrize(
    ("fields", "peer"),
    [
        ({}, keras_hub.layers.RotaryEmbedding()),
        ({"rotary_base": 1e6}, keras_hub.layers.RotaryEmbedding(max_wavelength=1e6)),
        (
            {"rotary_scaling": "linear", "rotary_factor": 3.7},
            keras_hub.layers.RotaryEmbedding(scaling_factor=3.7),
        ),
        (
            {
                "rotary_scaling": "llama3",
                "rotary_factor": 8.0,
                "rotary_original_length": 29,
            },
            LlamaRotaryEmbedding(
                frequency_adjustment_factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                pretraining_sequence_length=29,
            ),
        ),
        (
            {
                "rotary_scaling": "yarn",
                "rotary_factor": 8.0,
                "rotary_original_length": 1021,
                "rotary_high_freq_factor": 32.0,
            },
            keras_hub.layers.RotaryEmbedding(
                rope_type="yarn", scaling_factor=8.0, original_max_position_embeddings=1021
            ),
        ),
    ],
    ids=["plain", "base", "linear", "llama3", "yarn"],
)
def test_rotary_positions_equal_those_of_keras_hub(
    fields: dict[str, Any], peer: keras.layers.Layer
) -> None:
    x = random_heads()
    np.testing.assert_allclose(rotate(x, **fields), as_array(peer(x)), atol=2e-5)


@pytest.mark.parametrize("num_heads", [1, 2, 3, 5, 8, 13, 112])
def test_alibi_biases_equal_those_of_keras_hub(num_heads: int) -> None:
    """The bias in KerasHub differs by a constant for each query, which softmax ignores."""
    positions = np.arange(11, dtype="int32")[None]
    ours = as_array(ALiBiBias(num_heads)(positions, positions))
    scores = np.zeros((1, num_heads, 11, 11), "float32")
    theirs = as_array(keras_hub.layers.AlibiBias()(scores))
    for query in range(11):
        shift = theirs[..., query, query : query + 1]
        np.testing.assert_allclose(
            ours[..., query, : query + 1], theirs[..., query, : query + 1] - shift, atol=1e-5
        )


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (12, 37), (20, 64)])
def test_relative_buckets_equal_those_of_keras_hub(
    causal: bool, buckets: int, distance: int
) -> None:
    """Also where the logarithm is an integer, which rounding may miss."""
    layer = RelativePositionBias(1, buckets, distance, causal)
    layer.build()
    layer.embeddings.assign(np.arange(buckets, dtype="float32")[:, None])
    distances = np.arange(-700, 701, dtype="int32")
    found = as_array(layer(np.zeros((1, 1), "int32"), distances[None]))[0, 0, 0]
    peer = T5MultiHeadAttention._relative_position_bucket(
        keras.ops.convert_to_tensor(distances), not causal, buckets, distance
    )
    np.testing.assert_array_equal(found, as_array(peer))


def test_a_unit_offset_norm_equals_the_gemma_norm_of_keras_hub() -> None:
    ours, theirs = UnitOffsetRMSNormalization(epsilon=1e-6), GemmaNorm(epsilon=1e-6)
    x = random_heads()
    gain = np.random.default_rng(1).normal(size=WIDTH).astype("float32")
    for layer in (ours, theirs):
        layer.build(x.shape)
        layer.scale.assign(gain)
    np.testing.assert_allclose(as_array(ours(x)), as_array(theirs(x)), atol=1e-5)


@pytest.mark.parametrize(
    ("base", "length", "divisor"),
    [(10_000.0, 1, 1.0), (2.0, 10**6, 8.0)],
    ids=["fewer rotations", "more rotations"],
)
def test_yarn_is_that_of_its_authors_where_no_pair_is_between_the_limits(
    base: float, length: int, divisor: float
) -> None:
    """Where the first pair comes after the last one, the slope of the authors' ramp is negative.

    https://github.com/jquesnelle/yarn, `_yarn_find_correction_range` and `_yarn_linear_ramp_mask`.
    """
    spec = rotary_spec(
        rotary_base=base,
        rotary_scaling="yarn",
        rotary_factor=8.0,
        rotary_original_length=length,
        rotary_high_freq_factor=32.0,
    )
    frequencies, _ = component("rotary_scaling", "yarn")(spec)
    plain = base ** -(np.arange(WIDTH // 2) / (WIDTH // 2))
    np.testing.assert_allclose(frequencies, plain / divisor, rtol=1e-12)
