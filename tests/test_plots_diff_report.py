"""Reports of a difference: the union of both graphs, texts, tables and pictures."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import keras
import plots_models
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from small_graphs import few, graphs, made, stack

import plots
from plots import registry
from plots.annotations import DIFFERENCES, Overlay
from plots.differences.alignment import align
from plots.graph import Graph, check_graph
from plots.traversal import component_numbers, topological_order

GOLDEN = Path(__file__).parent / "golden"


@few
@given(graphs(), graphs())
def test_a_union_contains_both_graphs(before, after):
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
def test_graphs_reported_as_equal_are_equal(first, second):
    difference = plots.compare_graphs(first, second)
    text = plots.difference_text(difference)
    assert ("no difference" in text) == difference.is_empty
    shapes = [sorted(node.class_name for node in graph.nodes) for graph in (first, second)]
    if difference.is_empty:
        assert shapes[0] == shapes[1]
        assert len(first.edges) == len(second.edges)


def test_only_blocks_with_equal_changes_are_folded():
    same = plots.fold(plots.diff(stack(13, 13, 13, 13), against=stack(11, 11, 11, 11)))
    assert same.repeats == {"stack.block_0": 4}
    one = plots.fold(plots.diff(stack(11, 11, 13, 11, 11), against=stack(11, 11, 11, 11, 11)))
    assert one.repeats == {"stack.block_0": 2, "stack.block_3": 2}
    # The blocks are equal now, but one of them changed more than the others.
    more = plots.fold(plots.diff(stack(13, 13, 13), against=stack(11, 11, 7)))
    assert more.repeats == {"stack.block_0": 2}
    texts = {note.text for note in more.notes if note.kind == "changed"}
    assert any("units 7 → 13" in text for text in texts)


@pytest.mark.parametrize("norms", [("pre", "post"), ("post", "pre")])
def test_stacks_with_moved_norms_fold_to_one_block(norms):
    before, after = (stack(11, 11, 11, 11, norm=norm) for norm in norms)
    folded = plots.fold(plots.diff(after, against=before))
    assert folded.repeats == {"stack.block_0": 4}
    assert [note.kind for note in folded.notes_about["stack.block_0.norm"]] == ["moved"]


def test_a_note_on_a_closed_group_names_the_changed_call():
    union = plots.fold(plots.diff(stack(13), against=stack(11)), depth=1)
    (note,) = (n for n in union.notes_about["stack.block_0.*"] if n.kind == "changed")
    assert note.text.startswith("up: units 11 → 13")


def test_edges_of_removed_calls_close_no_cycle():
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
    assert "not drawn: its edge to b" in note.text


@few
@given(st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7))))
def test_two_items_are_in_one_component_if_each_can_be_reached_from_the_other(pairs):
    edges = [(str(a), str(b)) for a, b in sorted(pairs)]
    places = [str(number) for number in range(8)]
    reached = {place: {place} for place in places}
    for _ in places:
        for source, target in edges:
            for ends in reached.values():
                if source in ends:
                    ends.add(target)
    component = component_numbers(places, edges)
    for a in places:
        for b in places:
            assert (component[a] == component[b]) == (b in reached[a] and a in reached[b])


@few
@given(st.permutations(range(8)), st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7))))
def test_a_topological_order_follows_the_edges_and_otherwise_the_priority(wanted, pairs):
    places = [str(number) for number in wanted]
    edges = [(str(a), str(b)) for a, b in sorted(pairs) if a < b]
    order = topological_order({place: number for number, place in enumerate(places)}, edges)
    assert sorted(order) == sorted(places)
    assert all(order.index(source) < order.index(target) for source, target in edges)
    for first, second in pairwise(order):  # another order only if an edge requires it
        if places.index(first) > places.index(second):
            assert (first, second) in edges


def test_changes_only_keeps_changed_calls_and_their_neighbours():
    after = plots.skips.mark_skip_paths(stack(11, 13, 11))
    union = plots.diff(after, against=stack(11, 11, 11), changes_only=True)
    check_graph(union)
    block = "stack.block_1."
    assert {node.id for node in union.nodes} == {
        f"{block}{name}" for name in ("norm", "up", "down", "residual")
    }


def test_annotations_of_the_newer_graph_are_kept():
    after = plots.skips.mark_skip_paths(stack(11, 13))
    union = plots.diff(after, against=stack(11, 11))
    assert union.skip_paths == after.skip_paths
    assert union.stream == after.stream


def test_the_text_of_a_difference_matches_the_golden_file(request):
    before = plots.read_graph(plots_models.decoder_only("pre", blocks=3))
    after = plots.read_graph(plots_models.decoder_only("post", blocks=4))
    text = plots.difference_text(plots.compare_graphs(before, after)) + "\n"
    golden = GOLDEN / "pre_to_post_norm.txt"
    if request.config.getoption("--overwrite"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8"), (
        "run pytest with --overwrite if this is meant"
    )


def test_an_unnamed_added_call_is_described_by_its_inputs():
    start = [("x", "InputLayer", []), ("d", "Dense", ["x"]), ("i", "Dense", ["d"])]
    before = made(*start, ("e", "Dense", ["i"]))
    after = made(*start, ("add#1", "Add", ["d", "i"]), ("e", "Dense", ["add#1"]))
    assert "\n+ add#1 (Add) of d and i" in plots.difference_text(
        plots.compare_graphs(before, after)
    )
    assert "\n- add#1 (Add) of d and i" in plots.difference_text(
        plots.compare_graphs(after, before)
    )


def test_a_picture_of_a_difference_aligns_the_graphs_once(tmp_path, monkeypatch):
    aligned = []

    def counting(first, second):
        aligned.append((first, second))
        return align(first, second)

    monkeypatch.setattr("plots.differences.align", counting)
    plots.plot_diff(stack(11), stack(13), tmp_path / "diff.html")
    assert len(aligned) == 1


def test_equal_differences_of_many_blocks_are_listed_once():
    units = [11] * 12
    text = plots.difference_text(plots.compare_graphs(stack(*units), stack(*[13] * 12)))
    assert text.count("units 11 -> 13") == 1
    assert "stack.block_0 ... block_11 (12 x)\n  ~ up: units 11 -> 13" in text
    units[3] = units[4] = units[9] = 13
    text = plots.difference_text(plots.compare_graphs(stack(*[11] * 12), stack(*units)))
    assert "stack.block_3, block_4, block_9 (3 x)" in text


def test_lettered_blocks_are_listed_by_their_letters():
    def lettered(units):
        x = y = keras.Input((7,), name="x")
        for letter in "abcd":
            y = layers.Dense(units, name=f"net.block2{letter}.up")(y)
            y = layers.Dense(7, name=f"net.block2{letter}.down")(y)
        return plots.read_graph(keras.Model(x, y))

    text = plots.difference_text(plots.compare_graphs(lettered(11), lettered(13)))
    assert "net.block2a ... block2d (4 x)\n" in text
    assert text.count("units 11 -> 13") == 1


def test_renamed_blocks_are_listed_once():
    before, after = stack(11, 11, 11), stack(11, 11, 11, stem="tower.layer_")
    text = plots.difference_text(plots.compare_graphs(before, after))
    assert "tower.layer_0 ... layer_2 (3 x)\n  > norm: was stack.block_*.norm" in text


@pytest.fixture
def counted_flops(monkeypatch):
    """Register a plugin that counts one operation per weight and token."""

    def flops(graph):
        values = {node.id: {"b t": float(node.parameters)} for node in graph.nodes}
        whole = {"b t": float(graph.parameters)}
        overlay = Overlay("flops", "operations", "FLOP", values, whole)
        return replace(graph, overlays=(*graph.overlays, overlay))

    plugin = registry.GraphPlugin("flops", flops)
    monkeypatch.setattr(registry, "_PLUGINS", {**registry._PLUGINS, "flops": plugin})


def test_operations_are_compared_with_the_flops_plugin(counted_flops):
    before, after = stack(11), stack(13)
    difference = plots.compare_graphs(before, after)
    assert difference.flops == ({"b t": before.parameters}, {"b t": after.parameters})
    text = plots.difference_text(difference)
    assert f"operations {before.parameters} FLOP b t -> {after.parameters} FLOP b t" in text


def test_a_small_difference_in_operations_is_reported():
    def operations(units):
        x = keras.Input((1021,), name="x")
        y = layers.Dense(509, name="b")(layers.Dense(units, name="a")(x))
        graph = plots.read_graph(keras.Model(x, y))
        text = plots.difference_text(plots.compare_graphs(more, graph)) if more else ""
        return graph, text.partition("operations ")[2].partition("\n")[0]

    more = None
    more, _ = operations(2049)
    _, text = operations(2048)
    assert text == f"6.27 MFLOP b -> 6.27 MFLOP b (-{2 * (1021 + 509) / 1000:.3g} kFLOP b, < 0.1 %)"
    _, text = operations(2049)
    assert text == ""


def test_operations_with_several_powers_are_subtracted_power_by_power():
    before = plots.read_graph(plots_models.decoder_only("pre", blocks=2))
    after = plots.read_graph(plots_models.decoder_only("pre", blocks=3))
    old, new = plots.compare_graphs(before, after).flops
    text = plots.difference_text(plots.compare_graphs(before, after))
    more = (new - old).text("FLOP")
    assert f" (+{more})\n" in text
    assert f" ({('-' + more).replace('+ ', '- ')})\n" in plots.difference_text(
        plots.compare_graphs(after, before)
    )


def test_operations_are_omitted_without_the_flops_plugin(monkeypatch):
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
    assert lines[1].split()[-1] == "1"  # the first graph is not compared with itself
    assert lines[2].endswith("4 calls added")
    assert lines[3].endswith("1 call changed, 1 reshaped")


def test_pictures_of_a_difference_contain_the_notes(tmp_path):
    before, after = stack(11, 11), stack(13, 13)
    plots.plot_diff(before, after, tmp_path / "diff.svg", depth=2)
    svg = (tmp_path / "diff.svg").read_text(encoding="utf-8")
    for words in ("units 11 → 13", "2 changed", "2 reshaped", "× 2"):
        assert words in svg
    model = keras.Sequential([keras.Input((3,), name="x"), layers.Dense(5, name="a")])
    plots.plot_diff(model, model, tmp_path / "same.dot")
    assert "no difference" in (tmp_path / "same.dot").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to_file": "diff.bmp"}, "names no known format"),
        ({"renderer": "no such"}, "no graph renderer 'no such'"),
        ({"colour": "red"}, "no option 'colour'"),
        ({"depth": -1}, "depth is -1; it must be a number of levels"),
    ],
)
def test_invalid_options_of_a_picture_raise_an_error_before_graphs_are_compared(
    arguments, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    nothing_to_compare = object()
    with pytest.raises(ValueError, match=message):
        plots.plot_diff(
            nothing_to_compare, nothing_to_compare, **{"to_file": "diff.svg"} | arguments
        )


def test_a_picture_of_a_difference_opens_layers_on_request(tmp_path):
    class Block(layers.Layer):
        def __init__(self, units):
            super().__init__(name="block")
            self.inner = layers.Dense(units, name="inner")

        def call(self, x):
            return self.inner(x)

    x = keras.Input((3,), name="x")
    models = [keras.Model(x, Block(units)(x)) for units in (11, 13)]
    for open_layers in (False, True):
        plots.plot_diff(*models, tmp_path / "diff.txt", open_layers=open_layers)
        assert ("inner" in (tmp_path / "diff.txt").read_text("utf-8")) == open_layers


def test_every_kind_of_difference_has_a_colour_of_its_own():
    colours = {plots.renderers.note_colour(kind) for kind in (*DIFFERENCES, "else")}
    assert len(colours) == len(DIFFERENCES)  # moved and rewired share theirs


def test_a_graph_in_a_file_can_be_compared_with(tmp_path):
    path = tmp_path / "kept.json"
    path.write_text(stack(11).to_json(), encoding="utf-8")
    union = plots.draw(stack(13), tmp_path / "a.dot", plugins=[("diff", {"against": str(path)})])
    assert union is None
    assert "units 11 → 13" in (tmp_path / "a.dot").read_text(encoding="utf-8")
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"kept\.json: not a graph"):
        plots.diff(stack(13), against=path)
