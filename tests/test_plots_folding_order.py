"""Folding depends on the structure of blocks, not on the order in which their calls are listed."""

import random
from dataclasses import replace

import keras
import pytest
from keras import layers, ops
from small_graphs import WIDTH, made

import plots
from plots.graph import check_graph
from plots.traversal import topological_order


class Gated(layers.Layer):
    """x + a(x) * b(x), and what it keeps for later, which is not used."""

    def build(self, shape):
        self.a, self.b = layers.Dense(7, name="a"), layers.Dense(7, name="b")
        self.a.build(shape)
        self.b.build(shape)

    def call(self, x):
        a, b = self.a(x), self.b(x)
        return x + a * b, ops.stack([a, b], axis=1)

    def compute_output_shape(self, shape):
        return shape, (shape[0], 2, *shape[1:])


def gated(named):
    x = y = keras.Input((5, 7), name="x")
    for number in range(3):
        y, _ = Gated(name=f"block_{number}" if named else None)(y)
    model = keras.Model(x, layers.Dense(3, name="head")(y))
    return plots.read_graph(model, open_layers=True)


def reordered(graph, seed):
    """Return a graph in another topological order."""
    ids = list(graph.index)
    random.Random(seed).shuffle(ids)
    priority = {node_id: place for place, node_id in enumerate(ids)}
    order = topological_order(priority, [(e.source, e.target) for e in graph.edges])
    place = {node_id: number for number, node_id in enumerate(order)}
    edges = tuple(sorted(graph.edges, key=lambda edge: place[edge.target]))
    return replace(graph, nodes=tuple(map(graph.node, order)), edges=edges)


@pytest.mark.parametrize("named", [True, False])
def test_equal_blocks_fold_in_any_topological_order(named):
    graph = gated(named)
    assert list(plots.fold(graph).repeats.values()) == [3]
    for seed in range(4):
        folded = plots.fold(reordered(graph, seed))
        check_graph(folded)
        assert list(folded.repeats.values()) == [3]
        assert len(folded.nodes) == len(plots.fold(graph).nodes)


def test_blocks_with_other_connections_do_not_fold_in_any_order():
    graph = gated(named=True)
    names = {"block_1.a": "block_1.b", "block_1.b": "block_1.a"}
    crossed = tuple(
        replace(edge, source=names.get(edge.source, edge.source))
        if edge.target == "block_1.stack#1"
        else edge
        for edge in graph.edges
    )
    graph = replace(graph, edges=crossed)
    for seed in range(2):
        assert plots.fold(reordered(graph, seed)).repeats == {}


class Sliced(layers.Layer):
    """x + dense(x) * a part of a table, for each layer another one."""

    def build(self, x_shape, part_shape):
        self.dense = layers.Dense(7, name="up")
        self.dense.build(x_shape)

    def call(self, x, part):
        return x + self.dense(x) * part

    def compute_output_shape(self, x_shape, part_shape):
        return x_shape


def test_the_slices_that_equal_layers_take_fold_with_them():
    x = keras.Input((5, 7), name="x")
    table = layers.Reshape((5, 4, 7), name="parts")(layers.Dense(28, name="table")(x))
    y = x * 2
    for number in range(4):
        y = Sliced(name=f"block_{number}")(y, table[:, :, number])
    graph = plots.read_graph(keras.Model(x, layers.Dense(3, name="head")(y)), open_layers=True)
    folded = plots.fold(plots.parameters(graph))
    assert folded.repeats == {"block_0": 4, "get_item#1": 4}
    check_graph(folded)
    assert folded.node("get_item#1").namespace == ""
    notes = {note.about: note.text for note in folded.notes if note.kind == "varies"}
    assert any("0\N{EN DASH}3" in text for ids, text in notes.items() if ids == ("get_item#1",))


