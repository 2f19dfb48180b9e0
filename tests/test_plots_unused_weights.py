"""Weights that no call takes are in the graph, so that all parameters are."""

import keras
import numpy as np
import pytest
from keras import layers

import plots
from plots.renderers.html import page_data


class Half(layers.Layer):
    """A layer that uses some of its weights."""

    def build(self, shape):
        self.up, self.down = layers.Dense(7, name="up"), layers.Dense(7, name="down")
        self.up.build(shape)
        self.down.build(shape)
        self.token = self.add_weight(shape=(1, 7), name="token")
        self.ids = self.add_weight(shape=(5,), dtype="int8", name="ids", trainable=False)

    def call(self, x):
        return x + self.up(x)


class Twice(layers.Layer):
    def build(self, shape):
        self.first, self.second = Half(), Half(name="second")
        self.first.build(shape)
        self.second.build(shape)

    def call(self, x):
        return self.second(self.first(x))


SIZE = 7 * 8
UNUSED = SIZE + 7 + 5


def opened(*blocks):
    x = y = keras.Input((5, 7), name="x")
    for block in blocks:
        y = block(y)
    model = keras.Model(x, y)
    return model, plots.read_graph(model, open_nested=True, open_layers=True)


def test_the_weights_of_an_opened_layer_that_no_call_takes_are_one_node():
    model, graph = opened(Half(name="one"))
    assert list(graph.index) == ["x", "one.up", "one.add#1", "one.unused_weights"]
    node = graph.nodes[-1]
    assert (node.kind, node.namespace, node.outputs) == ("weights", "one", ())
    assert node.config == {
        "weights": ["token (1, 7)", "ids (5,)", "down.kernel (7, 7)", "down.bias (7,)"]
    }
    assert (node.parameters, node.trainable_parameters) == (UNUSED, UNUSED - 5)
    assert node.weight_bytes == 4 * (SIZE + 7) + 5
    assert graph.parameters == model.count_params() == SIZE + UNUSED
    (note,) = graph.notes
    assert (note.kind, note.about) == ("unused", (node.id,))
    assert note.text == (
        "4 weights that no call takes: token (1, 7), ids (5,), down.kernel (7, 7), down.bias (7,)"
    )
    assert plots.Graph.from_json(graph.to_json()) == graph


def test_weights_are_unused_at_the_innermost_opened_layer():
    model, graph = opened(Twice(name="both"))
    unused = [node for node in graph.nodes if node.kind == "weights"]
    assert [node.namespace for node in unused] == ["both.half#1", "both.second"]
    assert {node.parameters for node in unused} == {UNUSED}
    assert graph.parameters == model.count_params()


def test_weights_that_a_later_call_takes_are_used():
    half, inner = Half(name="one"), layers.Dense(3, name="head")
    x = keras.Input((5, 7), name="x")
    y = half(x)
    model = keras.Model(x, inner(half.down(y)))
    graph = plots.read_graph(model, open_layers=True)
    (unused,) = (node for node in graph.nodes if node.kind == "weights")
    assert unused.config == {"weights": ["token (1, 7)", "ids (5,)"]}
    assert graph.parameters == model.count_params()


def test_layers_that_a_model_keeps_and_does_not_call_are_unused():
    class Keeping(keras.Model):
        def __init__(self):
            x = keras.Input((7,), name="x")
            super().__init__(x, layers.Dense(3, name="used")(x), name="keeping")
            self.other = layers.Dense(2, name="other")
            self.other.build((None, 7))

    inner = Keeping()
    x = keras.Input((7,), name="outside")
    for model, name in ((inner, "unused_weights"), (keras.Model(x, inner(x)), "keeping")):
        graph = plots.read_graph(model, open_nested=True)
        assert graph.nodes[-1].id.startswith(name)
        assert graph.nodes[-1].config == {"weights": ["other.kernel (7, 2)", "other.bias (2,)"]}
        assert graph.parameters == model.count_params() == 8 * 3 + 8 * 2
        assert plots.read_graph(model).parameters == model.count_params()


@pytest.mark.parametrize("named", [True, False])
def test_blocks_with_unused_weights_fold(named):
    _model, graph = opened(*(Half(name=f"block_{k}" if named else None) for k in range(3)))
    counted = plots.list_plugins()["memory"](plots.parameters(graph))
    folded = plots.fold(counted)
    assert list(folded.repeats.values()) == [3]
    assert len(folded.nodes) == 4
    overlay = folded.overlay("parameters")
    assert 3 * sum(overlay.number(value) for value in overlay.values.values()) == graph.parameters
    closed = plots.fold(counted, depth=0, blocks=None)
    groups = [node for node in closed.nodes if node.kind == "group"]
    assert [node.parameters for node in groups] == [SIZE + UNUSED] * 3
    assert {node.config["calls"] for node in groups} == {2}


def test_unused_weights_are_drawn_and_take_no_part_in_what_is_said_about_calls(tmp_path):
    model, graph = opened(Half(name="one"), Half(name="other"))
    assert len(plots.skip_paths(graph)) == 2
    assert graph.overlays == ()
    assert len(graph.calls) == 5
    counted = plots.list_plugins()["flops"](plots.parameters(graph))
    assert [note.kind for note in plots.diagnose(counted).notes].count("finding") == 0
    assert not [note for note in counted.notes if note.kind == "uncounted"]
    text = plots.to_text(counted)
    assert "4 weights that no call takes" in text
    assert "5 calls" in text
    assert "unused" in plots.to_mermaid(counted)
    assert page_data(counted)["calls"]["one.unused_weights"]["role"] == "unused"
    plots.draw(counted, tmp_path / "model.svg")
    assert (tmp_path / "model.svg").read_text("utf-8").count("4 weights that no call takes") == 2
    batch = np.zeros((2, 5, 7), "float32")
    values = plots.call_values(model, batch, open_layers=True)
    assert "one.up" in values
