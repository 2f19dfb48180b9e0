"""Layers open whatever sizes their calls need; sizes that follow from free axes are free."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import plots


class Windows(layers.Layer):
    """Attention within windows of 3 positions, which are a batch of their own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mix = layers.Dense(7, name="mix")

    def build(self, shape):
        self.mix.build(shape)

    def call(self, x):
        windows = ops.reshape(x, (-1, 3, 7))
        mixed = self.mix(ops.matmul(ops.matmul(windows, ops.swapaxes(windows, 1, 2)), windows))
        return x + ops.reshape(mixed, (-1, x.shape[1], 7))


class Prefixed(layers.Layer):
    """Two trained vectors are put before a sequence, and attended to."""

    def build(self, shape):
        self.prefix = self.add_weight(shape=(2, 7), name="prefix")
        self.mix = layers.Dense(7, name="mix")
        self.mix.build(shape)

    def call(self, x):
        prefix = ops.broadcast_to(self.prefix, (ops.shape(x)[0], 2, 7))
        memory = ops.concatenate([prefix, x], axis=1)
        scores = ops.softmax(ops.matmul(x, ops.swapaxes(memory, 1, 2)))
        return x + self.mix(ops.matmul(scores, memory))


class OfOneLength(layers.Layer):
    """A table of positions without a slice takes sequences of 13 vectors only."""

    def build(self, shape):
        self.table = layers.Embedding(13, 7, name="table")
        self.table.build()

    def call(self, x):
        return x + self.table(ops.arange(13))


class Frames(layers.Layer):
    """Five frames of every video follow each other in the batch."""

    def build(self, shape):
        self.table = layers.Embedding(5, 7, name="table")
        self.table.build()

    def call(self, x):
        video = ops.reshape(x, (-1, 5, *x.shape[1:]))
        positions = ops.reshape(self.table(ops.arange(5)), (5, 1, 7))
        return ops.reshape(video + positions, ops.shape(x))

    def compute_output_shape(self, shape):
        return shape


class Pair(layers.Dropout):
    """A layer whose base class declares one output."""

    def call(self, a, b):
        return a * 2, b * 2


class WithPair(layers.Layer):
    def build(self, shape):
        self.dense, self.pair = layers.Dense(7, name="dense"), Pair(0.1)
        self.dense.build(shape)

    def call(self, x):
        a, b = self.pair(x, self.dense(x))
        return a + b

    def compute_output_shape(self, shape):
        return shape


class OpenSizes(layers.Layer):
    """An `EinsumDense` declares no size of an axis whose size it was built without."""

    def build(self, shape):
        self.dense = layers.EinsumDense("btd,de->bte", (None, 7), name="dense")
        self.dense.build((None, None, 7))

    def call(self, x):
        y = self.dense(x)
        return x + y * ops.cast(ops.arange(y.shape[1]), "float32")[:, None]

    def compute_output_shape(self, shape):
        return shape


KINDS = {"of one length": OfOneLength, "frames": Frames, "pair": WithPair, "open": OpenSizes}


def read(kind, length):
    x = keras.Input((length, 7), name="x")
    layer = kind(name="block")
    layer.build((None, length, 7))
    model = keras.Model(x, layers.Dense(3, name="head")(layer(x)))
    graph = plots.read_graph(model, open_layers=True)
    assert graph.notes == ()
    assert graph.parameters == model.count_params()
    return model, graph


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_layer_that_needs_certain_sizes_is_opened_and_computes_the_same(kind):
    length = None if kind is OfOneLength else 13
    if kind is OfOneLength:  # declares what it does not take
        kind = type("OfOneLength", (kind,), {"compute_output_shape": lambda self, shape: shape})
    model, graph = read(kind, length)
    assert "block" in {node.namespace for node in graph.nodes}
    batch = np.random.default_rng(3).normal(size=(10, 13, 7)).astype("float32")
    values = plots.call_values(model, batch, open_layers=True)
    np.testing.assert_allclose(values["head"][0], model(batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "length", "shapes"),
    [
        (Windows, 12, {(None, 3, 7), (None, 7, 3), (None, 3, 3), (None, 12, 7)}),
        (Prefixed, None, {(None, 2, 7), (None, None, 7), (None, 7, None), (None, None, None)}),
        (Frames, 12, {(5, 7), (5, 1, 7), (None, 5, 12, 7), (None, 12, 7)}),
    ],
)
def test_sizes_that_follow_from_free_axes_are_free(kind, length, shapes):
    _, graph = read(kind, length)
    inside = [node for node in graph.nodes if node.namespace == "block"]
    assert {node.outputs[0].shape for node in inside} == shapes
    assert {edge.tensor.shape for edge in graph.edges} <= shapes


