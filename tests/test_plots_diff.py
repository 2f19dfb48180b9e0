"""Comparing graphs: what is added, removed, moved, changed, reshaped, rewired, and nothing else."""

import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import keras
import plots_models
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import plots
from plots import registry
from plots.annotations import DIFFERENCES, Overlay
from plots.differences.configurations import changed_entries
from plots.graph import Edge, Graph, Node, Tensor
from plots.graph_json import check_graph
from plots.ordering import circles, in_order

GOLDEN = Path(__file__).parent / "golden"
WIDTH = 7

few = settings(max_examples=30, deadline=None)


def made(*calls, outputs=None, name="made"):
    """A graph of calls (id, class, ids of what it takes, configuration), without Keras."""
    nodes, edges, width = [], [], {}
    for node_id, class_name, sources, *config in calls:
        config = config[0] if config else {}
        taken = width[sources[0]] if sources else WIDTH
        width[node_id] = config.get("units", taken)
        weights = (taken + 1) * width[node_id] if class_name == "Dense" else 0
        nodes.append(
            Node(
                id=node_id,
                name=node_id.partition("#")[0],
                kind="input" if class_name == "InputLayer" else "layer",
                class_name=class_name,
                bases=(),
                namespace=node_id.rpartition(".")[0],
                layer=node_id.partition("@")[0],
                outputs=(Tensor((None, width[node_id]), "float32"),),
                parameters=weights,
                trainable_parameters=weights,
                trainable=True,
                config=config,
            )
        )
        for number, source in enumerate(sources):
            tensor = Tensor((None, width[source]), "float32")
            edges.append(Edge(source, node_id, f"inputs.{number}", 0, tensor))
    outputs = (nodes[-1].id,) if outputs is None else outputs
    return Graph(
        name=name,
        nodes=tuple(nodes),
        edges=tuple(edges),
        inputs=tuple(node.id for node in nodes if node.kind == "input"),
        outputs=tuple((node_id, 0) for node_id in outputs),
        parameters=sum(node.parameters for node in nodes if node.layer == node.id),
        trainable_parameters=0,
    )


def feedforward(name, source, units=11, norm="pre", residual=True):
    """The calls of one block around a Dense of `units`; the last one is what it gives out."""
    x = source
    calls = []
    if norm == "pre":
        calls.append((f"{name}.norm", "LayerNormalization", [x]))
        x = calls[-1][0]
    calls.append((f"{name}.up", "Dense", [x], {"units": units, "activation": "relu"}))
    calls.append((f"{name}.down", "Dense", [f"{name}.up"], {"units": WIDTH}))
    if residual:
        calls.append((f"{name}.residual", "Add", [source, calls[-1][0]]))
    if norm == "post":
        calls.append((f"{name}.norm", "LayerNormalization", [calls[-1][0]]))
    return calls


def stack(*blocks, stem="stack.block_", **options):
    """A graph of blocks, each given by its units."""
    calls = [("x", "InputLayer", [])]
    for number, units in enumerate(blocks):
        calls += feedforward(f"{stem}{number}", calls[-1][0], units, **options)
    return made(*calls, ("logits", "Dense", [calls[-1][0]], {"units": 5}))


def renamed(graph, rename):
    """The same graph with other ids."""
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
    """Names of the parts of a difference that there are."""
    names = ("added", "removed", "moved", "changed", "rewired", "ties")
    return {name for name in names if getattr(difference, name)}


CLASSES = ("Dense", "Add", "Relu", "LayerNormalization")


@st.composite
def graphs(draw):
    """Small graphs, some of whose calls are named, and some counted."""
    calls = [("x", "InputLayer", [])]
    counts: dict[str, int] = {}
    for _ in range(draw(st.integers(1, 9))):
        class_name = draw(st.sampled_from(CLASSES))
        earlier = st.sampled_from([call[0] for call in calls])
        sources = draw(st.lists(earlier, min_size=1, max_size=2 if class_name == "Add" else 1))
        node_id = draw(st.sampled_from(["a", "b", "c", "d", "box.e", "box.f"]))
        if draw(st.booleans()) or any(call[0] == node_id for call in calls):
            counts[class_name] = counts.get(class_name, 0) + 1
            node_id = f"{class_name.lower()}#{counts[class_name]}"
        config = {"units": draw(st.sampled_from([7, 11]))} if class_name == "Dense" else {}
        calls.append((node_id, class_name, sources, config))
    last = draw(st.sampled_from([call[0] for call in calls[1:]]))
    return made(*calls, outputs=[last])


