"""Folding: runs of equal blocks, closed namespaces, and annotations of the folded graph."""

import functools
import itertools
import math
import re
from dataclasses import replace

import keras
import plots_models
import pytest
from keras import layers

import plots
from plots.graph import check_graph
from plots.hierarchy import depth_of, enclosing_block, find_namespaces, numbered, with_number
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


def dense_stack(widths, name="block_{}", numbers=range(99)):
    """Return x -> block_0 -> block_1 -> ..., two Dense each, of the given inner widths."""
    x = keras.Input((7,), name="x")
    y = x
    for number, width in zip(numbers, widths, strict=False):
        y = layers.Dense(width, name=f"{name.format(number)}.up")(y)
        y = layers.Dense(7, name=f"{name.format(number)}.down")(y)
    return plots.read_graph(keras.Model(x, layers.Dense(5, name="out")(y)))


def ids(graph):
    return [node.id for node in graph.nodes]


# Runs of equal blocks


def test_one_period_of_alternating_blocks_is_kept():
    graph = plots.fold(dense_stack([11, 13, 11, 13, 11, 13]))
    assert graph.repeats == {"block_0": 3, "block_1": 3}
    assert ids(graph) == ["x", "block_0.up", "block_0.down", "block_1.up", "block_1.down", "out"]
    assert graph.incoming["out"][0].source == "block_1.down"
    assert [(note.about[0], note.text) for note in graph.notes] == [
        ("block_0.up", "alternates with block_1"),
        ("block_1.up", "alternates with block_0"),
        ("block_1.up", "block_1 differs from block_0: units of up is 13, not 11"),
    ]


def test_a_run_between_other_blocks_is_found():
    graph = plots.fold(dense_stack([3, 11, 11, 11, 11, 5]))
    assert graph.repeats == {"block_1": 4}
    assert [
        namespace for namespace in dict.fromkeys(find_namespaces(graph).values()) if namespace
    ] == [
        "block_0",
        "block_1",
        "block_5",
    ]


def test_a_deviating_block_is_kept_with_a_note_on_the_difference():
    graph = plots.fold(dense_stack([11, 11, 13, 11, 11]))
    assert graph.repeats == {"block_0": 2, "block_3": 2}
    (note,) = graph.notes  # none on block_3, which equals most blocks
    assert note.text == "block_2 differs from block_0: units of up is 13, not 11"
    assert note.about == ("block_2.up", "block_2.down")
    assert note.kind == "deviates"


def test_the_rarer_block_deviates_even_if_it_comes_first():
    (note,) = plots.fold(dense_stack([13, 11, 11, 11])).notes
    assert note.text == "block_0 differs from block_1: units of up is 13, not 11"
    assert note.about == ("block_0.up", "block_0.down")


def test_no_block_deviates_if_most_differ():
    graph = plots.fold(dense_stack([3, 5, 11, 11, 13, 17, 19]))
    assert graph.repeats == {"block_2": 2}
    assert graph.notes == ()


def staged(widths, blocks, name="stage{}_block{}_{}"):
    """Return stages of different widths, each with a widening block and some equal ones."""
    x = keras.Input((7,), name="x")
    y = layers.Dense(widths[0], name="stem")(x)
    for stage, width in enumerate(widths, start=1):
        for block in range(1, blocks + 1):
            called = functools.partial(name.format, stage, block)
            branch = layers.Dense(width, activation="relu", name=called("1_up"))(y)
            branch = layers.Dense(width, name=called("2_down"))(branch)
            if block == 1:
                y = layers.Dense(width, name=called("0_wide"))(y)
            y = layers.Add(name=called("add"))([y, branch])
    return keras.Model(x, layers.Dense(5, name="out")(y))


@pytest.mark.parametrize(
    "name", ["stage{}_block{}_{}", "stage{}.block{}.{}", "stage_{}_block_{}_{}"]
)
def test_blocks_within_different_stages_are_folded_whatever_separates_their_names(name):
    graph = plots.fold(mark_skip_paths(plots.read_graph(staged([11, 13, 17], 5, name))))
    stage, block = ("stage_{}", "block_{}") if name.count("_") > 3 else ("stage{}", "block{}")
    runs = {f"{stage.format(n)}.{block.format(1)}": 5 for n in (1, 2, 3)}
    assert graph.repeats == runs
    assert [note.text for note in graph.notes] == ["in the first of 5 blocks only"] * 3
    assert [graph.node(*note.about).label for note in graph.notes] == ["0_wide"] * 3


