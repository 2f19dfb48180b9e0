"""Comparing graphs: exactly the added, removed, moved, changed, reshaped and rewired calls."""

import time
from dataclasses import replace

import keras
import numpy as np
import plots_models
import pytest
from hypothesis import given
from keras import layers
from small_graphs import WIDTH, feedforward, few, graphs, made, stack

import plots
from plots.differences.difference import changed_entries
from plots.graph import Graph


def renamed(graph, rename):
    """Return the same graph with other ids."""
    return replace(
        graph,
        nodes=tuple(
            replace(
                node,
                id=rename(node.id),
                name=rename(node.id),
                layer=rename(node.layer),
                namespace=rename(node.id).rpartition(".")[0],
            )
            for node in graph.nodes
        ),
        edges=tuple(
            replace(edge, source=rename(edge.source), target=rename(edge.target))
            for edge in graph.edges
        ),
        inputs=tuple(map(rename, graph.inputs)),
        outputs=tuple((rename(node_id), number) for node_id, number in graph.outputs),
    )


def parts(difference):
    """Return the names of the non-empty parts of a difference."""
    names = ("added", "removed", "moved", "changed", "rewired", "ties")
    return {name for name in names if getattr(difference, name)}


@few
@given(graphs())
def test_a_graph_equals_itself_and_its_copy(graph):
    for other in (graph, Graph.from_json(graph.to_json())):
        assert plots.compare_graphs(graph, other).is_empty
        assert [note.text for note in plots.diff(graph, against=other).notes] == ["no difference"]


@few
@given(graphs(), graphs())
def test_swapping_two_graphs_inverts_the_difference(first, second):
    forth, back = plots.compare_graphs(first, second), plots.compare_graphs(second, first)
    assert (forth.added, forth.removed) == (back.removed, back.added)
    assert {(a, b) for a, b in forth.pairs} == {(b, a) for a, b in back.pairs}
    moved = {(m.before, m.after, m.renamed, m.displaced) for m in forth.moved}
    assert moved == {(m.after, m.before, m.renamed, m.displaced) for m in back.moved}
    changed = {(c.before, c.after, frozenset(c.changes)) for c in forth.changed}
    inverted = [
        (c.after, c.before, frozenset(replace(x, old=x.new, new=x.old) for x in c.changes))
        for c in back.changed
    ]
    assert changed == set(inverted)
    assert len(forth.rewired) == len(back.rewired)


@few
@given(graphs())
def test_renaming_every_call_yields_moves_only(graph):
    other = renamed(graph, lambda node_id: f"new.{node_id}")
    difference = plots.compare_graphs(graph, other)
    assert parts(difference) == {"moved"}
    named = {node.id for node in graph.nodes if "#" not in node.id}
    assert {move.before for move in difference.moved} == named
    assert all(move.renamed and not move.displaced for move in difference.moved)


def test_a_changed_number_of_units_is_the_only_change():
    difference = plots.compare_graphs(stack(11, 11), stack(11, 13))
    assert parts(difference) == {"changed"}
    up, down = difference.changed
    assert (up.after, up.is_reshaped) == ("stack.block_1.up", False)
    assert [(change.name, change.old, change.new) for change in up.changes] == [
        ("units", "11", "13"),
        ("output", "(None, 11)", "(None, 13)"),
        ("parameters", str(8 * 11), str(8 * 13)),
    ]
    assert (down.after, down.is_reshaped) == ("stack.block_1.down", True)
    assert [change.name for change in down.changes] == ["parameters"]
    assert difference.parameters == (stack(11, 11).parameters, stack(11, 13).parameters)


def test_an_additional_block_is_the_only_difference():
    difference = plots.compare_graphs(stack(11, 11), stack(11, 11, 11))
    assert parts(difference) == {"added"}
    assert set(difference.added) == {
        f"stack.block_2.{name}" for name in ("norm", "up", "down", "residual")
    }
    assert "stack.block_2\n  + all of it: 4 calls, 172 parameters" in plots.difference_text(
        difference
    )