@few
@given(graphs())
def test_a_graph_does_not_differ_from_itself_or_from_its_copy(graph):
    for other in (graph, Graph.from_json(graph.to_json())):
        assert plots.compare_graphs(graph, other).is_empty
        assert [note.text for note in plots.diff(graph, against=other).notes] == ["no difference"]


@few
@given(graphs(), graphs())
def test_swapping_two_graphs_swaps_what_is_different(first, second):
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
def test_renaming_every_call_gives_nothing_but_moves(graph):
    other = renamed(graph, lambda node_id: f"new.{node_id}")
    difference = plots.compare_graphs(graph, other)
    assert parts(difference) == {"moved"}
    named = {node.id for node in graph.nodes if "#" not in node.id}
    assert {move.before for move in difference.moved} == named
    assert all(move.renamed and not move.displaced for move in difference.moved)


@few
@given(graphs(), graphs())
def test_a_union_is_a_graph_that_holds_both(before, after):
    union = plots.diff(after, against=before)
    check_graph(union)
    assert Graph.from_json(union.to_json()) == union
    difference = plots.compare_graphs(before, after)
    assert set(after.nodes) <= set(union.nodes)
    assert set(after.edges) <= set(union.edges)
    assert len(union.nodes) == len(after.nodes) + len(difference.removed)
    folded = plots.fold(union, depth=0)
    check_graph(folded)
    check_graph(plots.diff(after, against=before, changes_only=True))


@few
@given(graphs(), graphs())
def test_equal_words_mean_equal_graphs(first, second):
    difference = plots.compare_graphs(first, second)
    text = plots.difference_text(difference)
    assert ("no difference" in text) == difference.is_empty
    shapes = [sorted(node.class_name for node in graph.nodes) for graph in (first, second)]
    if difference.is_empty:
        assert shapes[0] == shapes[1]
        assert len(first.edges) == len(second.edges)


def test_changing_one_number_of_units_gives_exactly_that():
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


def test_one_more_block_is_added_and_nothing_else_is_different():
    difference = plots.compare_graphs(stack(11, 11), stack(11, 11, 11))
    assert parts(difference) == {"added"}
    assert set(difference.added) == {
        f"stack.block_2.{name}" for name in ("norm", "up", "down", "residual")
    }
    assert "stack.block_2\n  + all of it: 4 calls, 172 parameters" in plots.difference_text(
        difference
    )


def test_one_more_block_that_nobody_named_is_one_more_block():
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


def test_a_call_put_between_two_others_rewires_neither():
    before = made(("x", "InputLayer", []), ("a", "Dense", ["x"]), ("b", "Dense", ["a"]))
    after = made(
        ("x", "InputLayer", []),
        ("a", "Dense", ["x"]),
        ("dropout#1", "Dropout", ["a"]),
        ("b", "Dense", ["dropout#1"]),
    )
    assert parts(plots.compare_graphs(before, after)) == {"added"}
    assert parts(plots.compare_graphs(after, before)) == {"removed"}


def test_numbers_that_others_were_counted_up_by_mean_nothing():
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


def test_models_that_are_built_the_same_way_are_the_same_whatever_keras_counted():
    def build():
        x = keras.Input((5, WIDTH))
        y = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x)
        return keras.Model(x, layers.Dense(WIDTH)(y + 1.0))

    first, second = plots.read_graph(build()), plots.read_graph(build())
    assert plots.compare_graphs(first, second).is_empty


def test_between_pre_norm_and_post_norm_nothing_but_the_norms_has_moved():
    before, after = stack(11, 11, 11, norm="pre"), stack(11, 11, 11, norm="post")
    difference = plots.compare_graphs(before, after)
    assert parts(difference) == {"moved"}
    assert [move.after for move in difference.moved] == [
        f"stack.block_{number}.norm" for number in range(3)
    ]
    assert all(move.displaced and not move.renamed for move in difference.moved)


