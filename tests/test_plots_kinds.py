"""Kinds of layers of one's own: by what `call` computes, and never by name or base class."""

import copy
import pickle
from dataclasses import replace

import keras
import pytest
from keras import layers, ops

import plots
from plots import layers as kinds
from plots.asked import once_per_call

LENGTH, WIDTH = 7, 6
MEAN = {"axis": -1, "keepdims": True}


def layer_of(function, weights=1, name="Thing", base=layers.Layer):
    """A layer whose `call(self, x)` is a function, with vectors as weights."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones") if weights else None
        self.shift = self.add_weight(shape=(shape[-1],)) if weights > 1 else None

    return type(name, (base,), {"build": build, "call": function})


def node_of(layer):
    x = keras.Input((LENGTH, WIDTH))
    graph = plots.read_graph(keras.Model(x, layers.Dense(3)(layer(x))))
    (node,) = (node for node in graph.nodes if node.call_class)
    return node


NORMS = {
    "root mean square": layer_of(
        lambda self, x: self.scale * x * ops.rsqrt(ops.mean(ops.square(x), **MEAN) + 1e-6)
    ),
    "divided by a root": layer_of(
        lambda self, x: x / ops.sqrt(ops.mean(x**2, **MEAN) + 1e-6) * self.scale
    ),
    "of a power": layer_of(
        lambda self, x: x * ops.power(ops.mean(x * x, **MEAN) + 1e-6, -0.5) * self.scale
    ),
    "mean and variance": layer_of(
        lambda self, x: (
            (x - ops.mean(x, **MEAN)) / ops.sqrt(ops.var(x, **MEAN) + 1e-6) * self.scale
            + self.shift
        ),
        weights=2,
    ),
    "standard deviation": layer_of(
        lambda self, x: self.scale * (x - ops.mean(x, **MEAN)) / (ops.std(x, **MEAN) + 1e-6)
    ),
    "length of a vector": layer_of(lambda self, x: x / (ops.norm(x, **MEAN) + 1e-6), weights=0),
    "one operation": layer_of(lambda self, x: ops.rms_normalization(x, self.scale)),
}

OTHERS = {
    "a scale": layer_of(lambda self, x: x * self.scale, name="ScaleNorm"),
    "a softmax in steps": layer_of(
        lambda self, x: ops.exp(x) / ops.sum(ops.exp(x), **MEAN), weights=0
    ),
    "a projection of directions": layer_of(
        lambda self, x: ops.matmul(x / ops.norm(x, **MEAN), ops.outer(self.scale, self.scale))
    ),
    "a norm that is none": layer_of(
        lambda self, x: x * 2, weights=0, name="RMSNormalization", base=layers.LayerNormalization
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_is_known_by_what_it_computes(name):
    assert kinds.is_norm(node_of(NORMS[name]()))


@pytest.mark.parametrize("name", OTHERS)
def test_names_and_base_classes_make_no_norm(name):
    assert not kinds.is_norm(node_of(OTHERS[name]()))


def test_a_softmax_is_known_by_what_it_computes():
    assert kinds.is_softmax(node_of(layer_of(lambda self, x: ops.softmax(x), weights=0)()))
    double = layer_of(lambda self, x: x * 2, weights=0, name="Softmax")
    assert not kinds.is_softmax(node_of(double()))


def test_a_dense_with_another_call_is_no_linear_layer():
    bent = type("Bent", (layers.Dense,), {"call": lambda self, x: ops.relu(x @ self.kernel)})
    x = keras.Input((5,))
    model = keras.Model(x, layers.Dense(3)(bent(11)(x)))
    assert plots.findings(plots.read_graph(model)) == ()
    plain = keras.Model(x, layers.Dense(3)(layers.Dense(11)(x)))
    assert len(plots.findings(plots.read_graph(plain))) == 1


def test_calls_of_a_class_are_those_that_are_of_it():
    """Also of base classes, of what is declared to be alike, and not of a class that calls anew."""

    declared = {"graph_declaration": {"like": "Dense"}, "call": layers.Dense.call}
    x = keras.Input((LENGTH, WIDTH))
    bare = layer_of(lambda self, x: x, weights=0, base=layers.Dense)
    y = type("Inherits", (layers.Dense,), {})(5)(ops.log(layers.Dense(5)(x)))
    y = type("Alike", (layers.Dense,), declared)(5)(bare(5)(y)) + ops.exp(y)
    y = layers.LeakyReLU()(y)
    graph = plots.read_graph(keras.Model(x, y))
    for names in ({"Dense"}, {"Dense", "Add", "LeakyReLU"}, {"Layer"}, {"Nothing"}, set()):
        assert graph.of_class(names) == [node for node in graph.nodes if node.is_a(names)]
    assert [node.class_name for node in graph.of_class({"Dense"})] == ["Dense", "Inherits", "Alike"]
    assert [node.class_name for node in graph.of_operation("Exp", "Log")] == ["Log", "Exp"]
    assert graph.of_operation("Thing") == []


def test_a_question_is_asked_once_about_a_call_and_copies_are_asked_anew():
    asked = []

    @once_per_call
    def is_dense(node):
        asked.append(node.id)
        return node.class_name == "Dense"

    x = keras.Input((LENGTH, WIDTH))
    graph = plots.read_graph(keras.Model(x, layers.Dense(3)(x)))
    marked = plots.apply_plugins(graph, ["skip_paths"])
    for one in (graph, marked):
        assert [is_dense(node) for node in one.nodes] == [False, True]
    assert len(asked) == 2
    dense = graph.nodes[1]
    for other in (replace(dense, class_name="Other"), copy.deepcopy(dense)):
        assert is_dense(other) == (other == dense)
    assert len(asked) == 4
    assert is_dense(pickle.loads(pickle.dumps(dense)))
    assert "_found" not in graph.to_json()
