"""Layers with a `call` of their own that extend one of Keras are opened, or closed with a note."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import plots


def of_sequence(base, *args, **kwargs):
    class Skipped(base):
        def call(self, sequences, initial_state=None):
            return sequences + super().call(sequences)

    return Skipped(*args, name="block", **kwargs)


def of_inputs(base, *args, **kwargs):
    class Skipped(base):
        def call(self, inputs):
            return inputs + super().call(inputs)

    return Skipped(*args, name="block", **kwargs)


def of_pair(base, *args, **kwargs):
    class Skipped(base):
        def call(self, query, value, key=None):
            return query + super().call(query, value)

    made = Skipped(*args, name="block", **kwargs)
    return lambda x: made(x, x)


def of_child(base, *args, **kwargs):
    """Return a layer whose `call` is that of an own class between it and the base."""
    return type("Child", (type(of_inputs(base, *args, **kwargs)),), {})(*args, name="block")


EXTENDED = {
    "Dense": lambda: of_inputs(layers.Dense, 7),
    "Dense, through a class between": lambda: of_child(layers.Dense, 7),
    "Conv1D": lambda: of_inputs(layers.Conv1D, 7, 3, padding="same"),
    "LSTM": lambda: of_sequence(layers.LSTM, 7, return_sequences=True),
    "Bidirectional": lambda: of_sequence(
        layers.Bidirectional, layers.GRU(7, return_sequences=True), merge_mode="sum"
    ),
    "TimeDistributed": lambda: of_inputs(layers.TimeDistributed, layers.Dense(7)),
    "MultiHeadAttention": lambda: of_pair(layers.MultiHeadAttention, 3, 2),
}


@pytest.mark.parametrize(("name", "make"), EXTENDED.items(), ids=EXTENDED)
def test_a_call_of_the_base_class_is_one_call_of_its_kind(name, make):
    x = keras.Input((5, 7), name="x")
    model = keras.Model(x, layers.Dense(3, name="head")(make()(x)))
    graph = plots.read_graph(model, open_layers=True)
    kinds = [node.class_name for node in graph.nodes]
    assert kinds == ["InputLayer", name.partition(",")[0], "Add", "Dense"]
    assert len(plots.skip_paths(graph)) == 1
    assert graph.parameters == model.count_params()
    assert "that the graph shows" not in plots.diagnosis_text(graph).partition(";")[0]
    assert "at least" not in plots.flops(plots.shapes(graph)).overlay("flops").title
    batch = np.random.default_rng(3).normal(size=(2, 5, 7)).astype("float32")
    values = plots.call_values(model, batch, open_layers=True)
    np.testing.assert_allclose(
        values["head"][0], ops.convert_to_numpy(model(batch)), rtol=1e-4, atol=1e-4
    )


def test_calls_of_the_base_class_share_its_weights():
    class Twice(layers.Dense):
        def call(self, inputs):
            return ops.tanh(super().call(inputs)) + super().call(2 * inputs)

    x = keras.Input((5, 7))
    layer = Twice(7, name="one")
    graph = plots.read_graph(keras.Model(x, layer(layer(x))), open_layers=True)
    dense = [node for node in graph.nodes if node.class_name == "Dense"]
    assert len(dense) == 4
    assert {node.layer for node in dense} == {"one.dense#1"}
    assert graph.parameters == 7 * 7 + 7
    assert not graph.notes


class WithMask(layers.MultiHeadAttention):
    def call(self, query, value, key=None, query_mask=None, value_mask=None):
        return query + super().call(query, value, query_mask=query_mask, value_mask=value_mask)


class WithoutMask(layers.MultiHeadAttention):
    def call(self, query, value, key=None):
        return query + super().call(query, value)


@pytest.mark.parametrize(("kind", "ports"), [(WithMask, 2), (WithoutMask, 0)])
def test_the_base_class_gets_the_masks_that_it_is_given(kind, ports):
    ids = keras.Input((5,), dtype="int32")
    x = layers.Embedding(11, 7, mask_zero=True)(ids)
    model = keras.Model(ids, layers.Dense(3, name="head")(kind(3, 2, name="own")(x, x)))
    graph = plots.read_graph(model, open_layers=True)
    attention = next(node for node in graph.nodes if node.class_name == "MultiHeadAttention")
    masks = [e.port for e in graph.edges if e.target == attention.id and e.port.endswith("mask")]
    assert len(masks) == ports
    batch = np.array([[3, 5, 2, 0, 0]])
    values = plots.call_values(model, batch, open_layers=True)
    np.testing.assert_allclose(
        values["head"][0], ops.convert_to_numpy(model(batch)), rtol=1e-4, atol=1e-4
    )


class ReadsANumber(layers.MultiHeadAttention):
    def call(self, query, value, key=None):
        return query + super().call(query, value) * float(query[0, 0, 0])

    def compute_output_spec(self, query, value, key=None):
        return keras.KerasTensor(query.shape, query.dtype)


class ReadsANumberInDense(layers.Dense):
    def call(self, inputs):
        return inputs + super().call(inputs) * float(inputs[0, 0, 0])


@pytest.mark.parametrize(
    ("kind", "arguments"), [(ReadsANumber, (3, 2)), (ReadsANumberInDense, (7,))]
)
def test_an_extended_layer_that_cannot_be_opened_counts_as_closed(kind, arguments):
    x = keras.Input((5, 7), name="x")
    inputs = (x, x) if kind is ReadsANumber else (x,)
    graph = plots.read_graph(keras.Model(x, kind(*arguments)(*inputs)), open_layers=True)
    text = " ".join(plots.diagnosis_text(graph).split())
    assert "that the graph shows: 1 layer with weights, 1 of them closed" in text
    assert f"{kind.__name__} stays closed: its call does not run on symbolic tensors" in text
    assert "open_layers=True" not in text


@pytest.mark.parametrize("open_layers", [False, True])
def test_a_norm_of_ones_own_is_a_norm_and_not_a_closed_layer(open_layers):
    class InFloats(layers.LayerNormalization):
        def call(self, inputs):
            return super().call(ops.cast(inputs, "float32"))

    x = keras.Input((5, 7))
    model = keras.Model(x, x + layers.Dense(7)(InFloats()(x)))
    graph = plots.read_graph(model, open_layers=open_layers)
    assert plots.diagnosis_text(graph).startswith("Pre-norm residual network: 1 residual path; ")
    assert plots.skip_paths(graph)[0].placement == "pre"


@pytest.mark.parametrize("open_layers", [False, True])
def test_a_layer_with_weights_of_its_own_hides_no_skip_path(open_layers):
    class Projection(layers.Layer):
        def build(self, shape):
            self.matrix = self.add_weight(shape=(shape[-1], shape[-1]))

        def call(self, x):
            return x + ops.matmul(x, self.matrix)

    x = keras.Input((5, 7))
    graph = plots.read_graph(keras.Model(x, Projection()(x)), open_layers=open_layers)
    text = " ".join(plots.diagnosis_text(graph).split())
    assert len(plots.skip_paths(graph)) == open_layers
    assert ("skip paths that the graph shows" in text) is not open_layers
    assert ("open_layers=True" in text) is not open_layers
