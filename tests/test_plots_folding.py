"""Folding: runs of equal blocks, and numbered names."""

import functools
import itertools
import math

import keras
import pytest
from keras import layers

import plots
from plots.annotations import Quantity
from plots.graph import check_graph
from plots.hierarchy import (
    enclosing_block,
    enclosing_namespaces,
    find_namespaces,
    numbered,
    with_number,
)
from plots.skips import mark_skip_paths


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


def test_single_layers_within_folded_blocks_are_not_folded():
    x = keras.Input((7,), name="x")
    y = x
    for block in range(3):
        for number in range(5):
            y = layers.Dense(7, name=f"block_{block}.dense_{number}")(y)
    graph = plots.fold(plots.read_graph(keras.Model(x, y)))
    assert graph.repeats == {"block_0": 3}
    assert len(graph.nodes) == 1 + 5


@pytest.mark.parametrize(
    ("name", "stage", "keep"),
    [
        ("s{}_b{}_{}", "s{}", 1),
        ("s{}_b{}_{}", "s{}", 2),
        ("stage{}.block{}.{}", "stage{}", 1),
        ("block_{}_{}_{}", "block_{}", 1),  # whose inner blocks have no names of their own
    ],
)
def test_equal_blocks_within_equal_stages_are_folded_in_them(name, stage, keep):
    x = y = keras.Input((11, 7), name="x")
    for outer in range(3):
        for inner in range(5):
            h = layers.LayerNormalization(name=name.format(outer, inner, "norm"))(y)
            y = y + layers.Dense(7, name=name.format(outer, inner, "mlp"))(h)
    graph = plots.flops(plots.parameters(plots.shapes(plots.read_graph(keras.Model(x, y)))))
    folded = plots.fold(mark_skip_paths(graph), blocks=keep)
    assert len(folded.nodes) == 1 + 3 * keep * keep
    assert [*folded.repeats.values()] == [3 - keep + 1] + keep * [5 - keep + 1]
    assert {stage.format(keep - 1)} < folded.repeats.keys()
    assert all(name.startswith(stage.format("")) for name in folded.repeats)
    expected = {"parameters": 15 * (7 * 7 + 7 + 2 * 7), "flops": {"b": 15 * 2 * 11 * 7 * 7}}
    for kind, total in expected.items():
        overlay = folded.overlay(kind)
        counted = [
            overlay.values[node.id] * stands_for(folded, node)
            for node in folded.nodes[1:]
            if node.id in overlay.values
        ]
        assert sum(counted, Quantity()) == Quantity(total) == overlay.whole


def stands_for(graph, node):
    """Return the number of calls in the unfolded graph that a folded call stands for."""
    return math.prod(graph.repeats.get(name, 1) for name in enclosing_namespaces(node.namespace))


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


@pytest.mark.sampled(15)
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


def bottlenecks(blocks):
    """Return residual blocks in a stage as in ResNet50V2: the last one has strides of 2."""
    x = y = keras.Input((13, 13, 3), name="x")
    for number in range(1, blocks + 1):
        name, strides = f"conv3_block{number}", 2 if number == blocks else 1
        shortcut = layers.Conv2D(7, 1, name=f"{name}_0_conv")(y) if number == 1 else y
        shortcut = layers.MaxPooling2D(1, strides)(y) if strides > 1 else shortcut
        h = layers.Conv2D(5, 1, name=f"{name}_1_conv")(y)
        h = layers.Conv2D(7, 3, strides, padding="same", name=f"{name}_2_conv")(h)
        y = layers.Add(name=f"{name}_out")([shortcut, h])
    return plots.read_graph(keras.Model(x, y))


def test_a_note_says_how_a_block_differs_from_the_usual_ones_and_not_from_the_first():
    graph = plots.fold(bottlenecks(5))
    (note,) = (note for note in graph.notes if note.kind == "deviates")
    assert graph.repeats == {"conv3.block1": 4}
    assert note.text == (
        "conv3.block5 differs from conv3.block1: it also has MaxPooling2D, and strides of 2_conv "
        "is 2×2, not 1×1"
    )


def test_a_note_has_shapes_as_a_picture_has():
    x = y = keras.Input((13, 7), name="x")
    for number, width in enumerate([7, 7, 7, 11]):
        y = layers.Activation("relu", name=f"block_{number}.act")(y)
        y = layers.Dense(width, name=f"block_{number}.up")(y)
        y = layers.Dense(7, name=f"block_{number}.down")(y) if number > 3 else y
    y = layers.Dense(5, name="block_4.up")(layers.Activation("relu", name="block_4.act")(y))
    graph = plots.fold(plots.read_graph(keras.Model(x, y)))
    texts = [note.text for note in graph.notes if note.kind == "deviates"]
    assert texts == [
        "block_3 differs from block_0: units of up is 11, not 7",
        "block_4 differs from block_3: act returns (None, 13, 11), not (None, 13, 7)",
    ]


@pytest.mark.parametrize(("parts", "texts"), [(2, 1), (3, 0)])
def test_a_block_of_another_kind_is_no_deviation(parts, texts):
    """One with several calls that the usual block lacks, and without several that it has."""
    x = y = keras.Input((7,), name="x")
    for number, kind in enumerate(["usual", "usual", "usual", "other"]):
        for part in range(parts):
            name = f"block_{number}.{kind}_{part}"
            y = layers.Dense(7, use_bias=kind == "usual", name=name)(y)
        y = layers.ReLU(name=f"block_{number}.act")(y)
    graph = plots.fold(plots.read_graph(keras.Model(x, y)))
    assert graph.repeats["block_0"] == 3
    assert len([note for note in graph.notes if note.kind == "deviates"]) == texts


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
