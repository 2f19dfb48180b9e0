"""Closed namespaces, and annotations of folded graphs: streams, skip paths, overlays and notes."""

import functools
import itertools
import re
from dataclasses import replace

import keras
import plots_models
import pytest
from keras import layers

import builders
import plots
from plots.annotations import Quantity
from plots.graph import check_graph
from plots.hierarchy import depth_of, find_namespaces
from plots.skips import mark_skip_paths

MAKE = {
    "pre": lambda: plots_models.decoder_only("pre", blocks=3),
    "post": lambda: plots_models.decoder_only("post", blocks=3),
    "sandwich": lambda: plots_models.decoder_only("sandwich", blocks=3),
    "none": lambda: plots_models.decoder_only("none", blocks=3),
    "pair": lambda: plots_models.encoder_decoder("post", blocks=3),
}
DEPTHS = [None, 0, 1, 2, 3, 4]


@functools.cache
def marked(name):
    return mark_skip_paths(plots.read_graph(MAKE[name]()))


# Closed namespaces


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("depth", DEPTHS)
def test_no_namespace_is_open_below_the_depth_and_the_graph_is_valid(name, depth):
    graph = plots.fold(marked(name), depth=depth)
    check_graph(graph)
    assert {depth_of(namespace) for namespace in find_namespaces(graph).values()} <= set(
        range((depth or 3) + 1)
    )
    assert len(graph.outputs) == len(marked(name).outputs)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("depth", DEPTHS[1:])
def test_groups_contain_all_calls_weights_and_edges(name, depth):
    whole = marked(name)
    graph = plots.fold(whole, depth=depth, blocks=None)
    inside = [call for node in graph.nodes for call in (node.members or (node.id,))]
    assert sorted(inside) == sorted(whole.index)
    layers_of = {node.layer: node for node in graph.nodes}
    assert sum(node.parameters for node in layers_of.values()) == whole.parameters
    outer = {call: node.id for node in graph.nodes for call in (node.members or (node.id,))}
    assert {(edge.source, edge.target) for edge in graph.edges} == {
        (outer[edge.source], outer[edge.target])
        for edge in whole.edges
        if outer[edge.source] != outer[edge.target]
    }


def test_a_namespace_with_a_path_through_another_node_is_opened_by_one_level_only():
    x = keras.Input((7,), name="x")
    y = layers.Dense(7, name="model.embedding")(x)
    for number in range(2):
        y = layers.Dense(7, name=f"model.stack.layer_{number}")(y)
    y = layers.Dense(7, name="outside")(y)
    graph = plots.read_graph(keras.Model(x, layers.Dense(7, name="model.out")(y)))
    closed = plots.fold(graph, depth=0, blocks=None)
    assert [*closed.index] == ["x", "model.embedding", "model.stack.*", "outside", "model.out"]
    check_graph(closed)


def test_shared_weights_of_a_group_are_counted_once():
    x = keras.Input((7,), name="x")
    shared = layers.Dense(7, name="outer.shared")
    y = layers.Dense(7, name="outer.other")(shared(shared(x)))
    graph = plots.read_graph(keras.Model(x, y))
    (group,) = plots.fold(graph, depth=0, blocks=None).nodes[1:]
    assert (group.kind, group.name, group.parameters) == ("group", "outer", 2 * (7 * 7 + 7))
    assert group.members == ("outer.shared", "outer.shared@2", "outer.other")
    assert group.config["calls"] == 3


def test_a_group_has_the_outputs_and_inputs_of_its_members():
    graph = plots.fold(plots.read_graph(plots_models.encoder_decoder("pre", blocks=2)), depth=1)
    group = graph.node("decoder.block_0.*")
    assert group.outputs == (plots.Tensor((None, None, 7), "float32"),)
    taken = {edge.source: edge.port for edge in graph.incoming[group.id]}
    assert taken["encoder.block_0.*"] == "cross_attention.key.inputs, cross_attention.value.inputs"
    assert graph.repeats == {"encoder.block_0": 2, "decoder.block_0": 2}


@pytest.mark.parametrize(
    ("options", "message"), [({"depth": -1}, "depth is -1"), ({"blocks": 0}, "blocks is 0")]
)
def test_invalid_depths_and_numbers_of_blocks_raise_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        plots.fold(marked("pre"), **options)


# Annotations


def chains(stream):
    """Return pairs as chains of ids; each call has at most one predecessor and one successor."""
    onwards = dict(stream)
    assert len(onwards) == len(stream)
    assert len(set(onwards.values())) == len(stream)
    found = []
    for start in onwards.keys() - set(onwards.values()):
        chain = [start]
        while chain[-1] in onwards:
            chain.append(onwards[chain[-1]])
        found.append(chain)
    return found