def test_the_norm_at_the_end_is_not_taken_for_one_of_an_added_block():
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


def test_without_skip_paths_the_merges_are_removed_and_nothing_is_rewired():
    before = plots.read_graph(plots_models.decoder_only("pre", blocks=2))
    after = plots.read_graph(plots_models.decoder_only("pre", blocks=2, residual=False))
    difference = plots.compare_graphs(before, after)
    assert parts(difference) == {"removed"}
    assert {node_id.rpartition(".")[2] for node_id in difference.removed} == {"residual"}


def test_a_call_that_takes_something_else_is_rewired():
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


def test_the_order_of_what_is_added_up_means_nothing_but_that_of_arguments_does():
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


def test_weights_that_are_shared_no_longer_are_told():
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


def test_another_class_at_the_same_path_is_a_change_and_far_away_another_call():
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


def test_an_operation_that_nobody_named_in_the_place_of_another_is_a_change():
    def calls(class_name):
        return made(
            ("x", "InputLayer", []),
            (f"{class_name.lower()}#1", class_name, ["x"]),
            ("a", "Dense", [f"{class_name.lower()}#1"]),
        )

    difference = plots.compare_graphs(calls("Relu"), calls("Gelu"))
    assert parts(difference) == {"changed"}
    assert difference.changed[0].changes[0].new == "Gelu"


def test_constants_and_switches_are_compared():
    def build(factor, trainable):
        x = keras.Input((3,), name="x")
        a = layers.Dense(5, name="a", trainable=trainable)
        return plots.read_graph(keras.Model(x, a(x) * factor))

    difference = plots.compare_graphs(build(2.0, True), build(3.0, False))
    said = {(c.aspect, c.old, c.new) for call in difference.changed for c in call.changes}
    assert said == {("constant", "2", "3"), ("trainable", "True", "False")}


@pytest.mark.parametrize(
    ("old", "new", "said"),
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
def test_entries_of_configurations_are_said_in_few_words(old, new, said):
    assert list(changed_entries(old, new)) == said


def test_blocks_that_changed_in_the_same_way_are_folded_and_others_are_not():
    same = plots.fold(plots.diff(stack(13, 13, 13, 13), against=stack(11, 11, 11, 11)))
    assert same.repeats == {"stack.block_0": 4}
    one = plots.fold(plots.diff(stack(11, 11, 13, 11, 11), against=stack(11, 11, 11, 11, 11)))
    assert one.repeats == {"stack.block_0": 2, "stack.block_3": 2}
    # The blocks are equal now, but one of them has changed more than the others.
    more = plots.fold(plots.diff(stack(13, 13, 13), against=stack(11, 11, 7)))
    assert more.repeats == {"stack.block_0": 2}
    texts = {note.text for note in more.notes if note.kind == "changed"}
    assert any("units 7 → 13" in text for text in texts)


@pytest.mark.parametrize("norms", [("pre", "post"), ("post", "pre")])
def test_stacks_whose_norms_have_moved_fold_to_one_block(norms):
    before, after = (stack(11, 11, 11, 11, norm=norm) for norm in norms)
    folded = plots.fold(plots.diff(after, against=before))
    assert folded.repeats == {"stack.block_0": 4}
    assert [note.kind for note in folded.notes_about["stack.block_0.norm"]] == ["moved"]


def test_a_closed_group_says_of_which_call_something_is_different():
    union = plots.fold(plots.diff(stack(13), against=stack(11)), depth=1)
    (note,) = (n for n in union.notes_about["stack.block_0.*"] if n.kind == "changed")
    assert note.text.startswith("up: units 11 → 13")


def test_what_was_removed_is_not_led_back_to_where_it_came_from():
    names = ["x", "a", "b", "c"]
    before = made(
        ("x", "InputLayer", []),
        ("a", "Dense", ["x"]),
        ("dropout#1", "Dropout", ["a"]),
        ("b", "Relu", ["dropout#1"]),
        ("c", "Dense", ["b"]),
    )
    after = made(
        ("x", "InputLayer", []), ("b", "Relu", ["x"]), ("a", "Dense", ["b"]), ("c", "Dense", ["a"])
    )
    union = plots.diff(after, against=before)
    check_graph(union)
    assert {node.id for node in union.nodes} == {*names, "dropout#1"}
    assert "dropout#1" not in {edge.source for edge in union.edges}
    assert ("a", "dropout#1") in {(edge.source, edge.target) for edge in union.edges}
    (note,) = (note for note in union.notes if note.about[:1] == ("dropout#1",))
    assert "not drawn: its line to b" in note.text


@few
@given(st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7))))
def test_places_are_on_one_circle_if_each_leads_to_the_other(pairs):
    edges = [(str(a), str(b)) for a, b in sorted(pairs)]
    places = [str(number) for number in range(8)]
    reached = {place: {place} for place in places}
    for _ in places:
        for source, target in edges:
            for ends in reached.values():
                if source in ends:
                    ends.add(target)
    circle = circles(places, edges)
    for a in places:
        for b in places:
            assert (circle[a] == circle[b]) == (b in reached[a] and a in reached[b])