def test_a_stack_within_folded_blocks_is_not_folded():
    x = keras.Input((7,), name="x")
    y = x
    for block in range(3):
        for number in range(5):
            y = layers.Dense(7, name=f"block_{block}.dense_{number}")(y)
    graph = plots.fold(plots.read_graph(keras.Model(x, y)))
    assert graph.repeats == {"block_0": 3}
    assert len(graph.nodes) == 1 + 5


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_the_requested_number_of_blocks_is_kept_and_the_last_stands_for_the_rest(keep):
    graph = plots.fold_blocks(dense_stack([11] * 5), keep)
    assert graph.repeats == {f"block_{keep - 1}": 5 - keep + 1}
    assert sum(node.label == "up" for node in graph.nodes) == keep


def test_keeping_all_blocks_changes_nothing():
    graph = dense_stack([11] * 3)
    assert plots.fold_blocks(graph, 3) == graph
    assert plots.fold(graph, blocks=None) == graph


def towers(blocks):
    """Return towers of equal blocks, with the given number of blocks each."""
    x = keras.Input((7,), name="x")
    y = x
    for tower, number in enumerate(blocks):
        for block in range(number):
            y = layers.Dense(11, name=f"tower_{tower}.block_{block}.up")(y)
            y = layers.Dense(7, name=f"tower_{tower}.block_{block}.down")(y)
    return plots.read_graph(keras.Model(x, y))


def calls_that_there_were(graph):
    """Return label -> number of calls in the unfolded graph that folded calls stand for."""
    found = dict.fromkeys((node.label for node in graph.nodes), 0)
    for node in graph.nodes:
        around = [
            node.namespace.rsplit(".", depth)[0] for depth in range(node.namespace.count(".") + 1)
        ]
        times = [graph.repeats.get(namespace, 1) for namespace in {node.id, *around}]
        found[node.label] += math.prod(times)
    return found


@pytest.mark.parametrize("then", [1, 2, 3])
@pytest.mark.parametrize("keep", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "make",
    [
        lambda: dense_stack([11] * 5),
        lambda: dense_stack([11, 13] * 5),
        lambda: dense_stack([3, 11, 11, 11, 11, 5, 11, 11]),
        lambda: towers([5, 5, 5]),
        lambda: towers([3, 3, 4]),
    ],
    ids=["equal", "turns", "mixed", "towers", "other towers"],
)
def test_folding_a_folded_graph_counts_every_block_once(make, keep, then):
    graph = make()
    again = plots.fold(plots.fold(graph, blocks=keep), blocks=then)
    assert calls_that_there_were(again) == calls_that_there_were(graph)
    assert set(again.repeats) <= {
        *again.index,
        *find_namespaces(again).values(),
        *outer_namespaces(again),
    }
    check_graph(again)


def outer_namespaces(graph):
    return {namespace.rpartition(".")[0] for namespace in find_namespaces(graph).values()}


def test_folding_again_repeats_no_note():
    once = plots.fold(dense_stack([11, 11, 11, 11, 13]), blocks=2)
    assert len(plots.fold(once).notes) == len(once.notes) == 1


@pytest.mark.parametrize(
    ("factor", "message"),
    [(3.0, "Multiply takes other constants"), (None, "Add in place of Multiply")],
)
def test_a_note_names_unnamed_calls_by_their_class(factor, message):
    x = keras.Input((7,), name="x")
    y = x
    for number, by in enumerate([2.0, 2.0, 2.0, factor]):
        y = layers.Dense(7, name=f"block_{number}.up")(y)
        y = y + y if by is None else y * by
        y = layers.Dense(7, name=f"block_{number}.down")(y)
    (note,) = plots.fold(plots.read_graph(keras.Model(x, y))).notes
    assert note.text == f"block_3 differs from block_0: {message}"


def test_numbered_single_layers_fold_too():
    """Like the blocks of KerasHub's backbones, each of which is one layer."""
    x = keras.Input((5, 6), name="x")
    mask = keras.Input((5, 5), dtype="bool", name="mask")
    y = x
    for number in range(12):
        y = layers.MultiHeadAttention(3, 2, name=f"transformer_layer_{number}")(
            y, y, attention_mask=mask
        )
    graph = plots.fold(plots.read_graph(keras.Model([x, mask], layers.Dense(7, name="out")(y))))
    assert graph.repeats == {"transformer_layer_0": 12}
    assert ids(graph) == ["x", "mask", "transformer_layer_0", "out"]


def test_layers_with_equal_configuration_but_other_input_widths_are_not_equal():
    """Like the convolutions of a VGG block: the first one widens, and has fewer weights."""
    x = keras.Input((5,), name="x")
    y = x
    for number in range(1, 5):
        y = layers.Dense(7, name=f"block1_dense{number}")(y)
    graph = plots.fold(plots.read_graph(keras.Model(x, y)))
    assert graph.repeats == {"block1_dense2": 3}
    (note,) = graph.notes
    assert note.text.endswith(f"has {7 * 5 + 7} parameters, not {7 * 7 + 7}")