@pytest.mark.parametrize("blocks", [1, 2, None])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", MAKE)
def test_the_stream_is_one_line_from_its_first_call_to_its_last_at_every_depth(name, depth, blocks):
    whole = marked(name)
    graph = plots.fold(whole, depth=depth, blocks=blocks)
    group_of = {call: node.id for node in graph.nodes for call in (node.members or (node.id,))}

    def seen_as(call):
        """Return the call, its group, or the stand-in of a removed call."""
        kept = [re.sub(r"block_\d", f"block_{n}", call) for n in (2, 1, 0)]
        return group_of[next(name for name in (call, *kept) if name in group_of)]

    ends = {(seen_as(chain[0]), seen_as(chain[-1])) for chain in chains(whole.stream)}
    found = {(chain[0], chain[-1]) for chain in chains(graph.stream)}
    assert found == {(first, last) for first, last in ends if first != last}
    edges = {(edge.source, edge.target) for edge in graph.edges}
    assert set(graph.stream) <= edges


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("depth", [None, 2, 3])
def test_every_visible_sublayer_has_its_skip_path(name, depth):
    graph = plots.fold(marked(name), depth=depth)
    merges = [node for node in graph.nodes if node.label == "residual"]
    assert len(merges) == (5 if name == "pair" else 2)
    assert [path.target for path in graph.skip_paths] == [node.id for node in merges]
    placement = {
        "pre": "pre",
        "post": "post",
        "sandwich": "sandwich",
        "none": "none",
        "pair": "post",
    }
    assert {path.placement for path in graph.skip_paths} == {placement[name]}


def test_a_group_counts_its_hidden_skip_paths():
    graph = plots.fold(marked("pre"), depth=1)
    assert graph.skip_paths == ()
    assert graph.node("decoder.block_0.*").config["skip_paths"] == 2


def with_overlays(graph):
    position = {node.id: {"": float(graph.index[node.id])} for node in graph.nodes}
    cost = {node.id: {"b t": 2.0, "t t": 1.0} for node in graph.nodes if node.parameters}
    traffic = {edge.id: {"": 1.0} for edge in graph.edges}
    overlays = (
        plots.Overlay("cost", "cost", "", cost, {"b t": 1e3}),
        plots.Overlay("position", "position", "", position, combine="last"),
        plots.Overlay("traffic", "traffic", "", traffic),
    )
    return replace(graph, overlays=overlays)


@pytest.mark.parametrize("depth", DEPTHS[1:])
def test_overlays_of_a_group_are_sums_of_counts_and_last_values_of_measurements(depth):
    whole = with_overlays(marked("pair"))
    graph = plots.fold(whole, depth=depth, blocks=None)
    cost, position, traffic = graph.overlays
    for node in graph.nodes:
        calls = node.members or (node.id,)
        weighted = sum(whole.node(call).parameters > 0 for call in calls)
        assert cost.values.get(node.id, {}) == (
            {"b t": 2 * weighted, "t t": weighted} if weighted else {}
        )
        assert position.values[node.id] == {"": max(whole.index[call] for call in calls)}
    outside = sum(value[""] for value in traffic.values.values())
    group_of = {call: n.id for n in graph.nodes for call in (n.members or (n.id,))}
    assert outside == sum(group_of[e.source] != group_of[e.target] for e in whole.edges)
    assert cost.whole == {"b t": 1e3}


def test_overlays_of_a_folded_run_have_the_values_of_one_block_and_the_same_total():
    whole = with_overlays(marked("pre"))
    graph = plots.fold(whole)
    for before, after in zip(whole.overlays, graph.overlays, strict=True):
        left = {place: before.values[place] for place in after.values if place in before.values}
        assert {place: after.values[place] for place in left} == left
        assert after.whole == before.whole
    assert set(graph.overlays[0].values) == {n.id for n in graph.nodes if n.parameters}


def test_notes_move_to_the_group_with_the_name_of_the_call_and_vanish_with_removed_blocks():
    graph = marked("pre")
    notes = (
        plots.Note("finding", ("decoder.block_0.feedforward.up",), "Too narrow."),
        plots.Note("finding", ("decoder.block_2.feedforward.up",), "Gone with its block."),
        plots.Note("finding", (), "About all of it."),
    )
    folded = plots.fold(replace(graph, notes=notes), depth=2)
    assert [(note.about, note.text) for note in folded.notes] == [
        (("decoder.block_0.feedforward.*",), "up: Too narrow."),
        ((), "About all of it."),
    ]


