"""Arrays and long lists in configurations are described by shape, dtype and digest."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from keras import layers, ops

import builders
import plots
from plots.reading.arrays import MOST_VALUES, description_of

MATRIX = np.random.default_rng(7).normal(size=(11, 13)).astype("float32")
OTHER = MATRIX.copy()
OTHER[7, 5] = np.nextafter(OTHER[7, 5], 9)  # as small a difference as there is


def nearly(values):
    """Return equal values, but for one in the middle."""
    return [*values[:70], values[70] * 2, *values[71:]]


class Table(layers.Layer):
    """A layer that keeps an array as it is, without a `get_config`."""

    def __init__(self, table, **options):
        super().__init__(**options)
        self.table = table

    def call(self, x):
        return x


class Configured(Table):
    def get_config(self):
        return {**super(Table, self).get_config(), "table": self.table}


WORDS = [f"word {number}" for number in range(150)]
MADE = {
    "an initializer": (
        lambda value: layers.Dense(13, kernel_initializer=keras.initializers.Constant(value)),
        MATRIX,
        OTHER,
    ),
    "an initializer of a tensor": (
        lambda value: layers.Dense(
            13, kernel_initializer=keras.initializers.Constant(ops.convert_to_tensor(value))
        ),
        MATRIX,
        OTHER,
    ),
    "a vocabulary": (
        lambda value: layers.StringLookup(vocabulary=value),
        WORDS,
        nearly(WORDS),
    ),
    "bins": (
        lambda value: layers.Discretization(bin_boundaries=value),
        list(range(150)),
        list(range(1, 151)),
    ),
    "statistics": (
        lambda value: layers.Normalization(mean=value, variance=np.ones(150)),
        np.arange(150.0),
        np.arange(1.0, 151.0),
    ),
    "an array in a configuration": (Configured, MATRIX, OTHER),
    "an array in an attribute": (Table, MATRIX, OTHER),
    "lists of several lengths": (
        Configured,
        [[number] * (number % 3) for number in range(200)],
        [[number] * (number % 4) for number in range(200)],
    ),
}


def graph_of(layer):
    dtype = "string" if isinstance(layer, layers.StringLookup) else "float32"
    width = 150 if isinstance(layer, layers.Normalization) else 11
    x = keras.Input((width,), dtype=dtype, name="x")
    return plots.read_graph(keras.Model(x, layer(x), name="model"))


@pytest.mark.parametrize(("make", "value", "other"), MADE.values(), ids=MADE)
def test_long_values_are_short_in_graphs_and_still_tell_layers_apart(make, value, other):
    first, same, second = (graph_of(make(v)) for v in (value, value, other))
    text = first.to_json()
    assert len(text) < 6_000
    assert plots.Graph.from_json(text) == first
    assert plots.Graph.from_json(text).to_json() == text
    assert plots.compare_graphs(first, same).is_empty
    assert not plots.compare_graphs(first, second).is_empty


def test_a_difference_of_arrays_shows_their_digests():
    make = MADE["an initializer"][0]
    difference = plots.compare_graphs(graph_of(make(MATRIX)), graph_of(make(OTHER)))
    ((change,),) = (call.changes for call in difference.changed)
    assert change.name == "kernel_initializer"
    assert change.old != change.new
    assert "digest" in change.old


def test_blocks_with_different_arrays_are_not_folded():
    def model(tables):
        x = y = keras.Input((13,), name="x")
        for number, table in enumerate(tables):
            initializer = keras.initializers.Constant(table)
            dense = layers.Dense(13, kernel_initializer=initializer, name=f"block_{number}.dense")
            y = layers.ReLU(name=f"block_{number}.relu")(dense(y))
        return plots.read_graph(keras.Model(x, y))

    square = np.random.default_rng(5).normal(size=(13, 13))
    equal, different = ([square, square, square], [square, square + 1, square + 2])
    assert plots.fold(model(equal), depth=1).repeats
    assert not plots.fold(model(different), depth=1).repeats


def test_a_long_list_as_an_argument_is_one_constant():
    x = keras.Input((500,), name="x")
    graph = plots.read_graph(keras.Model(x, ops.take(x, list(range(200)), axis=1)))
    (constant,) = graph.nodes[1].constants
    assert (constant.port, constant.shape, constant.dtype) == ("indices", (200,), "int64")
    assert constant.digest is not None


@settings(max_examples=20)
@given(arrays.arrays("int32", arrays.array_shapes(min_dims=2, max_dims=2, min_side=9, max_side=9)))
def test_a_nested_list_is_described_like_an_array_of_its_values(array):
    described = description_of(array.tolist())
    assert array.size > MOST_VALUES
    assert described == description_of(array.astype("int64"))
    changed = array.astype("int64")
    changed.flat[-1] += 1
    assert described != description_of(changed)


plain_values = st.integers() | st.floats() | st.text(max_size=2) | st.none()


@settings(max_examples=30)
@given(st.lists(plain_values, min_size=1, max_size=4))
def test_any_list_of_many_plain_values_has_a_description(few):
    values = few * (MOST_VALUES + 1)
    described = description_of(values)
    assert described["class_name"] in ("array", "list")
    assert description_of(values) == described


def test_short_lists_keep_their_values():
    assert description_of(list(range(MOST_VALUES))) is None
    assert description_of(np.arange(3)) == [0, 1, 2]
    assert description_of([{"units": 3}] * 100) is None
    assert layers.Conv2D(3, (5, 7)).get_config()["kernel_size"] == (5, 7)


def test_the_values_of_a_weight_are_left_out():
    described = description_of(keras.Variable(MATRIX))
    assert described["config"] == {"shape": [11, 13], "dtype": "float32"}


def test_weights_of_an_abstract_model_are_read_without_values(monkeypatch):
    model = builders.build_decoder_only(
        "gemma2_2b", num_layers=2, vocabulary_size=31, abstract=True
    )

    def refuse(*_):
        raise AssertionError("a weight was given values")

    monkeypatch.setattr(type(model.weights[0]), "__array__", refuse)
    assert len(plots.skip_paths(plots.read_graph(model))) == 4