def test_an_additional_unnamed_block_is_the_only_difference():
    def counted(blocks):
        calls = [("inputlayer#1", "InputLayer", [])]
        for number in range(blocks):
            source = calls[-1][0]
            calls.append((f"relu#{number + 1}", "Relu", [source]))
            calls.append((f"add#{number + 1}", "Add", [source, calls[-1][0]]))
        return made(*calls, ("dense#1", "Dense", [calls[-1][0]], {"units": 5}))

    difference = plots.compare_graphs(counted(3), counted(5))
    assert parts(difference) == {"added"}
    classes = [counted(5).node(node_id).class_name for node_id in difference.added]
    assert sorted(classes) == ["Add", "Add", "Relu", "Relu"]


def test_a_call_inserted_between_two_others_rewires_neither():
    before = made(("x", "InputLayer", []), ("a", "Dense", ["x"]), ("b", "Dense", ["a"]))
    after = made(
        ("x", "InputLayer", []),
        ("a", "Dense", ["x"]),
        ("dropout#1", "Dropout", ["a"]),
        ("b", "Dense", ["dropout#1"]),
    )
    assert parts(plots.compare_graphs(before, after)) == {"added"}
    assert parts(plots.compare_graphs(after, before)) == {"removed"}


def test_generated_numbers_have_no_meaning():
    before = made(("x", "InputLayer", []), ("relu#1", "Relu", ["x"]), ("a", "Dense", ["relu#1"]))
    after = made(
        ("x", "InputLayer", []),
        ("relu#1", "Relu", ["x"]),
        ("first", "Dense", ["relu#1"], {"units": 3}),
        ("relu#2", "Relu", ["first"]),
        ("a", "Dense", ["relu#2"]),
    )
    difference = plots.compare_graphs(before, after)
    assert not difference.moved
    assert set(difference.added) == {"first", "relu#2"} or set(difference.added) == {
        "first",
        "relu#1",
    }


def test_models_built_twice_are_equal_despite_generated_names():
    def build():
        x = keras.Input((5, WIDTH))
        y = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x)
        return keras.Model(x, layers.Dense(WIDTH)(y + 1.0))

    first, second = plots.read_graph(build()), plots.read_graph(build())
    assert plots.compare_graphs(first, second).is_empty


def test_only_the_norms_move_between_pre_norm_and_post_norm():
    before, after = stack(11, 11, 11, norm="pre"), stack(11, 11, 11, norm="post")
    difference = plots.compare_graphs(before, after)
    assert parts(difference) == {"moved"}
    assert [move.after for move in difference.moved] == [
        f"stack.block_{number}.norm" for number in range(3)
    ]
    assert all(move.displaced and not move.renamed for move in difference.moved)


def test_a_final_norm_is_not_paired_with_the_norm_of_an_added_block():
    def with_final_norm(norm, blocks):
        graph = stack(*[11] * blocks, norm=norm)
        if norm == "post":
            return graph
        norm_before = ("final_norm", "LayerNormalization", [graph.incoming["logits"][0].source])
        calls = [("x", "InputLayer", [])]
        for number in range(blocks):
            calls += feedforward(f"stack.block_{number}", calls[-1][0], norm="pre")
        return made(*calls, norm_before, ("logits", "Dense", ["final_norm"], {"units": 5}))

    difference = plots.compare_graphs(with_final_norm("pre", 2), with_final_norm("post", 3))
    assert difference.removed == ("final_norm",)
    assert "stack.block_2.norm" in difference.added


def test_removing_skip_paths_removes_the_merges_and_rewires_nothing():
    before = plots.read_graph(plots_models.decoder_only("pre", blocks=2))
    after = plots.read_graph(plots_models.decoder_only("pre", blocks=2, residual=False))
    difference = plots.compare_graphs(before, after)
    assert parts(difference) == {"removed"}
    assert {node_id.rpartition(".")[2] for node_id in difference.removed} == {"residual"}