@few
@given(st.permutations(range(8)), st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7))))
def test_an_order_puts_sources_first_and_keeps_what_is_given_where_it_can(wanted, pairs):
    places = [str(number) for number in wanted]
    edges = [(str(a), str(b)) for a, b in sorted(pairs) if a < b]
    order = in_order({place: number for number, place in enumerate(places)}, edges)
    assert sorted(order) == sorted(places)
    assert all(order.index(source) < order.index(target) for source, target in edges)
    for first, second in pairwise(order):  # out of the wanted order only for a reason
        if places.index(first) > places.index(second):
            assert (first, second) in edges


def test_only_what_has_changed_and_what_is_next_to_it_is_kept():
    after = plots.skips.mark_skip_paths(stack(11, 13, 11))
    union = plots.diff(after, against=stack(11, 11, 11), changes_only=True)
    check_graph(union)
    block = "stack.block_1."
    assert {node.id for node in union.nodes} == {
        f"{block}{name}" for name in ("norm", "up", "down", "residual")
    }


def test_what_plugins_found_out_about_the_newer_graph_stays():
    after = plots.skips.mark_skip_paths(stack(11, 13))
    union = plots.diff(after, against=stack(11, 11))
    assert union.skip_paths == after.skip_paths
    assert union.stream == after.stream


def test_a_difference_is_told_in_words(request):
    before = plots.read_graph(plots_models.decoder_only("pre", blocks=3))
    after = plots.read_graph(plots_models.decoder_only("post", blocks=4))
    text = plots.difference_text(plots.compare_graphs(before, after)) + "\n"
    golden = GOLDEN / "pre_to_post_norm.txt"
    if request.config.getoption("--overwrite"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), (
        "run pytest with --overwrite if this is meant"
    )


def test_what_is_the_same_in_many_blocks_is_said_once():
    units = [11] * 12
    text = plots.difference_text(plots.compare_graphs(stack(*units), stack(*[13] * 12)))
    assert text.count("units 11 -> 13") == 1
    assert "stack.block_0 ... block_11 (12 x)\n  ~ up: units 11 -> 13" in text
    units[3] = units[4] = units[9] = 13
    text = plots.difference_text(plots.compare_graphs(stack(*[11] * 12), stack(*units)))
    assert "stack.block_3, block_4, block_9 (3 x)" in text


def test_renamed_blocks_are_said_once():
    before, after = stack(11, 11, 11), stack(11, 11, 11, stem="tower.layer_")
    text = plots.difference_text(plots.compare_graphs(before, after))
    assert "tower.layer_0 ... layer_2 (3 x)\n  > norm: was stack.block_*.norm" in text


@pytest.fixture
def counted_flops(monkeypatch):
    """A plugin that counts as many operations as there are weights, for every token."""

    def flops(graph):
        values = {node.id: {"b t": float(node.parameters)} for node in graph.nodes}
        whole = {"b t": float(graph.parameters)}
        overlay = Overlay("flops", "operations", "FLOP", values, whole)
        return replace(graph, overlays=(*graph.overlays, overlay))

    plugin = registry.GraphPlugin("flops", flops)
    monkeypatch.setattr(registry, "_PLUGINS", {**registry._PLUGINS, "flops": plugin})