def test_folding_twice_is_folding_once():
    once = plots.fold(marked("pair"), depth=2)
    assert plots.fold(once, depth=2) == once
    assert [*plots.fold(once, depth=1).index] == [*plots.fold(marked("pair"), depth=1).index]


def first_token_of_a_stack():
    """Return three blocks of x + f(x) with unnamed sums, and an unnamed first-token slice."""
    x = y = keras.Input((7, 5), name="x")
    for number in range(3):
        inside = layers.Dense(11, name=f"block_{number}.up")(y)
        y = y + layers.Dense(5, name=f"block_{number}.down")(inside)
    pooled = layers.Dense(3, name="pooled")(y[:, 0])
    return keras.Model(x, [y, pooled])


@pytest.mark.sampled(4)
@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("make", [*MAKE.values(), first_token_of_a_stack])
def test_kept_calls_stay_in_their_namespaces(make, blocks):
    graph = plots.read_graph(make())
    folded = plots.fold(graph, blocks=blocks)
    assert len(folded.nodes) < len(graph.nodes)
    for before, after in ((graph, folded), (mark_skip_paths(graph), mark_skip_paths(folded))):
        assert find_namespaces(after) == {
            i: namespace for i, namespace in find_namespaces(before).items() if i in after.index
        }


def test_a_call_after_the_last_block_is_not_part_of_the_folded_block():
    folded = plots.fold(plots.read_graph(first_token_of_a_stack()))
    outside = [node.class_name for node in folded.nodes if find_namespaces(folded)[node.id] == ""]
    assert outside == ["InputLayer", "GetItem", "Dense"]


def test_a_merge_is_closed_with_the_skip_path_that_leads_to_it():
    """The streams of hyper-connections are mixed inside of the sublayer."""
    model = builders.build("hyper_connections", abstract=True, kind="decoder_only")
    graph = plots.fold(mark_skip_paths(plots.read_graph(model)), depth=2)
    names = ["self_attention", "feedforward"]
    closed = [graph.node(f"decoder.block_{i}.{name}.*") for i in range(2) for name in names]
    assert [node.config["skip_paths"] for node in closed] == [1] * 4
    assert not [node.id for node in graph.nodes if node.id.endswith(".residual")]
    line = list(itertools.pairwise(node.id for node in closed))
    assert set(line) <= set(graph.stream)


def test_the_terms_of_a_sum_have_no_labels():
    x = keras.Input((5,), name="x")
    two = keras.Model(y := keras.Input((5,)), [layers.Dense(5)(y), layers.Dense(5)(y)], name="two")
    for merge, number in ((layers.Add, 0), (layers.Subtract, 1), (layers.Concatenate, 1)):
        drawn = plots.to_mermaid(plots.read_graph(keras.Model(x, merge()(two(x)))))
        assert drawn.count("inputs.1") == number


def test_a_closed_stage_counts_all_blocks_that_one_in_it_stands_for():
    """Also the calls of the first block only, and equal stages within which blocks are folded."""
    x = y = keras.Input((11, 7), name="x")
    for stage in range(3):
        for block in range(4):
            name = f"s{stage}_b{block}"
            shortcut = layers.Dense(7, name=f"{name}_wide")(y) if stage == block == 0 else y
            h = layers.LayerNormalization(name=f"{name}_norm")(y)
            y = layers.Add(name=f"{name}_sum")([shortcut, layers.Dense(7, name=f"{name}_up")(h)])
    model = keras.Model(x, y)
    graph = plots.parameters(plots.flops(plots.shapes(mark_skip_paths(plots.read_graph(model)))))
    folded = plots.fold(graph, depth=0)
    stages = [node for node in folded.nodes if node.kind == "group"]
    times = [folded.times(node) for node in stages]
    whole = zip(times, stages, strict=True)
    assert sum(n * node.config["calls"] for n, node in whole) == len(graph.nodes) - 1
    for kind in ("flops", "parameters"):
        overlay = folded.overlay(kind)
        counted = [overlay.values[node.id] * n for n, node in zip(times, stages, strict=True)]
        assert sum(counted, Quantity()) == overlay.whole == graph.overlay(kind).whole
    paths = sum(n * node.config["skip_paths"] for n, node in zip(times, stages, strict=True))
    assert paths == len(graph.skip_paths)
    assert sum(n * node.parameters for n, node in zip(times, stages, strict=True)) == (
        model.count_params()
    )