class Sublayers(layers.Layer):
    """Residual projections, some of them in one layer."""

    def __init__(self, sizes, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.Dense(size, "relu", name=f"part{n}") for n, size in enumerate(sizes)]
        self.last = [layers.Dense(7, name=f"last{n}") for n, size in enumerate(sizes)]

    def build(self, shape):
        for part, last in zip(self.parts, self.last, strict=True):
            part.build(shape)
            last.build((*shape[:-1], part.units))

    def call(self, x):
        for part, last in zip(self.parts, self.last, strict=True):
            x = x + last(part(x))
        return x


def test_a_block_does_not_begin_and_end_within_two_opened_layers():
    x = y = keras.Input((5, 7), name="x")
    for name, sizes in (("first", (3, 11, 5)), ("second", (3, 5)), ("third", (3, 11, 5))):
        y = Sublayers(sizes, name=name)(y)
    graph = plots.read_graph(keras.Model(x, layers.Dense(3, name="head")(y)), open_layers=True)
    assert plots.fold(graph).repeats == {}  # 5 and 3 are of two layers each


def test_a_layer_between_equal_blocks_folds_with_them():
    x = y = keras.Input((5, 7), name="x")
    dropout = layers.Dropout(0.1, name="between")
    for number in range(4):
        inside = layers.Dense(7, "relu", name=f"block_{number}.dense")(y)
        y = dropout(layers.Add(name=f"block_{number}.add")([y, inside]))
    graph = plots.read_graph(keras.Model(x, layers.Dense(3, name="head")(y)))
    folded = plots.fold(graph)
    assert folded.repeats == {"block_0": 4, "between": 4}
    assert list(folded.index) == ["x", "block_0.dense", "block_0.add", "between", "head"]
    check_graph(folded)


def detector(number):
    """Return the graph of a detector whose layers refine boxes, which the first one begins with.

    Its outputs are what all layers return, each joined in one call.
    """
    calls = [("x", "InputLayer", []), ("start", "Dense", ["x"], {"units": 5})]
    state, boxes, collected = "x", "start", {"Add": [], "Boxes": [], "Scores": []}
    for n in range(number):
        calls += [
            (f"place#{n}", "Dense", [boxes], {"units": WIDTH}),
            (f"sum#{n}", "Add", [state, f"place#{n}"]),
            (f"up#{n}", "Dense", [f"sum#{n}"], {"units": 11, "activation": "relu"}),
            (f"down#{n}", "Dense", [f"up#{n}"], {"units": WIDTH}),
            (f"state#{n}", "Add", [state, f"down#{n}"]),
            (f"change#{n}", "Dense", [f"state#{n}"], {"units": 5}),
        ]
        if n == 0:
            calls.append(("begin", "Dense", ["state#0"], {"units": 5, "activation": "tanh"}))
            calls.append(("begun", "Maximum", ["start", "begin"]))
            boxes = "begun"
        calls.append((f"boxes#{n}", "Add" if n else "Subtract", [boxes, f"change#{n}"]))
        calls.append((f"score#{n}", "Dense", [f"state#{n}"], {"units": 3}))
        calls.append((f"trust#{n}", "Multiply", [f"score#{n}", f"boxes#{n}"]))
        state, boxes = f"state#{n}", f"boxes#{n}"
        for kind, own in zip(collected, (state, boxes, f"trust#{n}"), strict=True):
            collected[kind].append(own)
    joined = [(f"all#{kind}", "Concatenate", own) for kind, own in collected.items()]
    return made(*calls, *joined, outputs=[name for name, *_ in joined])


@pytest.mark.parametrize("number", [3, 4, 6])
def test_layers_whose_outputs_are_collected_fold_from_the_second_one_on(number):
    graph = detector(number)
    for whole in (graph, reordered(graph, seed=number)):
        folded = plots.fold(whole)
        check_graph(folded)
        assert list(folded.repeats.values()) == [number - 1]
        assert len(folded.nodes) == len(graph.nodes) - 9 * (number - 2)
        kept = {node.id.partition("#")[0] for node in folded.nodes if "block" in node.namespace}
        assert kept == {
            *("place", "sum", "up", "down", "state", "change", "boxes", "score", "trust")
        }