def test_a_call_with_another_input_is_rewired():
    def calls(source):
        return [
            ("x", "InputLayer", []),
            ("a", "Dense", ["x"]),
            ("b", "Dense", ["a"]),
            ("sum", "Add", ["b", source]),
        ]

    difference = plots.compare_graphs(made(*calls("x")), made(*calls("a")))
    assert parts(difference) == {"rewired"}
    (wire,) = difference.rewired
    assert (wire.after, wire.old.source, wire.new.source) == ("sum", "x", "a")
    union = plots.diff(made(*calls("a")), against=made(*calls("x")))
    kinds = {note.kind for note in union.notes_about["x -> sum.inputs.1"]}
    assert kinds == {"removed"}
    assert {note.kind for note in union.notes_about["a -> sum.inputs.1"]} == {"added"}
    assert {note.kind for note in union.notes_about["sum"]} == {"rewired"}


def test_the_order_of_summands_has_no_meaning_but_that_of_arguments_has():
    def calls(class_name, first, second):
        return made(
            ("x", "InputLayer", []),
            ("a", "Dense", ["x"]),
            ("both", class_name, [first, second]),
        )

    summed = plots.compare_graphs(calls("Add", "x", "a"), calls("Add", "a", "x"))
    assert summed.is_empty
    subtracted = plots.compare_graphs(calls("Subtract", "x", "a"), calls("Subtract", "a", "x"))
    assert parts(subtracted) == {"rewired"}


def test_the_order_of_inputs_and_outputs_counts():
    def calls(*names):
        inputs = [(name, "InputLayer", []) for name in names]
        return [*inputs, ("a", "Dense", ["x"]), ("b", "Dense", ["y"])]

    swapped = plots.compare_graphs(
        made(*calls("x", "y"), outputs=["a", "b"]), made(*calls("x", "y"), outputs=["b", "a"])
    )
    assert parts(swapped) == {"rewired"}
    assert "output 0 of the model is b, was a" in plots.difference_text(swapped)
    inputs = plots.compare_graphs(
        made(*calls("x", "y"), outputs=["a"]), made(*calls("y", "x"), outputs=["a"])
    )
    assert {change.name for call in inputs.changed for change in call.changes} == {
        "place among the inputs"
    }


def test_weights_no_longer_shared_are_reported():
    def calls(second):
        return made(
            ("x", "InputLayer", []),
            ("a", "Dense", ["x"]),
            ("relu#1", "Relu", ["a"]),
            (second, "Dense", ["relu#1"]),
        )

    difference = plots.compare_graphs(calls("a@2"), calls("b"))
    assert [(tie.calls, tie.tied) for tie in difference.ties] == [(("a", "a@2"), False)]
    assert "= a, a@2 no longer share their weights" in plots.difference_text(difference)
    back = plots.compare_graphs(calls("b"), calls("a@2"))
    assert [(tie.calls, tie.tied) for tie in back.ties] == [(("a", "a@2"), True)]


def test_a_growing_or_shrinking_tie_is_reported_by_the_calls_that_join_or_leave():
    def calls(*names):
        layers_in_a_row = [("x", "InputLayer", [])]
        for number, name in enumerate(names):
            layers_in_a_row.append((f"relu#{number + 1}", "Relu", [layers_in_a_row[-1][0]]))
            layers_in_a_row.append((name, "Dense", [layers_in_a_row[-1][0]]))
        return made(*layers_in_a_row)

    two, three = calls("s", "s@2", "t"), calls("s", "s@2", "s@3")
    grown, shrunk = plots.compare_graphs(two, three), plots.compare_graphs(three, two)
    assert [(t.calls, t.others, t.tied) for t in grown.ties] == [(("s@3",), ("s", "s@2"), True)]
    assert [(t.calls, t.others, t.tied) for t in shrunk.ties] == [(("s@3",), ("s", "s@2"), False)]
    assert "= s@3 now shares its weights with s, s@2" in plots.difference_text(grown)
    assert "= s@3 no longer shares its weights with s, s@2" in plots.difference_text(shrunk)
    (note,) = (n for n in plots.diff(two, against=three).notes if "shares" in n.text)
    assert set(note.about) == {"s", "s@2", "t"}
    four, split = calls("s", "s@2", "s@3", "s@4"), calls("s", "s@2", "t", "t@2")
    (tie,) = plots.compare_graphs(split, four).ties
    assert (tie.calls, tie.others) == (("s", "s@2", "s@3", "s@4"), ())