def test_operations_are_compared_where_a_plugin_counts_them(counted_flops):
    before, after = stack(11), stack(13)
    difference = plots.compare_graphs(before, after)
    assert difference.flops == ({"b t": before.parameters}, {"b t": after.parameters})
    text = plots.difference_text(difference)
    assert f"operations {before.parameters} FLOP b t -> {after.parameters} FLOP b t" in text


def test_without_such_a_plugin_operations_are_left_out(monkeypatch):
    without = {name: p for name, p in registry._PLUGINS.items() if name != "flops"}
    monkeypatch.setattr(registry, "_PLUGINS", without)
    difference = plots.compare_graphs(stack(11), stack(13))
    assert difference.flops is None
    assert "operations" not in plots.difference_text(difference)


def test_a_table_compares_several_graphs_with_the_first(counted_flops):
    graphs = {"a": stack(11), "longer name": stack(11, 11), "c": stack(13)}
    lines = plots.comparison_table(graphs).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == list(graphs)
    for line, graph in zip(lines[1:], graphs.values(), strict=True):
        assert f" {len(graph.nodes)}  " in line
        assert f" {graph.parameters}  " in line
        assert f" {len(plots.skip_paths(graph))} " in f"{line} "
    assert lines[1].split()[-1] == "1"  # nothing is said of the first one against itself
    assert lines[2].endswith("4 calls added")
    assert lines[3].endswith("1 call changed, 1 reshaped")


def test_pictures_of_a_difference_say_what_is_different(tmp_path):
    before, after = stack(11, 11), stack(13, 13)
    plots.plot_diff(before, after, tmp_path / "diff.svg", depth=2)
    svg = (tmp_path / "diff.svg").read_text(encoding="utf-8")
    for words in ("units 11 → 13", "2 changed", "2 reshaped", "× 2"):
        assert words in svg
    model = keras.Sequential([keras.Input((3,), name="x"), layers.Dense(5, name="a")])
    plots.plot_diff(model, model, tmp_path / "same.dot")
    assert "no difference" in (tmp_path / "same.dot").read_text(encoding="utf-8")


def test_every_kind_of_difference_has_a_colour_of_its_own():
    colours = {plots.renderers.boxes.note_colour(kind) for kind in (*DIFFERENCES, "else")}
    assert len(colours) == len(DIFFERENCES)  # moved and rewired share theirs


def test_a_graph_in_a_file_can_be_compared_with(tmp_path):
    path = tmp_path / "kept.json"
    path.write_text(stack(11).to_json(), encoding="utf-8")
    union = plots.draw(stack(13), tmp_path / "a.dot", plugins=[("diff", {"against": str(path)})])
    assert union is None
    assert "units 11 → 13" in (tmp_path / "a.dot").read_text(encoding="utf-8")
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"kept\.json: this is no graph"):
        plots.diff(stack(13), against=path)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="is folded: compare graphs as they were read"):
        plots.compare_graphs(stack(11, 11), plots.fold_blocks(stack(11, 11)))
    with pytest.raises(ValueError, match="is folded"):
        plots.diff(plots.fold(stack(11, 11), depth=0), against=stack(11, 11))
    with pytest.raises(ValueError, match="against which graph"):
        plots.diff(stack(11))
    with pytest.raises(ValueError, match="no graphs were given"):
        plots.comparison_table({})
    with pytest.raises(TypeError, match="a Functional or Sequential Keras model is needed"):
        plots.diff(stack(11), against=3)


def test_thousands_of_calls_are_compared_in_seconds():
    before = stack(*[11] * 750)
    after = renamed(stack(*[13] * 749), lambda node_id: node_id.replace("block", "layer"))
    start = time.perf_counter()
    difference = plots.compare_graphs(before, after)
    plots.diff(after, against=before)
    assert time.perf_counter() - start < 20  # a second or two, unless it grows with the square
    assert len(before.nodes) > 3000
    assert len(difference.removed) == 4
    assert not difference.added
