"""Residual streams of models without names: several side by side, and sums within branches."""

import keras
import pytest
from keras import layers, ops

import plots
from plots.skips import mark_skip_paths
from plots.streams import residual_streams

BLOCKS = 3


def norm(x):
    return layers.LayerNormalization()(x)


def attention(x):
    y = norm(x)
    return layers.MultiHeadAttention(2, 3)(y, y)


def feedforward(x):
    return layers.Dense(6)(layers.Dense(13, activation="gelu")(norm(x)))


def streams_of(graph):
    return [(stream.root, len(stream.paths)) for stream in residual_streams(graph)]


def halves(x):
    return ops.split(layers.Dense(12)(x), 2, axis=-1)


def test_two_halves_have_a_stream_each():
    x = keras.Input((5, 7), name="x")
    a, b = halves(x)
    for _ in range(BLOCKS):
        a, b = a + feedforward(a), b + feedforward(b)
    graph = mark_skip_paths(plots.read_graph(keras.Model(x, [a, b])))
    assert streams_of(graph) == [("split#1", BLOCKS)] * 2


def reversible(x, begin):
    """Gomez et al. 2017, The Reversible Residual Network, equation 6, with the sublayers of a
    Reformer."""
    a, b = begin(x)
    for _ in range(BLOCKS):
        a = a + attention(b)
        b = b + feedforward(a)
    return keras.Model(x, norm(layers.Concatenate()([a, b])))


def test_the_streams_of_a_reversible_network_that_begin_as_one_value_are_two():
    model = reversible(keras.Input((5, 6), name="x"), lambda x: (x, x))
    graph = mark_skip_paths(plots.read_graph(model))
    assert len(graph.skip_paths) == 2 * BLOCKS
    assert streams_of(graph) == [("x", BLOCKS)] * 2
    assert not any(stream.long_paths for stream in residual_streams(graph))
    assert f"Pre-norm Transformer encoder: {BLOCKS} blocks with {2 * BLOCKS} residual paths" in (
        " ".join(plots.diagnosis_text(graph).split())
    )
    assert plots.findings(graph) == ()


def test_the_first_sum_of_a_reversible_network_is_of_two_halves():
    graph = mark_skip_paths(plots.read_graph(reversible(keras.Input((5, 7)), halves)))
    assert streams_of(graph) == [("split#1", BLOCKS), ("add#1", BLOCKS - 1)]


def test_a_path_around_a_stack_is_a_long_one_of_its_stream():
    x = y = keras.Input((5, 6), name="x")
    for _ in range(BLOCKS):
        y = y + feedforward(y)
    graph = mark_skip_paths(plots.read_graph(keras.Model(x, x + feedforward(y))))
    (stream,) = residual_streams(graph)
    assert (stream.root, len(stream.paths), len(stream.long_paths)) == ("x", BLOCKS, 1)


def low_rank_first(x):
    y = norm(x)
    low = y + norm(layers.Dense(6)(layers.Dense(2)(y)))
    return (x + norm(layers.MultiHeadAttention(2, 3)(y, y))) + low


def low_rank_last(x):
    y = norm(x)
    x = x + norm(layers.MultiHeadAttention(2, 3)(y, y))
    return x + (y + norm(layers.Dense(6)(layers.Dense(2)(y))))


NORMED = "layer_normalization#1"


@pytest.mark.parametrize("sublayer", [low_rank_first, low_rank_last])
def test_a_value_within_a_branch_has_no_path_to_the_stream_that_its_sum_is_added_to(sublayer):
    """As in Gemma 3n, with LAuReL (Menghani et al. 2024, equation 3) on the normed stream.

    The normed stream has a path to its sum with a low-rank map, and none to the sum with the stream
    that it was computed from.
    """
    x = keras.Input((5, 6), name="x")
    paths = plots.skip_paths(plots.read_graph(keras.Model(x, sublayer(x))))
    assert [(path.source, path.target) for path in paths] == [
        ("x", "add#1"),
        (NORMED, "add#2"),
        ("x", "add#3"),
    ]
    y = x
    for _ in range(BLOCKS):
        y = sublayer(y) * 0.5**0.5
        y = y + norm(feedforward(y))
    assert len(plots.skip_paths(plots.read_graph(keras.Model(x, y)))) == 4 * BLOCKS