def test_lettered_blocks_are_numbered_too():
    """Like those of EfficientNet."""
    graph = plots.fold(dense_stack([11, 13, 13, 13], "block6{}", "abcd"))
    assert graph.repeats == {"block6b": 3}


def test_blocks_that_do_not_feed_each_other_are_not_folded():
    x = keras.Input((7,), name="x")
    heads = [layers.Dense(7, name=f"head_{number}")(x) for number in range(4)]
    graph = plots.fold(plots.read_graph(keras.Model(x, heads)))
    assert graph.repeats == {}
    assert len(graph.outputs) == 4


def test_outputs_of_removed_blocks_come_from_their_stand_in():
    x = keras.Input((7,), name="x")
    states = [x]
    for number in range(4):
        states.append(layers.Dense(7, name=f"block_{number}.dense")(states[-1]))
    graph = plots.fold(plots.read_graph(keras.Model(x, states[1:])))
    assert graph.outputs == (("block_0.dense", 0),) * 4


def test_inputs_of_removed_blocks_are_removed():
    """Like the caches of a decode step, one per block."""
    x = keras.Input((7,), name="x")
    y, caches = x, []
    for number in range(3):
        caches.append(keras.Input((7,), name=f"block_{number}.cache"))
        y = layers.Dense(7, name=f"block_{number}.dense")(y + caches[-1])
    graph = plots.read_graph(keras.Model([x, *caches], y))
    for folded, inputs in (
        (plots.fold(graph), {"x", "block_0.cache"}),
        (plots.fold(graph, depth=0), {"x", "block_0.*"}),
    ):
        assert set(folded.inputs) == inputs
        check_graph(folded)


# Numbered names


@pytest.mark.parametrize(
    ("name", "stem", "number"),
    [
        ("block_3", "block_", 3),
        ("decoder.block_12", "decoder.block_", 12),
        ("block@2", "block@", 2),
        ("add#7", "add#", 7),
        ("block3a", "block3", 0),
        ("tower.block6c", "tower.block6", 2),
        ("5", "", 5),
    ],
)
def test_numbered_and_with_number_are_inverse(name, stem, number):
    assert numbered(name) == (stem, number)
    assert with_number(stem, number) == name
    assert enclosing_block(f"{name}.inside.of_it") == name


@pytest.mark.parametrize(
    "name", ["", "block", "a.block_3.norm", "conv2d", "a.max_pooling2d", "b3A"]
)
def test_names_without_a_number_of_their_own_are_not_numbered(name):
    assert numbered(name) is None


def lettered(stages, blocks):
    """Return stages of different widths; all blocks but the first of each have a skip path."""
    x = keras.Input((7,), name="x")
    y = layers.Dense(11, name="stem")(x)
    for stage in range(2, stages + 2):
        for letter in "abcdef"[:blocks]:
            name = f"block{stage}{letter}"
            branch = layers.Dense(13 * stage, activation="relu", name=f"{name}_up")(y)
            branch = layers.Dense(11 * stage, name=f"{name}_down")(branch)
            branch = layers.LayerNormalization(name=f"{name}_norm")(branch)
            y = branch if letter == "a" else layers.Add(name=f"{name}_add")([y, branch])
    return plots.read_graph(keras.Model(x, layers.Dense(5, name="out")(y)))


def test_an_outline_has_a_node_for_each_part_of_lettered_blocks():
    graph = plots.list_plugins()["outline"](lettered(3, 2))
    stages = [
        (
            f"block{n}a.*",
            f"block{n}a_norm",
            f"block{n}b.branch.*",
            f"block{n}b_norm",
            f"block{n}b_add",
        )
        for n in (2, 3, 4)
    ]
    assert ids(graph) == ["x", "stem", *itertools.chain(*stages), "out"]
    check_graph(graph)


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
    assert ids(closed) == ["x", "model.embedding", "model.stack.*", "outside", "model.out"]
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
    assert ids(plots.fold(once, depth=1)) == ids(plots.fold(marked("pair"), depth=1))


def first_token_of_a_stack():
    """Return three blocks of x + f(x) with unnamed sums, and an unnamed first-token slice."""
    x = y = keras.Input((7, 5), name="x")
    for number in range(3):
        inside = layers.Dense(11, name=f"block_{number}.up")(y)
        y = y + layers.Dense(5, name=f"block_{number}.down")(inside)
    pooled = layers.Dense(3, name="pooled")(y[:, 0])
    return keras.Model(x, [y, pooled])


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