def test_the_operations_of_an_opened_layer_grow_with_its_batch():
    _, graph = read(Windows, 12)
    overlay = plots.flops(graph).overlay("flops")
    windows = 4  # of each sequence
    products = 2 * windows * 2 * 3 * 3 * 7
    assert overlay.values["block.mix"] == {"b": windows * 2 * 3 * 7 * 7}
    assert overlay.whole == {"b": products + windows * 2 * 3 * 7 * 7 + 2 * 12 * 7 * 3}


class WithTable(layers.Layer):
    """Returns vectors and a table of positions, which depends on no input."""

    def build(self, shape):
        self.dense = layers.Dense(7, name="up")
        self.dense.build(shape)

    def call(self, x):
        table = ops.broadcast_to(ops.reshape(ops.arange(13.0), (1, 13, 1)), (1, 13, 7))
        return self.dense(x), table

    def compute_output_shape(self, shape):
        return shape, (1, 13, 7)


def test_an_output_that_depends_on_no_input_is_a_constant():
    x = keras.Input((13, 7), name="x")
    y, table = WithTable(name="both")(x)
    model = keras.Model(x, layers.Add(name="sum")([y, table]))
    graph = plots.read_graph(model, open_layers=True)
    assert list(graph.index) == ["x", "both.up", "sum"]
    (constant,) = graph.node("sum").constants
    assert (constant.port, constant.shape) == ("inputs.1", (1, 13, 7))
    batch = np.random.default_rng(3).normal(size=(2, 13, 7)).astype("float32")
    values = plots.call_values(model, batch, open_layers=True)
    np.testing.assert_allclose(values["sum"][0], model(batch), rtol=1e-4, atol=1e-4)


class Masked(layers.Layer):
    """A layer that declares what it returns for any mask, and takes one of its own length only."""

    def build(self, shape, *others):
        self.mix = layers.Dense(7, name="mix")
        self.mix.build(shape)

    def call(self, x, mask):
        scores = ops.matmul(x, ops.swapaxes(x, 1, 2)) - mask
        return x + self.mix(ops.matmul(ops.softmax(scores), x))

    def compute_output_shape(self, shape, *others):
        return shape


class MaskedInside(Masked):
    """The same, one layer further in."""

    def build(self, shape, *others):
        self.masked = Masked(name="masked")
        self.masked.build(shape)

    def call(self, x, mask):
        return 2.0 * self.masked(x, mask)


@pytest.mark.parametrize("kind", [Masked, MaskedInside])
def test_a_declaration_does_not_hide_that_two_sizes_are_one(kind):
    x, mask = keras.Input((None, 7), name="x"), keras.Input((None, None), name="mask")
    block = kind(name="block")
    block.build((None, None, 7))
    model = keras.Model([x, mask], layers.Dense(3, name="head")(block(x, mask)))
    graph = plots.read_graph(model, open_layers=True)
    assert graph.notes == ()
    assert len(plots.skip_paths(graph)) == 1


class Relative(Masked):
    """Attention with a table of relative positions, which is twice as long as the sequence."""

    def call(self, x, table):
        left, right = ops.split(ops.matmul(x, ops.swapaxes(table, 1, 2)), 2, axis=-1)
        return x + self.mix(ops.matmul(ops.softmax(left + right), x))


class Table(layers.Layer):
    """A table whose length is declared as unknown."""

    def call(self, x):
        return ops.concatenate([x, -x], axis=1)

    def compute_output_shape(self, shape):
        return (shape[0], None, shape[2])


def test_an_axis_that_is_a_multiple_of_the_length_is_free():
    x = keras.Input((None, 7), name="x")
    block = Relative(name="block")
    block.build((None, None, 7))
    model = keras.Model(x, layers.Dense(3, name="head")(block(x, Table(name="table")(x))))
    graph = plots.read_graph(model, open_layers=True)
    assert graph.notes == ()
    inside = [node for node in graph.nodes if node.namespace == "block"]
    assert {node.outputs[0].shape for node in inside} == {
        (None, 7, None),
        (None, None, None),
        (None, None, 7),
    }