def test_counts_of_calls_contain_each_call_once_and_calls_only():
    def calls(first, second, last="a", outputs=None):
        return made(
            ("x", "InputLayer", []),
            ("a", "Dense", ["x"]),
            ("both", "Subtract", [first, second]),
            (last, "Dense", ["both"]) if last != "a" else ("b", "Dense", ["both"]),
            outputs=outputs,
        )

    def first_line(before, after):
        text = plots.difference_text(plots.compare_graphs(before, after))
        return text.splitlines()[0].partition(": ")[2]

    before = calls("x", "a", outputs=["a", "b"])
    assert first_line(before, calls("a", "x", outputs=["a", "b"])) == "1 call rewired"
    assert first_line(before, calls("x", "a", outputs=["b", "a"])) == "2 outputs rewired"
    assert first_line(calls("x", "a", "b"), calls("x", "a", "a@2")) == "1 call moved, 1 tie changed"
    notes = plots.diff(calls("x", "a", outputs=["b", "a"]), against=before).notes
    assert ("rewired", "2 outputs rewired") in {(note.kind, note.text) for note in notes}


def test_another_class_at_the_same_path_is_a_change_if_a_neighbour_is_the_same():
    def calls(class_name):
        return made(("x", "InputLayer", []), ("n", class_name, ["x"]), ("a", "Dense", ["n"]))

    difference = plots.compare_graphs(calls("LayerNormalization"), calls("RMSNormalization"))
    assert parts(difference) == {"changed"}
    assert difference.changed[0].changes[0].aspect == "class"
    start = [("x", "InputLayer", []), ("a", "Dense", ["x"]), ("b", "Dense", ["a"])]
    before = made(start[0], ("n", "Relu", ["x"]), ("a", "Dense", ["n"]), start[2])
    after = made(*start, ("n", "LayerNormalization", ["b"]))
    far = plots.compare_graphs(before, after)
    assert (far.added, far.removed) == (("n",), ("n",))
    union = plots.diff(after, against=before)
    assert {"n", "n (removed)"} <= set(union.index)


def test_an_unnamed_operation_in_place_of_another_is_a_change():
    def calls(class_name):
        return made(
            ("x", "InputLayer", []),
            (f"{class_name.lower()}#1", class_name, ["x"]),
            ("a", "Dense", [f"{class_name.lower()}#1"]),
        )

    difference = plots.compare_graphs(calls("Relu"), calls("Gelu"))
    assert parts(difference) == {"changed"}
    assert difference.changed[0].changes[0].new == "Gelu"


def test_constants_and_trainable_flags_are_compared():
    def build(factor, trainable):
        x = keras.Input((3,), name="x")
        a = layers.Dense(5, name="a", trainable=trainable)
        return plots.read_graph(keras.Model(x, a(x) * factor))

    difference = plots.compare_graphs(build(2.0, True), build(3.0, False))
    expected = {(c.aspect, c.old, c.new) for call in difference.changed for c in call.changes}
    assert expected == {("constant", "2", "3"), ("trainable", "True", "False")}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([2.0, 2.0, 2.0], [3.0, 3.0, 3.0]),
        ([2.0, 3.0, 5.0], [3.0, 2.0, 5.0]),
        ([2, 3, 5], [2, 3, 7]),
        ([True, False, True], [True, True, False]),
    ],
)
def test_values_of_arrays_are_compared(one, other):
    def build(values):
        x = keras.Input((3,), name="x", dtype=keras.backend.standardize_dtype(type(values[0])))
        merged = keras.ops.logical_and if values[0] is True else keras.ops.add
        array = keras.ops.convert_to_tensor(values, dtype=x.dtype)
        return plots.read_graph(keras.Model(x, merged(x, array)))

    assert plots.compare_graphs(build(one), build(one)).is_empty
    difference = plots.compare_graphs(build(one), build(other))
    ((change,),) = (call.changes for call in difference.changed)
    assert (change.aspect, change.old != change.new) == ("constant", True)
    assert not plots.compare_graphs(build(one), Graph.from_json(build(other).to_json())).is_empty


def test_rounding_of_backends_and_missing_digests_of_older_files_are_no_difference():
    table = np.random.default_rng(5).normal(size=(17, 3)).astype("float32")

    def build(values):
        x = keras.Input((17, 3), name="x")
        return plots.read_graph(keras.Model(x, x + keras.ops.convert_to_tensor(values)))

    rounded = table * np.float32(1 + 2e-7)
    assert not np.array_equal(table, rounded)
    assert plots.compare_graphs(build(table), build(rounded)).is_empty
    assert not plots.compare_graphs(build(table), build(table * np.float32(1.01))).is_empty
    (digest,) = {c.digest for node in build(table).nodes for c in node.constants}
    older = build(table * 2).to_json()
    (other,) = {c.digest for node in build(table * 2).nodes for c in node.constants}
    older = Graph.from_json(older.replace(f'"digest": "{other}",', ""))
    assert digest != other
    assert plots.compare_graphs(older, build(table)).is_empty


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"units": 3}, {"units": 5}, [("units", "3", "5")]),
        ({"a": None}, {}, []),
        ({"rate": 0.1}, {"rate": 0.10000001}, [("rate", "0.1", "0.10000001")]),
        (
            {"i": {"class_name": "Normal", "config": {"stddev": 0.02, "seed": None}}},
            {"i": {"class_name": "Normal", "config": {"stddev": 0.01, "seed": None}}},
            [("i", "Normal(stddev=0.02)", "Normal(stddev=0.01)")],
        ),
        (
            {"i": {"class_name": "Zeros", "config": {}}},
            {"i": {"class_name": "Normal", "config": {"stddev": 0.01}}},
            [("i", "Zeros", "Normal(stddev=0.01)")],
        ),
        (
            {"dtype": {"class_name": "DTypePolicy", "config": {"name": "float32"}}},
            {"dtype": {"class_name": "DTypePolicy", "config": {"name": "bfloat16"}}},
            [("dtype", "float32", "bfloat16")],
        ),
        (
            {"layer": {"class_name": "LSTM", "config": {"name": "lstm_3", "trainable": True}}},
            {"layer": {"class_name": "LSTM", "config": {"name": "lstm_8", "trainable": True}}},
            [],
        ),
    ],
)
def test_changed_configuration_entries_are_described_briefly(old, new, expected):
    assert list(changed_entries(old, new)) == expected


def test_graphs_that_cannot_be_compared_raise_an_error():
    with pytest.raises(ValueError, match=r"is folded.*: compare graphs as they were read"):
        plots.compare_graphs(stack(11, 11), plots.fold_blocks(stack(11, 11)))
    with pytest.raises(ValueError, match="is folded"):
        plots.diff(plots.fold(stack(11, 11), depth=0), against=stack(11, 11))
    with pytest.raises(ValueError, match="the graph to compare against"):
        plots.diff(stack(11))
    with pytest.raises(ValueError, match="no graphs were given"):
        plots.comparison_table({})
    with pytest.raises(TypeError, match="expected a Functional or Sequential Keras model"):
        plots.diff(stack(11), against=3)


@pytest.mark.slow
def test_thousands_of_calls_are_compared_in_seconds():
    before = stack(*[11] * 750)
    after = renamed(stack(*[13] * 749), lambda node_id: node_id.replace("block", "layer"))
    start = time.perf_counter()
    difference = plots.compare_graphs(before, after)
    plots.diff(after, against=before)
    assert time.perf_counter() - start < 20  # takes seconds unless it is quadratic
    assert len(before.nodes) > 3000
    assert len(difference.removed) == 4
    assert not difference.added
